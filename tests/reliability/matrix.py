"""The kill matrix: what each state of the daemon's table does, and a child that meets a fault there.

The real resident daemon, activation, worker code, database and data directory run in a forked child. A fault is put
around a function of theirs, there and nowhere else, so that the product knows nothing of it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from modelsync_daemon.activate import activation
from modelsync_daemon.activate.activation import Activation, Patience
from modelsync_daemon.build import pipeline, target_tree
from modelsync_daemon.build.plan_executor import Executor
from modelsync_daemon.config import Settings
from modelsync_daemon.control import reporter
from modelsync_daemon.disk import datadir, durable
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Pointer
from modelsync_daemon.disk.spool import Spool
from modelsync_daemon.disk.states import State
from modelsync_daemon.reconcile import reconciler
from modelsync_daemon.reconcile.imports import COMING
from modelsync_daemon.reconcile.reconciler import Reconciler
from modelsync_daemon.resident import Resident
from modelsync_daemon.transfer.errors import Unsupported
from modelsync_daemon.transfer.media_origin import MediaBody
from modelsync_daemon.transfer.range_body import Body
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_daemon.transfer.site_body import SiteBody
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_daemon.workers import job_runner
from modelsync_daemon.workers.messages import EventCallback, Job, Outcome
from modelsync_protocol import offers
from modelsync_protocol.errors import LocalError, ModelsyncError, UnreachableError
from tests.daemon.fakes import NAME, QUICK, Device, FakePreparer, Inference, MemoryControlPlane
from tests.reliability.promises import check_no_garbage, check_serves, check_settled
from tests.reliability.world import KIB, OTHER, World
from tests.support.lonely import lonely_site

PAYLOADS = 512 * KIB
"""What may be fetched twice after a fault, bytes: one payload and what was in flight."""

_SECONDS = 40
"""A child that takes longer hangs."""

Place = tuple[Any, str]
"""A function of the product: its owner (a class or module) and its name."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a state does once it is persisted. `at`: the function that does it; `inside`: one it calls on the way,
    at whose `call`-th call the fault `in` the effect strikes. `scenario`: what leads to the state. `error`: how the
    function may fail by its contract."""

    at: Place
    inside: Place
    scenario: str = "update"
    call: int = 1
    error: type[ModelsyncError] = LocalError


EFFECTS: Mapping[State, Effect] = {
    State.IDLE: Effect((DataDir, "remove_model"), (DataDir, "_discard"), "removal"),
    State.RESOLVING: Effect((TrustStore, "resolve"), (durable, "durable_write"), call=2, error=UnreachableError),
    State.PLANNING: Effect((pipeline, "choose_update"), (offers, "decode")),
    State.FETCHING: Effect((Executor, "run"), (Body, "read"), call=6, error=UnreachableError),
    State.ASSEMBLING: Effect((target_tree.Assembly, "finish"), (target_tree, "durable_write")),
    State.PROBING: Effect((DataDir, "write_candidate"), (datadir, "durable_write")),
    State.ACTIVATING: Effect((DataDir, "write_current"), (datadir, "durable_symlink")),
    State.PROBATION: Effect((Activation, "_probation"), (activation, "_next")),
    State.ACTIVE: Effect((DataDir, "prune"), (DataDir, "_discard"), call=2),
    State.ROLLED_BACK: Effect((DataDir, "prune"), (DataDir, "_discard"), "fallback", call=2),
    State.QUARANTINED: Effect((DataDir, "remove_candidate"), (datadir, "durable_unlink"), "refusal"),
    State.WAITING: Effect((Reconciler, "_reconcile"), (reconciler, "decide"), "offline first"),
    State.UNSUPPORTED: Effect((Reconciler, "_reconcile"), (reconciler, "decide"), "unsupported first"),
}
"""Every state of the table has its effect; tests/reliability/test_kill_matrix.py fails for one that has none."""

BY_MEDIUM: Mapping[State, Effect] = {
    State.RESOLVING: EFFECTS[State.RESOLVING],
    State.PLANNING: EFFECTS[State.PLANNING],
    State.FETCHING: Effect((Executor, "run"), (MediaBody, "read"), call=3, error=UnreachableError),
    State.ASSEMBLING: EFFECTS[State.ASSEMBLING],
}
"""The states in which an import differs from a download."""

BY_NEIGHBOUR: Mapping[State, Effect] = {
    State.RESOLVING: EFFECTS[State.RESOLVING],
    State.PLANNING: EFFECTS[State.PLANNING],
    State.FETCHING: Effect((Executor, "run"), (SiteBody, "read"), call=3, error=UnreachableError),
    State.ASSEMBLING: EFFECTS[State.ASSEMBLING],
}
"""The states in which taking an update from a neighbour differs from a download."""

KINDS = ("error", "kill")
MOMENTS = ("before", "in", "after")


def cases() -> list[tuple[State, str, str]]:
    """The matrix: every state of the product's table x KINDS x MOMENTS."""
    return [(state, kind, moment) for state in State for kind in KINDS for moment in MOMENTS]


