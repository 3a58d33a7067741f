"""`modelsync rollout …`: plans, starts, watches and steers rollouts. Presentation only; the logic is rollout/'s."""

from __future__ import annotations

import asyncio
import getpass
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.cli import rollout_text as text
from modelsync_server.cli.hub_access import ServiceOption, StateOption, open_hub
from modelsync_server.cli.options import (
    ActiveOption,
    ByOption,
    CurrencyOption,
    EdgeOption,
    FailuresOption,
    FileOption,
    KeepOption,
    ModuleOption,
    PriceOption,
    RingOption,
    SilentOption,
    SoakOption,
    StoreArgument,
    TierOption,
    VersionOption,
    WaitOption,
)
from modelsync_server.rollout import acting, planning, reading, running, starting
from modelsync_server.rollout.gate import Gate, parse_gate
from modelsync_server.rollout.pacing import DEFAULT_TIER, PacedHub, limits_of
from modelsync_server.rollout.record import OVER, Record, State
from modelsync_server.rollout.rings import Ring, parse_options, read_file
from modelsync_server.rollout.target import Kind, Target
from modelsync_server.store import Store, open_store
from modelsync_server.trust import catalogue_for

rollout_app = typer.Typer(help="Bring a version to a fleet in rings that stop themselves.", no_args_is_help=True)

_T = TypeVar("_T")

ModelArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add `rollout` to the main command."""
    app.add_typer(rollout_app, name="rollout")


@rollout_app.command("plan")
def plan(
    store: StoreArgument,
    name: ModelArgument,
    version: VersionOption = None,
    ring: RingOption = None,
    rings: FileOption = None,
    module: ModuleOption = None,
    edge_module: EdgeOption = None,
    active: ActiveOption = "80%",
    failures: FailuresOption = "2%",
    soak: SoakOption = "30m",
    wait: WaitOption = "7d",
    keep_failed: KeepOption = False,
    price_per_gb: PriceOption = None,
    currency: CurrencyOption = "EUR",
    silent_days: SilentOption = planning.SILENT_DAYS,
    service: ServiceOption = None,
    state: StateOption = None,
    tier: TierOption = DEFAULT_TIER,
    as_json: JsonOption = False,
) -> None:
    """Say what a rollout will reach and cost, ring by ring. Nothing is changed."""
    chosen = _rings(ring, rings, _gate(active, failures, soak, wait, keep_failed))
    target = _target(module, edge_module)

    async def ask(hub: PacedHub) -> planning.RolloutPlan:
        return await _plan(hub, open_store(store), name, version, chosen, target, price_per_gb, currency, silent_days)

    found = _ask(service, state, tier, ask)
    typer.echo(json.dumps(planning.document(found)) if as_json else text.plan(found))


@rollout_app.command("start")
def start(
    store: StoreArgument,
    name: ModelArgument,
    version: VersionOption = None,
    ring: RingOption = None,
    rings: FileOption = None,
    module: ModuleOption = None,
    edge_module: EdgeOption = None,
    active: ActiveOption = "80%",
    failures: FailuresOption = "2%",
    soak: SoakOption = "30m",
    wait: WaitOption = "7d",
    keep_failed: KeepOption = False,
    price_per_gb: PriceOption = None,
    currency: CurrencyOption = "EUR",
    silent_days: SilentOption = planning.SILENT_DAYS,
    older: Annotated[bool, typer.Option("--older", help="Go back to a version older than the fleet's newest.")] = False,
    push: Annotated[bool, typer.Option("--push/--no-push", help="Push small updates to connected devices.")] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for approval.")] = False,
    by: ByOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
    tier: TierOption = DEFAULT_TIER,
    as_json: JsonOption = False,
) -> None:
    """Plan, ask for approval, and open the first ring; `modelsync rollout run` (or `step`) carries it on."""
    chosen = _rings(ring, rings, _gate(active, failures, soak, wait, keep_failed))
    target, opened, operator = _target(module, edge_module), open_store(store), _by(by)

    async def ask(hub: PacedHub) -> reading.RolloutStatus | None:
        found = await _plan(hub, opened, name, version, chosen, target, price_per_gb, currency, silent_days)
        if not yes:
            _approve(found)
        started = await starting.start(hub, found, by=operator, older=older, pushes=push)
        await running.settle(hub, opened, name)
        present = await hub.configurations()
        current = reading.record_in(present, name) or started
        return await reading.status_in(hub, present, current, spending=False)

    status = _ask(service, state, tier, ask)
    assert status is not None
    if as_json:
        typer.echo(json.dumps(reading.document(status)))
        return
    typer.echo(text.status(status))
    typer.echo("`modelsync rollout run` carries it on, or `modelsync rollout step` every few minutes.")


@rollout_app.command("status")
def status(
    name: ModelArgument,
    service: ServiceOption = None,
    state: StateOption = None,
    tier: TierOption = DEFAULT_TIER,
    as_json: JsonOption = False,
) -> None:
    """Show a rollout: its rings, their gates, what was predicted and what was spent."""
    found = _ask(service, state, tier, lambda hub: reading.status(hub, name))
    typer.echo(json.dumps(reading.document(found)) if as_json else text.status(found))


@rollout_app.command("watch")
def watch(
    name: ModelArgument,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 30.0,
    service: ServiceOption = None,
    state: StateOption = None,
    tier: TierOption = DEFAULT_TIER,
    as_json: JsonOption = False,
) -> None:
    """Show a rollout each time it changes, until it is over; exit 3 if it stopped."""

    async def ask(hub: PacedHub) -> bool:
        shown, rollout = "", ""
        while True:
            overview = await reading.overview(hub)
            if name in overview.damaged:
                raise UsageError(overview.damaged[name])
            found = next((each for each in overview.rollouts if each.record.model == name), None)
            if found is None:
                # A part of the fleet may have a wish of its own, of an earlier rollout.
                left = [each for each in overview.wishes if each.model == name and rollout in ("", each.rollout)]
                wish = max(left, key=lambda each: each.finished, default=None)
                if wish is None:
                    raise UsageError(f"no rollout of {name!r} is under way; `modelsync rollout list` shows what is.")
                document = {"model": name, "version": wish.version, "rollout": wish.rollout, "state": "finished"}
                typer.echo(json.dumps(document) if as_json else f"{name} {wish.version} is what the fleet wants.")
                return True
            rollout = found.record.rollout
            line = json.dumps(reading.document(found)) if as_json else text.status(found)
            if line != shown:
                typer.echo(line)
            shown = line
            if found.record.state in OVER:
                return False
            await asyncio.sleep(every)

    if not _ask(service, state, tier, ask):
        raise typer.Exit(RefusedError.exit_code)


@rollout_app.command("pause")
def pause(
    name: ModelArgument,
    by: ByOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
    tier: TierOption = DEFAULT_TIER,
    as_json: JsonOption = False,
) -> None:
    """Ask no further ring until it is resumed."""
    _act(name, service, state, tier, as_json, lambda hub: acting.pause(hub, name, by=_by(by)))


@rollout_app.command("resume")
def resume(
    name: ModelArgument,
    by: ByOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
    tier: TierOption = DEFAULT_TIER,
    as_json: JsonOption = False,
) -> None:
    """Go on after a pause or a longest wait; what was changed by hand is put right."""
    _act(name, service, state, tier, as_json, lambda hub: acting.resume(hub, name, by=_by(by)))


@rollout_app.command("abort")
def abort(
    name: ModelArgument,
    back: Annotated[bool, typer.Option("--return", help="Give all rings that were asked what they had.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for approval.")] = False,
    by: ByOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
    tier: TierOption = DEFAULT_TIER,
    as_json: JsonOption = False,
) -> None:
    """End a rollout. Rings that were not asked keep what they have; the others the new version, unless --return."""
    if not yes:
        _confirm(f"End the rollout of {name}" + (" and take it back?" if back else "?"))
    _act(name, service, state, tier, as_json, lambda hub: acting.abort(hub, name, by=_by(by), back=back))


@rollout_app.command("list")
def list_(
    service: ServiceOption = None,
    state: StateOption = None,
    tier: TierOption = DEFAULT_TIER,
    as_json: JsonOption = False,
) -> None:
    """Show all rollouts of a hub, and which version of which model its fleet wants."""
    found = _ask(service, state, tier, reading.overview)
    typer.echo(json.dumps(text.overview_document(found)) if as_json else text.overview(found))


StoreOption = Annotated[
    str | None, typer.Option("--store", help="To look for withdrawn versions and to push; a directory or an address")
]


@rollout_app.command("step")
def step(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this model's rollout.")] = None,
    store: StoreOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
    tier: TierOption = DEFAULT_TIER,
    as_json: JsonOption = False,
) -> None:
    """Do what can be done now for every rollout, and end: for cron, Azure Functions or a pipeline."""
    opened = None if store is None else open_store(store)
    for event in _ask(service, state, tier, lambda hub: running.settle(hub, opened, name))[0]:
        _tell(event, as_json)


@rollout_app.command("run")
def run(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this model's rollout.")] = None,
    store: StoreOption = None,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the hub.")] = running.POLL_SECONDS,
    until_over: Annotated[bool, typer.Option("--until-over", help="End when no rollout can go on by itself.")] = False,
    service: ServiceOption = None,
    state: StateOption = None,
    tier: TierOption = DEFAULT_TIER,
    as_json: JsonOption = False,
) -> None:
    """Carry rollouts on until SIGTERM; it may be killed at any time and started anywhere."""
    opened = None if store is None else open_store(store)

    async def ask(hub: PacedHub) -> None:
        await running.run(
            hub, opened, model=name, poll=poll, until_over=until_over, tell=lambda event: _tell(event, as_json)
        )

    _ask(service, state, tier, ask)


def _tell(event: running.Event, as_json: bool) -> None:
    if as_json:
        state = None if event.state is None else event.state.value
        document = {"model": event.model, "rollout": event.rollout, "state": state, "said": event.said}
        typer.echo(json.dumps(document))
    else:
        about = f"{event.model} {event.rollout}".strip()
        typer.echo(f"{about}: {text.printable(event.said)}" if about else text.printable(event.said))
    sys.stdout.flush()


def _ask(service: str | None, state: Path | None, tier: str, ask: Callable[[PacedHub], Awaitable[_T]]) -> _T:
    limits = limits_of(tier)

    async def call() -> _T:
        async with open_hub(service, state) as client:
            return await ask(PacedHub(client, limits))

    return asyncio.run(call())


async def _plan(
    hub: PacedHub,
    store: Store,
    name: str,
    version: int | None,
    rings: tuple[Ring, ...],
    target: Target,
    price_per_gb: float | None,
    currency: str,
    silent_days: float,
) -> planning.RolloutPlan:
    if version is None:
        version = max((await catalogue_for(store, name)).model(name).versions, default=0)
    return await planning.plan(
        store,
        hub,
        name,
        version,
        rings,
        target=target,
        silent_days=silent_days,
        price_per_gb=price_per_gb,
        currency=currency,
    )


def _act(
    name: str,
    service: str | None,
    state: Path | None,
    tier: str,
    as_json: bool,
    act: Callable[[PacedHub], Awaitable[Record]],
) -> None:
    async def ask(hub: PacedHub) -> reading.RolloutStatus:
        # Only what goes back is carried on here: to open a ring takes the store, which knows what was withdrawn.
        if (await act(hub)).state is State.RETURNING:
            await running.settle(hub, None, name)
        return await reading.status(hub, name, spending=False)

    found = _ask(service, state, tier, ask)
    typer.echo(json.dumps(reading.document(found)) if as_json else text.status(found))


def _gate(active: str, failures: str, soak: str, wait: str, keep_failed: bool) -> Gate:
    number: Any = int(active) if active.isdigit() else active
    return parse_gate(
        {"active": number, "failures": failures, "soak": soak, "wait": wait, "returns": not keep_failed}, Gate()
    )


def _rings(options: list[str] | None, file: Path | None, gate: Gate) -> tuple[Ring, ...]:
    if (file is None) == (not options):
        raise UsageError("say which rings there are: --ring NAME:… (repeatable), or --rings FILE.")
    return parse_options(options or [], gate) if file is None else read_file(file, gate)


def _target(module: str | None, edge_module: str | None) -> Target:
    if module is not None and edge_module is not None:
        raise UsageError("a rollout goes to modules or to Edge modules, not to both.")
    if module is not None:
        return Target(Kind.MODULE, module)
    return Target() if edge_module is None else Target(Kind.EDGE, edge_module)


def _by(given: str | None) -> str:
    if given is not None:
        return given[:128]
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"[:128]


def _approve(found: planning.RolloutPlan) -> None:
    typer.echo(text.plan(found), err=True)
    _confirm(f"Start the rollout of {found.model} {found.version}?")


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for approval on: read the plan, then give --yes.")
    if not typer.confirm(question, err=True):
        raise RefusedError("nothing was changed.")
