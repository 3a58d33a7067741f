"""`modelsync explain|snap`: where an update's bytes went, and what rounding it before publishing would spare."""

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
    """Add the commands to the main one."""
    app.command("explain")(explain)
    app.command("snap")(snap)


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


def snap(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The version that devices hold.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The version that you meant to publish.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write the rounded version.")],
    drift: Annotated[
        float, typer.Option(min=0.0, help="Most drift, as a share of the update's own effect (0.015 is 1.5 %).")
    ] = 0.015,
    inputs: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Inputs to measure an ONNX model with; default: random.")
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Measure drift in the weights, not the answers.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw drift against bytes.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Round an update within a drift, so that it costs fewer bytes. Lossy: the file is not the one you trained."""
    from modelsync_server.rounding.snapper import snap_file

    found = snap_file(old, new, out, drift=drift, inputs=inputs, weights=weights)
    if plot is not None:
        from modelsync_server.cli.pictures import curve

        plot.write_text(curve(found), encoding="utf-8")
    if as_json:
        points = [
            {"step": p.step, "drift": p.drift, "weights_drift": p.weights, "bytes": p.bytes} for p in found.points
        ]
        chosen = found.points.index(found.chosen)
        print_json({"measured": found.measured, "exact_bytes": found.exact_bytes, "points": points, "chosen": chosen})
        return
    typer.echo(f"exact: an update costs about {found.exact_bytes:,} bytes. Drift is measured in {found.measured}.")
    tables.show(
        ("step", "drift", "in the weights", "update", "of exact", ""),
        [
            (
                f"{p.step:g}",
                f"{100 * p.drift:.3g} %",
                f"{100 * p.weights:.3g} %",
                f"{p.bytes:,}",
                f"{100 * p.bytes / found.exact_bytes:.1f} %",
                "written" if p is found.chosen else "",
            )
            for p in found.points
        ],
        right=("step", "drift", "in the weights", "update", "of exact"),
    )
    typer.echo(f"{out}: {found.tensors} tensor(s) rounded; the others, and all other bytes, are NEW's.")
