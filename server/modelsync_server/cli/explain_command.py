"""`modelsync explain`: shows where a published update's bytes went, as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelsync_server.cli import documents, tables
from modelsync_server.cli.options import JsonOption, NameArgument, StoreArgument, open_store, print_json

if TYPE_CHECKING:
    from modelsync_server import Explanation

_MOST_PARTS = 30
"""Parts that a person is shown without --all."""

PictureOption = Annotated[
    Path | None, typer.Option("--picture", metavar="FILE.svg", help="Write where the bytes went as a treemap.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command("explain")(explain)


def explain(
    store: StoreArgument,
    name: NameArgument,
    old: Annotated[int, typer.Argument(metavar="A", help="The version that a device holds.")],
    new: Annotated[int, typer.Argument(metavar="B", help="The version that it fetches.")],
    every: Annotated[bool, typer.Option("--all", help=f"All parts, not the {_MOST_PARTS} dearest.")] = False,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where an update's bytes went, per tensor and encoding."""
    found = open_store(store).explain(name, old, new)
    if picture is not None:
        draw(found, picture)
    if as_json:
        print_json(documents.explanation(found))
    else:
        tell(found, every)


def draw(found: Explanation, picture: Path) -> None:
    """Write the treemap to a file."""
    from modelsync_server.cli.pictures import treemap

    picture.write_text(treemap(found), encoding="utf-8")


def tell(found: Explanation, every: bool) -> None:
    """Print the totals by encoding, and the parts that paid."""
    typer.echo(f"{found.name} {found.old} -> {found.new}: {found.bytes:,} bytes")
    totals = {**found.encodings, "header": found.header_bytes}
    tables.show(
        ("encoding", "bytes", "share"),
        [(name, f"{cost:,}", _share(cost, found)) for name, cost in totals.items()],
        right=("bytes", "share"),
    )
    typer.echo("")
    paying = [part for part in found.parts if part.bytes]
    shown = paying if every else paying[:_MOST_PARTS]
    tables.show(
        ("file", "tensor", "holds", "update", "share", "encodings"),
        [
            (
                part.path,
                "(the rest)" if part.tensor is None else part.tensor or "(unnamed)",
                f"{part.size:,}",
                f"{part.bytes:,}",
                _share(part.bytes, found),
                ", ".join(f"{name} {cost:,}" for name, cost in part.encodings.items() if cost),
            )
            for part in shown
        ],
        right=("holds", "update", "share"),
    )
    if len(shown) < len(paying):
        typer.echo(f"{len(paying) - len(shown)} more part(s) paid; --all shows them.")
    if len(paying) < len(found.parts):
        typer.echo(f"{len(found.parts) - len(paying)} part(s) paid nothing: they are copied, or cost less than a byte.")


def _share(cost: int, found: Explanation) -> str:
    return f"{100 * cost / found.bytes:.1f} %"
