"""The resident daemon's orchestrator: from desired properties to running updates, one task a model.

It decides nothing itself (decision.py does), switches nothing (activation.py) and fetches nothing (the worker).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from modelsync_daemon.activate import inference_processes as reports
from modelsync_daemon.activate.activation import Activation, Patience
from modelsync_daemon.activate.inference_history import Observed
from modelsync_daemon.activate.inference_processes import Processes, Report
from modelsync_daemon.config import Settings
from modelsync_daemon.control import methods
from modelsync_daemon.control.hub_link import CheckIn, HubLink
from modelsync_daemon.control.outbox import Outbox
from modelsync_daemon.control.plane import ControlPlane, MethodAnswer
from modelsync_daemon.control.reporter import Reporting
from modelsync_daemon.disk import garbage
from modelsync_daemon.disk import ledger as budget
from modelsync_daemon.disk.database import DamagedDatabase, Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.ledger import Ledger
from modelsync_daemon.disk.pointer import Pointer, Reference
from modelsync_daemon.disk.states import PREPARING, SWITCHING, State
from modelsync_daemon.reconcile import decision as reconcile
from modelsync_daemon.reconcile import operations, status
from modelsync_daemon.reconcile.decision import Decision, Facts, Step, fingerprint
from modelsync_daemon.reconcile.desired import Wishes
from modelsync_daemon.reconcile.pushed_updates import Pushing
from modelsync_daemon.reconcile.repair import Repairing
from modelsync_daemon.reconcile.update import Updates
from modelsync_daemon.timing.backoff import HUB, NETWORK, REFUSED, Backoff
from modelsync_daemon.timing.deadline import within
from modelsync_daemon.workers.messages import Preparer, WorkerDied
from modelsync_protocol import names, twin
from modelsync_protocol.errors import LocalError, ModelsyncError, RefusedError
from modelsync_protocol.twin import Wish

_LONGEST_SLEEP_SECONDS = 900.0
"""Deadlines are the clock's, which may be corrected meanwhile: they are looked at again so often."""

_log = logging.getLogger(__name__)
Work = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Running:
    task: asyncio.Task[None]
    wish: str