def medium_cases() -> list[tuple[State, str, str]]:
    """The same for an import: a kill at every moment, an error in the middle."""
    return _cases_of(BY_MEDIUM)


def neighbour_cases() -> list[tuple[State, str, str]]:
    """The same where a neighbour gives the update."""
    return _cases_of(BY_NEIGHBOUR)


def _cases_of(effects: Mapping[State, Effect]) -> list[tuple[State, str, str]]:
    return [
        (state, kind, moment)
        for state in effects
        for kind in KINDS
        for moment in MOMENTS
        if kind == "kill" or moment == "in"
    ]


class InlinePreparer:
    """The worker's own code in this process, so that a kill takes all; the first job ends with `first`, if given."""

    def __init__(self, database: Database, first: ModelsyncError | None = None) -> None:
        self._database, self._first = database, first

    async def prepare(self, job: Job, on_event: EventCallback) -> Outcome:
        """As ChildPreparer.prepare."""
        if self._first is not None:
            first, self._first = self._first, None
            raise first
        return await job_runner.run(job, self._database, on_event)


@dataclass(slots=True)
class Fault:
    """Strikes once, at `moment` of `state`'s effect: kills this process, or raises the effect's error."""

    state: State
    kind: str
    moment: str
    database: Database
    effects: Mapping[State, Effect] = field(default_factory=lambda: EFFECTS)
    struck: bool = False
    _inside: bool = False
    _calls: int = 0

    def arm(self) -> None:
        """Put the fault around the effect's functions, in this process."""
        effect = self.effects[self.state]
        self._wrap(effect.inside, self._in, lambda: None)
        self._wrap(effect.at, self._before, self._after)

    def _wrap(self, place: Place, before: Callable[[], None], after: Callable[[], None]) -> None:
        owner, name = place
        original = getattr(owner, name)
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def waiting(*args: Any, **more: Any) -> Any:
                before()
                result = await original(*args, **more)
                after()
                return result

            setattr(owner, name, waiting)
        else:

            @functools.wraps(original)
            def calling(*args: Any, **more: Any) -> Any:
                before()
                result = original(*args, **more)
                after()
                return result

            setattr(owner, name, calling)

    def _before(self) -> None:
        self._inside = self.database.model(NAME).state == self.state
        self._calls = 0
        if self._inside and self.moment == "before":
            self._strike()

    def _in(self) -> None:
        self._calls += 1
        if self._inside and self.moment == "in" and self._calls == self.effects[self.state].call:
            self._strike()

    def _after(self) -> None:
        if self._inside and self.moment == "after":
            self._strike()
        self._inside = False

    def _strike(self) -> None:
        if self.struck:
            return
        self.struck = True
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise self.effects[self.state].error("a fault of the test.")


async def live(
    world: World,
    data: DataDir,
    scenario: str,
    fault: tuple[State, str, str] | None,
    medium: Path | None = None,
    site: SiteAccess | None = None,
) -> None:
    """Run the daemon until the scenario's target is reached; with `fault`, (state, kind, moment) strikes on the way.

    `medium`: nobody wishes for anything, and somebody inserts that stick again and again. `site`: it has neighbours.
    """
    effects = BY_MEDIUM if medium is not None else EFFECTS if site is None else BY_NEIGHBOUR
    with data.lock() as lock:
        database = Database.open(data)
        armed = None
        if fault is not None:
            armed = Fault(*fault, database, effects)
            armed.arm()
        first = {
            "offline first": UnreachableError("no line."),
            "unsupported first": Unsupported("it can't run here.", 3, "ab" * 32),
        }
        preparer = InlinePreparer(database, first.get(scenario) if fault else None)
        settings = Settings(data=data.root, trust=world.shop.trust, stall_seconds=5)
        plane = MemoryControlPlane()
        wish = {"state": "absent"} if scenario == "removal" else {"version": 3}
        models = {NAME: wish} if medium is None else {}
        plane.set_desired({"modelsync": {"origin": world.origin.url, "models": models}})
        patience = Patience(probe=10.0, probation=0.1, settle=10.0)
        site = site or lonely_site(data.root)
        if site is not None:
            Spool(Path(site.folder), site.quota).create()
        daemon = Resident(settings, data, database, preparer, plane, patience, QUICK, QUICK, neighbours=lambda: site)
        pi = Device(daemon, data, database, cast(FakePreparer, preparer), plane, lock, _never())
        process = Inference(pi)
        process.refuses = {3} if scenario == "refusal" else set()
        if scenario != "removal":
            process.start()
        failing = _fail_on_3(pi) if scenario == "fallback" else _never()
        if scenario == "unsupported first":
            failing = _release(pi)
        pi.task = asyncio.get_running_loop().create_task(daemon.run())
        inserting = _never() if medium is None else _insert(daemon, medium)
        try:
            await pi.until(lambda: (armed is None or armed.struck) and reached(pi, scenario), scenario)
        finally:
            failing.cancel()
            inserting.cancel()
            await pi.kill()


