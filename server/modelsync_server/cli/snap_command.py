"""`modelsync snap`: rounds an update before it is published, and shows drift against bytes. Lossy, and the author's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelsync_server.cli import tables
from modelsync_server.cli.options import JsonOption, print_json


def register(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command("snap")(snap)


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
    from modelsync_server.publish.snapper import snap_file

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
