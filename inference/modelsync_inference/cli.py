"""The command `modelsync-infer`: arguments and exit codes. What serves is in server_process.py."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from modelsync_inference import engine_options
from modelsync_inference.edge import options
from modelsync_inference.follow.memory_policy import Policy
from modelsync_inference.processes.isolation import Isolation
from modelsync_protocol import names, near_names
from modelsync_protocol.errors import LocalError, ModelsyncError, RefusedError, UsageError

_BACKLOG = 1024
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_ALLOW_CODE = "MODELSYNC_ALLOW_CODE"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        raise UsageError(f"{message}{near_names.argparse_hint(message, options)} (see modelsync-infer --help).")


class _ShowVersion(argparse.Action):
    """`--version`; what is installed is asked only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        sys.stdout.write(f"{parser.prog} {version('modelsync-inference')}\n")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Serve until SIGTERM or SIGINT; never returns. Exit codes: 0 done, 2 wrong usage, 3 unconfined, 5 local."""
    try:
        arguments = _parse(argv)
        logging.basicConfig(level=arguments.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
        code = _run(arguments)
    except ModelsyncError as error:
        sys.stderr.write(f"modelsync-infer: {error}\n")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a session that is being created in the background can't be interrupted, only left behind.
    os._exit(code)


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.data.exists():
        logging.getLogger(__name__).warning("%s does not exist yet; waiting for it.", arguments.data)
    with _listening(arguments.host, arguments.port) as listener:
        for name in _ONE_THREAD:
            # Before the first import of NumPy: a process with threads can't be forked, and nothing here computes.
            os.environ.setdefault(name, "1")
        # Not before the arguments are known to be good: these take half a second on a fast machine.
        from modelsync_inference.runtimes import onnx_host

        onnx_host.check()
        _check_confinement(arguments.require_confinement)
        from modelsync_inference import server_process

        if not arguments.supervise:
            return server_process.serve(arguments, listener)
        from modelsync_inference.processes import supervisor, zygote

        zygote.get_ready()
        return supervisor.supervise(listener, lambda start: server_process.serve(arguments, listener, start))


def _check_confinement(required: bool) -> None:
    """Say what this machine lacks; RefusedError if it must not lack anything."""
    from modelsync_inference.confinement.reader import available

    lacking = available().lacking
    if lacking and required:
        raise RefusedError(f"--require-confinement: {' '.join(lacking)}")
    for sentence in lacking:
        logging.getLogger(__name__).warning("models are confined less than they could be: %s", sentence)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket, IPv4 where a name has both; LocalError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise LocalError(f"can't listen on {host} port {port}: {error.strerror or error}; choose another.") from error
    with listener:
        yield listener


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="modelsync-infer",
        description="Serve models of a modelsync data directory over the Open Inference Protocol v2 (HTTP).",
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the daemon's data directory")
    parser.add_argument(
        "--model", required=True, action="append", metavar="NAME", help="a model to serve; may be given several times"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=0, type=int, help="port to listen on; 0, the default: any free one")
    parser.add_argument("--threads", default=1, type=int, help="threads inside one inference (default: %(default)s)")
    parser.add_argument("--workers", default=2, type=int, help="inferences at the same time (default: %(default)s)")
    parser.add_argument(
        "--isolation",
        default=Isolation.PROCESS.value,
        choices=[kind.value for kind in Isolation],
        help="run each version in a process of its own, or in threads of the server (default: %(default)s)",
    )
    parser.add_argument(
        "--policy",
        default=Policy.AUTO.value,
        choices=[policy.value for policy in Policy],
        help="load a new version beside the old one (availability), instead of it while requests wait (resource), or "
        "whichever the memory allows (default: %(default)s)",
    )
    parser.add_argument(
        "--memory-budget-mib", type=int, metavar="MIB", help="memory for `auto`; default: what the system has left"
    )
    parser.add_argument(
        "--prepack",
        default="auto",
        choices=["auto", "on", "off"],
        help="repack weights for speed; auto: only small models",
    )
    parser.add_argument(
        "--arena",
        default="auto",
        choices=["auto", "on", "off"],
        help="keep the memory of runs for the next; auto: only small models",
    )
    parser.add_argument(
        "--queue-seconds", default=5.0, type=float, help="how long requests wait for room (default: %(default)s)"
    )
    parser.add_argument(
        "--load-seconds", default=25.0, type=float, help="patience with a load or a probe (default: %(default)s)"
    )
    parser.add_argument("--run-seconds", default=30.0, type=float, help="patience with a run (default: %(default)s)")
    parser.add_argument("--canary", default=0.0, type=float, help="share of requests for a version on trial, 0 to 1")
    parser.add_argument("--shadow", default=0.0, type=float, help="share that it is given as well, to compare answers")
    parser.add_argument("--trial-seconds", default=30.0, type=float, help="length of a trial (default: %(default)s)")
    parser.add_argument("--min-agreement", default=0.0, type=float, help="share of rows that have to agree, 0 to 1")
    parser.add_argument(
        "--allow-code",
        default=[],
        action="append",
        metavar="NAME",
        help="let model NAME be a pickle or an Azure ML scoring script, confined; may be given several times, or as a "
        f"list with commas in {_ALLOW_CODE}",
    )
    parser.add_argument(
        "--code-memory-mib",
        default=512,
        type=int,
        metavar="MIB",
        help="memory for a process of such code, beyond its libraries (default: %(default)s)",
    )
    parser.add_argument(
        "--require-confinement",
        action="store_true",
        help="don't start (exit code 3) where a layer of the models' confinement is missing",
    )
    parser.add_argument(
        "--max-batch-size",
        default=1,
        type=int,
        metavar="ROWS",
        help="run requests together up to so many rows, where the model allows it; 1, the default: never",
    )
    parser.add_argument(
        "--max-queue-delay-microseconds",
        default=0,
        type=int,
        metavar="N",
        help="how long a request may wait for others to run with (default: %(default)s, only while all runs are busy)",
    )
    parser.add_argument(
        "--max-request-mib", default=64, type=int, metavar="MIB", help="longest request (default: %(default)s)"
    )
    parser.add_argument(
        "--drain-seconds",
        default=10.0,
        type=float,
        help="how long requests that have begun may take after SIGTERM (default: %(default)s)",
    )
    parser.add_argument(
        "--supervise",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start the serving process again if it is killed (default: yes)",
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="default: %(default)s"
    )
    engine_options.add_arguments(parser)
    options.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="accepted for symmetry; the ready line is always JSON")
    if "_ARGCOMPLETE" in os.environ:  # a shell completes; at any other time nothing is loaded for it
        with contextlib.suppress(ImportError):
            import argcomplete

            argcomplete.autocomplete(parser)
    arguments = parser.parse_args(argv)
    arguments.allow_code += [name.strip() for name in os.environ.get(_ALLOW_CODE, "").split(",") if name.strip()]
    for name in (*arguments.model, *arguments.allow_code):
        names.check_model_name(name)
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port} is not a port; use 0 to 65535.")
    if arguments.require_confinement and arguments.isolation != Isolation.PROCESS.value:
        raise UsageError("--require-confinement needs --isolation process: in threads nothing is confined.")
    for option in ("threads", "workers", "max_request_mib"):
        if not 1 <= getattr(arguments, option) <= 1024:
            raise UsageError(f"--{option.replace('_', '-')} must be from 1 to 1024.")
    if arguments.code_memory_mib < 1:
        raise UsageError("--code-memory-mib must be at least 1.")
    if not 1 <= arguments.max_batch_size <= 65536 or not 0 <= arguments.max_queue_delay_microseconds <= 10_000_000:
        raise UsageError("--max-batch-size is from 1 to 65536, --max-queue-delay-microseconds from 0 to 10000000.")
    engine_options.check(arguments)
    if arguments.data.exists() and not arguments.data.is_dir():
        raise UsageError(f"--data {arguments.data} is not a directory.")
    arguments.edge_options = options.read(arguments)
    return arguments
