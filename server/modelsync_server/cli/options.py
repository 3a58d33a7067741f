"""Arguments and options that several commands share, and what completes them in a shell."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from modelsync_server.library.store import Store


def _models(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the store's models. Whatever goes wrong while a shell completes, it must see nothing of it."""
    try:
        return [name for name in open_store(context.params["store"]).names() if name.startswith(incomplete)]
    except Exception:  # no store yet, no network, half a word: then there is nothing to offer
        return []


StoreArgument = Annotated[
    str, typer.Argument(metavar="STORE", help="A directory, azblob://ACCOUNT/CONTAINER, s3://BUCKET or gs://BUCKET.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.", autocompletion=_models)]
KeysOption = Annotated[str | None, typer.Option("--keys", help="Folder of the private keys (default: MODELSYNC_KEYS).")]


class ProgressForm(enum.StrEnum):
    """How progress is told."""

    AUTO = "auto"
    BAR = "bar"
    JSON = "json"
    NONE = "none"


ProgressOption = Annotated[
    ProgressForm,
    typer.Option(
        "--progress",
        envvar="MODELSYNC_PROGRESS",
        help="How far it is, on standard error: a bar, one JSON object a line (json), nothing (none); "
        "auto: a bar on a terminal.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

# Of rollouts:
ByOption = Annotated[str | None, typer.Option(help="Who does it, for the record; default: USER@HOST.")]
VersionOption = Annotated[int | None, typer.Option(help="Default: the newest signed one.")]
RingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ring",
        help="NAME:CONDITION on tags (query language), NAME:10%,50%,100% of a stable hash, or NAME:@FILE with a device "
        "id per line; in the order in which they are asked.",
    ),
]
FileOption = Annotated[Path | None, typer.Option("--rings", help="A TOML or JSON file with [[ring]] tables.")]
ModuleOption = Annotated[str | None, typer.Option("--module", help="To modules of this name, by the modules' tags.")]
EdgeOption = Annotated[
    str | None, typer.Option("--edge-module", help="To IoT Edge modules of this name, by their devices' tags.")
]
ActiveOption = Annotated[str, typer.Option(help="Devices of a ring that must serve it: a number, or a share.")]
FailuresOption = Annotated[str, typer.Option(help="Largest share that may refuse it or roll back.")]
SoakOption = Annotated[str, typer.Option(help="Time that must pass when enough are active.")]
WaitOption = Annotated[str, typer.Option(help="Longest wait for a ring; then the rollout stops.")]
KeepOption = Annotated[bool, typer.Option("--keep-failed", help="A ring that fails keeps the version: only stop.")]
PriceOption = Annotated[float | None, typer.Option(min=0, help="Price of a gigabyte (10⁹ bytes).")]
CurrencyOption = Annotated[str, typer.Option(help="Of the price.")]
SilentOption = Annotated[float, typer.Option(min=0, help="Days without contact after which a device counts as silent.")]
TierOption = Annotated[
    str,
    typer.Option(
        "--tier",
        help="The hub's tier, below whose rates it stays: S1, S2, S3; none: a local hub without rates.",
        envvar="MODELSYNC_HUB_TIER",
    ),
]


def open_store(store: str, keys: str | None = None) -> Store:
    """The library's store that the arguments name."""
    from modelsync_server.library.store import open_store as opened

    return opened(store, keys=keys)


def print_json(document: object) -> None:
    """One line of JSON."""
    typer.echo(json.dumps(document))