class Resident:
    """One data directory's daemon. The caller holds the lock and owns database, plane and preparer."""

    def __init__(
        self,
        settings: Settings,
        data: DataDir,
        database: Database,
        preparer: Preparer,
        plane: ControlPlane | None = None,
        patience: Patience | None = None,
        network: Backoff = NETWORK,
        refused: Backoff = REFUSED,
        hub: Backoff = HUB,
        first_pause: float = 0.0,
    ) -> None:
        """`first_pause`: seconds until hub and origin are first asked."""
        self.settings, self.data, self.database = settings, data, database
        self.processes = Processes()
        self._reporting = Reporting(self._preparing, self._report)
        self._observed = Observed(database, time.monotonic)
        self.ledger = Ledger(database)
        self.wishes = Wishes(database)
        self.activation = Activation(
            data,
            database,
            self.processes,
            patience or Patience(probe=settings.probe_seconds, probation=settings.probation_seconds),
            self._reporting.changed,
        )
        self._pushing = Pushing(settings, data, database, preparer)
        self._updates = Updates(
            settings,
            data,
            database,
            self.ledger,
            self.wishes,
            self.activation,
            preparer,
            self._pushing,
            self._reporting.changed,
            network,
            refused,
        )
        self._repairing = Repairing(
            data,
            self.ledger,
            preparer,
            network,
            self._updates.job,
            lambda: budget.seconds_to_open(self._updates.policy(), database.clock()),
            lambda: self._kick.set(),
        )
        self._outbox = Outbox(database)
        self._link = (
            None
            if plane is None
            else HubLink(
                plane,
                self._outbox,
                self.ledger,
                self._on_twin,
                self.method,
                settings.reconcile_seconds,
                hub,
                refused,
                None if settings.connect_every is None else CheckIn(settings.connect_every, self._busy),
                first_pause,
            )
        )
        self._running: dict[str, _Running] = {}
        self._refused, self._first_pause = refused, first_pause
        self._acting = asyncio.Lock()
        self._kick = asyncio.Event()

    async def run(self) -> None:
        """Resume what was under way, then reconcile until cancelled; leaves everything durable behind."""
        self.data.clean()
        for row in self.database.models():
            self._tidy(row.name)
            if row.state in SWITCHING:
                self._start(row.name, partial(self._resume, row.name), self.wishes.of(row.name))
        jobs = [self._reconcile_for_ever(), self._reporting.run(), self._flush_hourly()]
        if self._link is not None:
            jobs.append(self._link.run())
        tasks = [asyncio.ensure_future(job) for job in jobs]
        try:
            await asyncio.gather(*tasks)
        finally:
            doomed = tasks + [running.task for running in self._running.values()]
            for task in doomed:
                task.cancel()
            await asyncio.gather(*doomed, return_exceptions=True)
            await self._repairing.stop()
            with contextlib.suppress(LocalError):
                self.ledger.flush()

    def _tidy(self, name: str) -> None:
        """At start, bring the disk in line with a settled state: an error or a kill may have come between the two."""
        state = self.database.model(name).state
        try:
            if state not in SWITCHING:
                self.activation.abandon(name)
            if state in garbage.PRUNABLE:
                self.data.prune(name)
        except LocalError as error:  # what serves goes on; the next start or update tries again
            _log.error("%s", error)

    # --- what the socket and direct methods ask for ---

    def status(self) -> dict[str, Any]:
        """The status document."""
        if self._link is not None:
            self._link.count()
        return status.build(
            self.data,
            self.database,
            self.ledger,
            self.wishes.desired.models,
            self._updates.progress,
            running=True,
            connected=self._link is not None and self._link.connected,
        )

    def sync(self) -> None:
        """Read the twin and try again what waits, now."""
        self._hurry(None)
        if self._link is not None:
            self._link.read_soon()

    async def rollback(self, name: str) -> Pointer:
        """Back to the kept previous version; sets a hold until desired changes. Raises RefusedError."""
        self._known(name)
        async with self._acting:
            self._kick.set()
            self.activation.check_previous(name)
            await self._stop(name)
            return operations.roll_back(self.database, self.activation, name, self.wishes.of(name))

    async def hold(self, name: str) -> None:
        """Keep what serves, whatever the twin says, until released. Raises RefusedError for an unknown model."""
        self._known(name)
        async with self._acting:
            operations.hold(self.database, name)
            if self.database.model(name).state in PREPARING | {State.PROBING}:
                await self._stop(name)
        self._reporting.changed()
        self._kick.set()

    def release(self, name: str) -> None:
        """End a hold and every quarantine of `name`. Raises RefusedError if there is none."""
        self._known(name)
        operations.release(self.database, name)
        self._reporting.changed()
        self._kick.set()

    def repair(self, name: str, reference: Reference) -> None:
        """Mend an installed version that a scrub found damaged, in the background. Raises RefusedError."""
        self._repairing.begin(name, reference, lambda name: name in self._running or self._pushing.busy(name))

    async def collect(self) -> garbage.Collected:
        """Remove what nothing refers to; what is under way is left alone. Raises LocalError."""
        async with self._acting:
            return garbage.collect(self.data, self.database, self._in_use, self._pushing.lies_staged)

    def _in_use(self, name: str) -> bool:
        return name in self._running or self._pushing.busy(name) or self._repairing.busy(name)

    def report(self, name: str, report: Report) -> None:
        """An inference process reports."""
        self.processes.report(name, report)
        if self._observed.take(name, report):
            self._reporting.changed()
        bad = report.pointer == "current" and report.state in (reports.REFUSED, reports.FAILED)
        if bad and name not in self._running:
            self.activation.refused_current(name, report, self.wishes.of(name).retry)

    async def method(self, name: str, payload: Any) -> MethodAnswer:
        """A direct method; never raises."""
        return await methods.answer(self, name, payload)

    async def apply(self, payload: Any) -> dict[str, Any]:
        """Stage a pushed update. Raises UsageError or RefusedError; the desired version then fetches as usual."""
        try:
            outcome = await self._pushing.apply(payload, self._running.__contains__)
        finally:
            self._kick.set()
        return {"model": outcome.name, "version": outcome.version, "digest": outcome.digest}

    def _busy(self) -> bool:
        """Whether an update is under way or a report is due: a check-in lasts as long."""
        return bool(self._running) or self._reporting.due

    def access_renewed(self) -> None:
        """A new secret for the origin is there: what waits for one goes on now."""
        self._hurry("access")

    def _preparing(self) -> bool:
        return any(row.name in self._running and row.state in PREPARING for row in self.database.models())

    def _known(self, name: str) -> None:
        names.check_model_name(name)
        if self.database.model(name).since == 0 and name not in self.wishes.desired.models:
            raise RefusedError(f"{name} is not a model of this device.")

    # --- reconciliation ---

    def _on_twin(self, document: Mapping[str, Any]) -> None:
        changed = self.wishes.accept(document)
        self._hurry(None if changed else "offline")
        self._reporting.changed()

    def _hurry(self, code: str | None) -> None:
        """Let what waits (for reason `code`, or any) be tried now."""
        for row in self.database.models():
            if row.state == State.WAITING and row.retry_at and code in (None, row.error_code):
                self.database.update(row.name, retry_at=0)
        self._kick.set()

    async def _reconcile_for_ever(self) -> None:
        await asyncio.sleep(self._first_pause)
        while True:
            self._kick.clear()
            try:
                async with self._acting:
                    again = await self._reconcile()
            except LocalError as error:
                again = self._postpone(error)
            wait = None if again is None else min(max(0.05, again - self.database.clock()), _LONGEST_SLEEP_SECONDS)
            with contextlib.suppress(TimeoutError):
                await within(wait, self._kick.wait())

    def _postpone(self, error: LocalError) -> float:
        """Nothing can be persisted now, so nothing is done; when to look again (epoch seconds).

        A damaged database ends the daemon: only the next start can rebuild it.
        """
        if isinstance(error, DamagedDatabase):
            raise error
        _log.error("%s", error)
        return self.database.clock() + self._refused.seconds(1)

    async def _reconcile(self) -> float | None:
        """One look at every model; returns when to look again (epoch seconds), None if only a change can help."""
        deadlines = []
        for name in sorted({row.name for row in self.database.models()} | set(self.wishes.desired.models)):
            if self._pushing.busy(name) or self._repairing.busy(name):
                continue
            wish = self.wishes.of(name)
            running = self._running.get(name)
            if running is not None:
                if running.wish == fingerprint(wish):
                    continue
                await self._stop(name)
            decision = reconcile.decide(self._facts(name, wish))
            await self._apply(name, wish, decision)
            if decision.again is not None:
                deadlines.append(decision.again)
        deadlines += [
            row.retry_at
            for row in self.database.models()
            if row.state == State.WAITING and row.retry_at and row.name not in self._running
        ]
        return min(deadlines, default=None)

    def _facts(self, name: str, wish: Wish) -> Facts:
        current = self.data.read_pointer(name)
        now = self.database.clock()
        row = self.database.model(name)
        staged = self._pushing.staged(name, wish) is not None  # needs neither origin nor time window
        return Facts(
            row=row,
            wish=wish,
            now=now,
            serving=current.reference if current else None,
            present=bool(row.since) or current is not None or bool(self.data.installed(name)),
            quarantined=self.database.quarantined(name),
            origin="pushed" if staged else self._updates.origin(),
            held_by_policy=self._updates.policy().hold,
            opens=0.0 if staged else budget.seconds_to_open(self._updates.policy(), now),
        )

    async def _apply(self, name: str, wish: Wish, decision: Decision) -> None:
        if decision.lift_hold:
            self.database.update(name, hold="")
            self._reporting.changed()
        if decision.step == Step.SETTLE:
            self.database.transition(
                name,
                decision.state,
                desired=fingerprint(wish),
                error_code=decision.code,
                error_text=decision.text,
                attempts=0,
                retry_at=int(decision.again) + 1 if decision.again else 0,
            )
            self.activation.abandon(name)
            self.data.follow_pointer(name)
            self._reporting.changed()
        elif decision.step == Step.REMOVE:
            self.database.transition(name, State.IDLE)
            await asyncio.to_thread(self.data.remove_model, name)
            self.database.forget(name)
            self.processes.hint(name, "current")
            self._reporting.changed()
        elif decision.step == Step.PREPARE:
            self._start(name, partial(self._updates.run, name, wish, decision.fresh), wish)

    def _start(self, name: str, work: Work, wish: Wish) -> None:
        task = asyncio.ensure_future(self._guarded(name, work))
        self._running[name] = _Running(task, fingerprint(wish))

    async def _guarded(self, name: str, work: Work) -> None:
        try:
            try:
                await work()
            except ModelsyncError as error:
                self._updates.wait(name, error, False)
            except Exception as error:  # a defect must not end the daemon, which serves other models too
                _log.exception("%s: a defect", name)
                self._updates.wait(name, WorkerDied(f"a defect: {type(error).__name__}: {error}."), False)
            self.ledger.flush()
            self.database.checkpoint()
        except LocalError as error:
            self._postpone(error)
            await asyncio.sleep(self._refused.seconds(1))
        finally:
            self._updates.progress.pop(name, None)
            running = self._running.get(name)
            if running is not None and running.task is asyncio.current_task():
                del self._running[name]
            self._reporting.changed()
            self._kick.set()

    async def _stop(self, name: str) -> None:
        """Cancel `name`'s task; what it persisted stays (a pointer is switched between two awaits)."""
        running = self._running.get(name)
        if running is None:
            return
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
        self._running.pop(name, None)
        self.activation.abandon(name)

    async def _resume(self, name: str) -> None:
        if not await self.activation.resume(name, self.wishes.of(name).retry):
            self.database.transition(name, State.WAITING)

    # --- reporting ---

    def _report(self) -> None:
        if self._link is None:
            return
        try:
            self._outbox.put(twin.build_reported(self.status(), self.wishes.desired.problems))
        except LocalError as error:
            self._postpone(error)
        self._link.send_soon()

    async def _flush_hourly(self) -> None:
        while True:
            await asyncio.sleep(3600)
            with contextlib.suppress(LocalError):  # it is still counted, and flushed later
                self.ledger.flush()
