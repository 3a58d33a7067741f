"""`modelsync explain|snap|retain|gc|upgrade-store`: where an update's bytes went, what rounding it would spare, and
what a store keeps."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.cli import documents, tables
from modelsync_server.cli.options import (
    JsonOption,
    KeysOption,
    NameArgument,
    ProgressForm,
    ProgressOption,
    StoreArgument,
    open_store,
    print_json,
)

if TYPE_CHECKING:
    from modelsync_server import Explanation
    from modelsync_server.retention.policy import Policy, Use
    from modelsync_server.retention.references import Progress
    from modelsync_server.retention.retaining import Plan

_MOST_PARTS = 30
"""Parts that a person is shown without --all."""

_MOST_HOURS = 24 * 36_500

PictureOption = Annotated[
    Path | None, typer.Option("--picture", metavar="FILE.svg", help="Write where the bytes went as a treemap.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command("explain")(explain)
    app.command("snap")(snap)
    app.command("retain")(retain)
    app.command("gc")(gc)
    app.command("upgrade-store")(upgrade_store)


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


KeepReportedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-reported",
        metavar="HUB",
        help="Keep every version that a twin of this hub reports or desires; as --service has it, or the state "
        "directory of a local hub. Once for each hub.",
    ),
]


def retain(
    store: StoreArgument,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The model; default: all.")] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Keep so many of the newest versions of each model.")] = None,
    keep_reported: KeepReportedOption = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=0, help="Let the oldest go until what live versions need takes no more, bytes.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    progress: ProgressOption = ProgressForm.AUTO,
    keys: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prune old versions, with the packs and updates that only they need; `gc` then frees them."""
    from modelsync_server.cli import progress as progress_of
    from modelsync_server.library.store import open_store as opened
    from modelsync_server.retention.policy import Policy

    found = opened(store, keys=keys)
    if not dry_run:
        found.keys()  # keys that are missing are told before anything is read
    with progress_of.shown(progress, "retain", last=dry_run) as update:
        made = asyncio.run(_planned(found.url, name, Policy(keep, max_bytes), keep_reported or [], update))
    if not as_json or not (dry_run or yes):
        _tell_plan(made, err=as_json)
        if made.prune and not keep_reported:
            typer.echo("No hub was asked who runs them: --keep-reported HUB keeps what is in use.", err=True)
    pruned = bool(made.prune) and not dry_run
    if pruned and not yes:
        confirm("Prune these versions?")
    if not dry_run:
        with progress_of.shown(progress, "retain", progress_of.AGAIN) as update:
            found.prune(made, progress=update)
        if pruned and not as_json:
            typer.echo("Pruned; `modelsync gc` frees them once they are a day old.")
    if as_json:
        print_json(
            {
                "prune": {model: list(versions) for model, versions in made.prune.items()},
                "objects": made.objects,
                "bytes": made.bytes,
                "stays": made.stays,
                "stranded": [dataclasses.asdict(each) for each in made.stranded],
                "pruned": pruned,
            }
        )


async def _planned(store: str, name: str | None, rule: Policy, hubs: list[str], progress: Progress) -> Plan:
    """The plan, after asking each hub what its twins say of each model that is looked at."""
    from modelsync_server.cli.hub_access import open_hub
    from modelsync_server.retention.fleet_use import together, use_of
    from modelsync_server.retention.retaining import plan
    from modelsync_server.rollout.pacing import PacedHub
    from modelsync_server.store import open_store as objects
    from modelsync_server.trust import read_catalogue

    found = objects(store)
    uses: dict[str, Use] = {}
    models = [name] if name else sorted((await read_catalogue(found)).models)
    for number, hub in enumerate(hubs, 1):
        progress(f"asking hub {number} of {len(hubs)}", 0, 1)
        local = Path(hub) if Path(hub).is_dir() else None
        if local is not None and not (local / "hub.db").is_file():
            raise UsageError(f"--keep-reported: {hub} is not the state directory of a local hub.")
        async with open_hub(None if local else hub, local) as client:
            for model in models:
                said = await use_of(PacedHub(client), model)
                uses[model] = together([uses[model], said]) if model in uses else said
    return await plan(found, rule, uses, name, progress)


def _tell_plan(made: Plan, *, err: bool) -> None:
    for model, versions in made.prune.items():
        typer.echo(f"{model}: versions {', '.join(map(str, versions))} go.", err=err)
    if not made.prune:
        typer.echo("Nothing has to go.", err=err)
    typer.echo(f"{made.objects} objects, {made.bytes:,} bytes, are freed; {made.stays:,} bytes stay.", err=err)
    for each in made.stranded:
        which = "bytes that the store does not sign" if each.version is None else f"version {each.version}"
        typer.echo(f"  {each.devices} device(s) with {which} of {each.model}: {each.why}.", err=err)


def confirm(question: str) -> None:
    """Ask on the terminal; UsageError without one, RefusedError for no."""
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for approval on: read what would go, then give --yes.")
    if not typer.confirm(question, err=True):
        raise RefusedError("nothing was changed.")


_MOST_HOURS = 24 * 366 * 100
"""A century; the time that is so many hours ago has to be one that a computer can say."""


def gc(
    store: StoreArgument,
    older: Annotated[
        float,
        typer.Option(
            "--older-than",
            min=0,
            max=_MOST_HOURS,
            help="Hours; what is younger may be of a publication under way.",
        ),
    ] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    progress: ProgressOption = ProgressForm.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Delete what nothing in the store refers to any more: pruned versions, leftovers of crashes, old metadata."""
    from modelsync_server.cli import progress as progress_of

    with progress_of.shown(progress, "gc", progress_of.AGAIN) as update:
        found = open_store(store).gc(older_than=timedelta(hours=older), dry_run=dry_run, progress=update)
    if as_json:
        print_json({"objects": found.objects, "bytes": found.bytes, "young": found.young, "deleted": not dry_run})
        return
    would = "would be" if dry_run else "were"
    typer.echo(f"{found.objects} objects, {found.bytes:,} bytes, {would} deleted; {found.young} are too young.")


def upgrade_store(store: StoreArgument, keys: KeysOption = None, as_json: JsonOption = False) -> None:
    """Give every model a chain of its own: check-ins get smaller. Daemons before 0.2 can't read the store any more."""
    moved = open_store(store, keys).upgrade()
    if as_json:
        print_json({"moved": list(moved)})
    else:
        typer.echo(f"{len(moved)} model(s) have chains of their own now.")
