"""Arguments and options that several commands share, and what completes them in a shell."""

from __future__ import annotations

import json
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


StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A directory, or azblob://ACCOUNT/CONTAINER.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.", autocompletion=_models)]
KeysOption = Annotated[str | None, typer.Option("--keys", help="Folder of the private keys (default: MODELSYNC_KEYS).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def open_store(store: str, keys: str | None = None) -> Store:
    """The library's store that the arguments name."""
    from modelsync_server.library.store import open_store as opened

    return opened(store, keys=keys)


def print_json(document: object) -> None:
    """One line of JSON."""
    typer.echo(json.dumps(document))