def reached(pi: Device, scenario: str) -> bool:
    """Whether the scenario's end is there, settled, and the hub was told."""
    row, pointer, shown = pi.row(), pi.current(), pi.shown_model()
    if scenario == "removal":
        return pi.plane.reads > 0 and row.since == 0 and not shown and not pi.data.model_dir(NAME).exists()
    if pointer is None or pi.data.read_pointer(NAME, "candidate") is not None:
        return False
    if (shown.get("state"), shown.get("version")) != (row.state, pointer.version):
        return False
    if scenario in ("refusal", "fallback"):
        return pointer.version == 2 and row.state in (State.QUARANTINED, State.ROLLED_BACK)
    return pointer.version == 3 and row.state == State.ACTIVE


def _never() -> asyncio.Task[None]:
    async def wait() -> None:
        await asyncio.Event().wait()

    return asyncio.get_running_loop().create_task(wait())


def _insert(daemon: Resident, medium: Path) -> asyncio.Task[None]:
    async def insert() -> None:
        while True:
            if not any(model["result"] == COMING for model in daemon.commands.imported().values()):
                await daemon.commands.bring(str(medium), {NAME: [3]})
            await asyncio.sleep(0.1)

    return asyncio.get_running_loop().create_task(insert())


def _release(pi: Device) -> asyncio.Task[None]:
    """Somebody who has what the device could not run tried again."""

    async def release() -> None:
        while True:
            await asyncio.sleep(0.05)
            if pi.row().state == State.UNSUPPORTED and NAME not in pi.resident._reconciler.tasks:
                pi.resident.commands.release(NAME)

    return asyncio.get_running_loop().create_task(release())


def _fail_on_3(pi: Device) -> asyncio.Task[None]:
    """An inference process that breaks as soon as version 3 is on probation."""

    async def fail() -> None:
        while True:
            pointer = pi.data.read_pointer(NAME)
            if pointer is not None and pointer.version == 3:
                Inference(pi).say("failed", pointer, "current", "it broke in service.")
            await asyncio.sleep(0.02)

    return asyncio.get_running_loop().create_task(fail())


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; the exit code (0 if it returned), or minus the signal that ended it."""
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(_SECONDS)
            reporter._REPORT_SECONDS, reporter._BRIEF_SECONDS = 0.01, 0.0
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_case(
    world: World,
    data: DataDir,
    state: State,
    kind: str,
    moment: str,
    medium: Path | None = None,
    site: SiteAccess | None = None,
) -> None:
    """One cell of the matrix, and every promise after it. Raises AssertionError."""
    scenario = EFFECTS[state].scenario
    before = world.origin.object_bytes()
    ended = forked(lambda: asyncio.run(live(world, data, scenario, (state, kind, moment), medium, site)))
    wanted = -signal.SIGKILL if kind == "kill" else 0
    assert ended == wanted, f"the child ended with {ended}: the fault never struck, or the target was not reached"
    _still_serves(data, scenario)
    ended = forked(lambda: asyncio.run(live(world, data, scenario, None, medium, site)))
    assert ended == 0, "after the restart the target was not reached"
    pointer = _still_serves(data, scenario)
    if scenario in ("refusal", "fallback"):
        assert pointer is not None and pointer.version == 2
    elif scenario != "removal":
        assert pointer is not None and pointer.version == 3
        assert pointer.previous is not None and pointer.previous.version == 2
    check_settled(data, NAME)
    check_no_garbage(data)
    spent = world.origin.object_bytes() - before
    most = 0 if medium is not None else PAYLOADS if site is not None else world.update_bytes + PAYLOADS
    assert spent <= most, f"{spent} bytes were fetched for {world.update_bytes}"


def _still_serves(data: DataDir, scenario: str) -> Pointer | None:
    check_serves(data, OTHER)
    if scenario == "removal" and data.read_pointer(NAME) is None:
        return None
    return check_serves(data, NAME, load=True)
