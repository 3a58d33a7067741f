"""`modelsync-bench idle`, `fleet` and `report`: what follows a run. Each adds to a result, or writes pages from it."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from modelsync_bench import fleet_costs, fleet_engine, fleet_models, idle_line, namespaces
from modelsync_bench.fleet import Fleet
from modelsync_bench.lab import LabError
from modelsync_bench.processes import StepFailed
from modelsync_bench.result import Result, ResultError, load
from modelsync_protocol.errors import ModelsyncError

_Out = Annotated[Path, typer.Option("--out", help="The result of `modelsync-bench run`; it is added to.")]
_DEFAULT = Path("bench.json")
_PAGE = Path("benchmarks.md")
_USUAL = Fleet()


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(idle)
    app.command()(fleet)
    app.command()(report)


def idle(
    out: _Out = _DEFAULT, again: Annotated[bool, typer.Option(help="Measure although the result has it.")] = False
) -> None:
    """Measure what an idle hub connection costs: the SDK's defaults and modelsyncd's. Takes two and a half minutes."""
    result = _load(out)
    if idle_line.read(result.facts.get("idle")) and not again:
        return
    if reason := namespaces.why_not():
        _stop(f"the idle connection is counted in a network namespace only: {reason}")
    try:
        result.facts["idle"] = idle_line.measure()
    except (LabError, StepFailed) as error:
        _stop(f"the idle connection could not be measured: {error}", 5)
    result.save(out)


def fleet(
    out: _Out = _DEFAULT,
    devices: Annotated[int, typer.Option(min=1, help="How many.")] = _USUAL.devices,
    price: Annotated[float, typer.Option(min=0, help="US dollars a GB.")] = fleet_costs.PRICE_PER_GB,
    releases: Annotated[int, typer.Option(min=0, max=30, help="How many a month.")] = len(_USUAL.releases),
    mix: Annotated[
        str, typer.Option(help="Shares that are one, two, three versions behind and new, by commas.")
    ] = ",".join(map(str, _USUAL.mix)),
    cuts: Annotated[float, typer.Option(min=0, help="Cuts of the line for each MB carried.")] = _USUAL.cuts_per_mb,
    attempts: Annotated[int, typer.Option(min=1, help="Most a device makes in a day.")] = _USUAL.attempts,
    budget: Annotated[int, typer.Option(min=1, help="Bytes a day, for the table with a budget.")] = 50_000,
    budget_month: Annotated[int, typer.Option(min=1, help="Bytes a month, for the same table.")] = 1_500_000,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = _USUAL.seed,
    engine: Annotated[str | None, typer.Option(help="Where it is simulated: local or dask; default: here.")] = None,
    engine_address: Annotated[str | None, typer.Option(help="Dask's scheduler.")] = None,
    workers: Annotated[int | None, typer.Option(help="How many are started; default: one for each core.")] = None,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing if the result has it.")] = False,
) -> None:
    """Simulate a month of a fleet with the measured bytes, and add what it costs to the result."""
    result = _load(out)
    if if_missing and "fleet" in result.facts:
        return
    try:
        one, two, three, none = (float(share) for share in mix.split(","))
        days = tuple(int(number * _USUAL.days / releases) for number in range(releases))
        what = Fleet(devices, _USUAL.days, days, (one, two, three, none), cuts, attempts, seed=seed)
    except ValueError as error:
        _stop(f"--mix {mix} does not do: it is four shares by commas that sum to 1 ({error}).")
    with tempfile.TemporaryDirectory(prefix="modelsync-fleet-") as scratch:
        try:
            plan = fleet_models.plan_bytes(fleet_models.versions(Path(scratch)))
        except FileNotFoundError as error:
            _stop(str(error))
    idle_lines = idle_line.read(result.facts.get("idle"))
    run = partial(fleet_engine.simulated, engine=engine, address=engine_address, workers=workers)
    try:
        result.facts["fleet"] = fleet_costs.document(result, plan, idle_lines, what, price, (budget, budget_month), run)
    except ModelsyncError as error:
        _stop(str(error), error.exit_code)
    result.save(out)
    for way in result.facts["fleet"]["ways"]:
        print(
            f"{way['name']:18} ${way['update_dollars']:,.0f} updates and ${way['idle_dollars']:,.0f} idle a month"
            f" ({way['peer']})"
        )
    for one_missing in result.facts["fleet"]["missing"]:
        print(f"missing: {one_missing}", file=sys.stderr)


def report(
    out: _Out = _DEFAULT,
    page: Annotated[Path, typer.Option(help="The page to write; its plots go into a folder beside it.")] = _PAGE,
) -> None:
    """Write the page and its plots from a result; nothing is measured."""
    from modelsync_bench import report as pages

    pages.write(_load(out), page)


def _load(path: Path) -> Result:
    if not path.exists():
        _stop(f"{path} is not there: `modelsync-bench run --out {path}` makes it.")
    try:
        return load(path)
    except ResultError as error:
        _stop(str(error))


def _stop(text: str, code: int = 2) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(code)
