"""The arguments of `modelsync-infer --edge`, read and checked. Nothing is connected here."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelsync_inference.edge.rules import Fields, SampleRule, parse_fields, parse_sample
from modelsync_protocol.errors import UsageError

CONNECTION_VARIABLE = "MODELSYNC_EDGE_CONNECTION"
_WORKLOAD_VARIABLE = "IOTEDGE_WORKLOADURI"
_MAX_QUEUE = 1_000_000


@dataclass(frozen=True, slots=True)
class EdgeIdentity:
    """Who the module is: a connection string, or (None) IoT Edge's environment. `ca`: PEM text to trust."""

    connection_string: str | None = None
    ca: str | None = None


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """How messages become answers; the defaults are those of the command line."""

    identity: EdgeIdentity = field(default_factory=EdgeIdentity)
    output: str = "answers"
    all_output: str | None = None
    error_output: str | None = "errors"
    fields: Fields = field(default_factory=dict)
    sample: SampleRule | None = None
    include_inputs: bool = False
    queue: int = 1000
    drop_newest: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--edge` and what belongs to it."""
    group = parser.add_argument_group("as an IoT Edge module")
    group.add_argument(
        "--edge",
        action="store_true",
        help="also score the messages that routes bring to this module's inputs, and send the answers to an output",
    )
    group.add_argument("--edge-output", default="answers", metavar="NAME", help="output for answers (%(default)s)")
    group.add_argument(
        "--edge-sample", metavar="HOW", help="what of the answers goes there: every:10, change:0.5, mean:60 or mean:60s"
    )
    group.add_argument("--edge-all-output", metavar="NAME", help="a second output, for every answer")
    group.add_argument(
        "--edge-fields",
        action="append",
        default=[],
        metavar="[INPUT=]A,B,…",
        help="the message's fields that make up an input's row, in order; default: a field with the input's name",
    )
    group.add_argument("--edge-include-inputs", action="store_true", help="answers carry the model's inputs, too")
    group.add_argument(
        "--edge-errors",
        default="send",
        choices=["send", "drop"],
        help="what becomes of bad messages: sent to the "
        "output `errors` with a sentence, or dropped; both are logged (default: %(default)s)",
    )
    group.add_argument(
        "--edge-queue",
        default=1000,
        type=int,
        metavar="N",
        help="messages and answers that may wait (%(default)s each)",
    )
    group.add_argument(
        "--edge-full",
        default="drop-oldest",
        choices=["drop-oldest", "drop-newest"],
        help="when a queue is full (default: %(default)s)",
    )
    group.add_argument(
        "--edge-connection-file",
        type=Path,
        metavar="FILE",
        help=f"a module's connection string, outside IoT Edge (or {CONNECTION_VARIABLE} in the environment)",
    )
    group.add_argument("--edge-ca", type=Path, metavar="FILE", help="the CA of the hub, with a connection string")


def read(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> EdgeOptions | None:
    """The options, or None without `--edge`; UsageError."""
    if not arguments.edge:
        return None
    if len(arguments.model) != 1:
        raise UsageError("--edge scores messages with one model: give --model once, and run a module per model.")
    if not 1 <= arguments.edge_queue <= _MAX_QUEUE:
        raise UsageError(f"--edge-queue must be from 1 to {_MAX_QUEUE}.")
    for option in ("edge_output", "edge_all_output"):
        name = getattr(arguments, option)
        if name is not None and not (name.isprintable() and name and not set(name) & set("/*#+ ")):
            raise UsageError(f"--{option.replace('_', '-')} {name!r:.60} is not an output's name.")
    if importlib.util.find_spec("azure") is None or importlib.util.find_spec("azure.iot") is None:
        raise UsageError("--edge needs azure-iot-device: install modelsync-inference[edge].")
    return EdgeOptions(
        identity=_identity(arguments, environment),
        output=arguments.edge_output,
        all_output=arguments.edge_all_output,
        error_output="errors" if arguments.edge_errors == "send" else None,
        fields=parse_fields(arguments.edge_fields),
        sample=None if arguments.edge_sample is None else parse_sample(arguments.edge_sample),
        include_inputs=arguments.edge_include_inputs,
        queue=arguments.edge_queue,
        drop_newest=arguments.edge_full == "drop-newest",
    )


def _identity(arguments: argparse.Namespace, environment: Mapping[str, str]) -> EdgeIdentity:
    text = environment.get(CONNECTION_VARIABLE) or None
    if arguments.edge_connection_file is not None:
        text = _read(arguments.edge_connection_file, "--edge-connection-file").strip()
    if text is None:
        if _WORKLOAD_VARIABLE not in environment and "EdgeHubConnectionString" not in environment:
            raise UsageError(
                "--edge needs IoT Edge's environment, or a module's connection string in --edge-connection-file or "
                f"{CONNECTION_VARIABLE}."
            )
        return EdgeIdentity()
    keys = {part.partition("=")[0] for part in text.split(";")}
    lacking = sorted({"HostName", "DeviceId", "ModuleId", "SharedAccessKey"} - keys)
    if lacking:
        raise UsageError(
            f"the connection string for --edge lacks {', '.join(lacking)}; only modules have inputs: copy a module's."
        )
    return EdgeIdentity(text, None if arguments.edge_ca is None else _read(arguments.edge_ca, "--edge-ca"))


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{what} {path} can't be read: {reason}.") from error
