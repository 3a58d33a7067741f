"""The resident daemon's orchestrator: from desired properties to running updates, one task a model.

It decides nothing itself (reconcile.py does), switches nothing (activation.py) and fetches nothing (the worker).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelsync_protocol import names, twin
from modelsync_protocol.errors import LocalError, ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_protocol.twin import Policy, Wish

from modelsync_daemon import ledger as budget
from modelsync_daemon import processes as reports
from modelsync_daemon import reconcile, status
from modelsync_daemon.activation import Activation, Patience
from modelsync_daemon.backoff import NETWORK, REFUSED, Backoff
from modelsync_daemon.config import Settings
from modelsync_daemon.control import ControlPlane, MethodAnswer
from modelsync_daemon.database import Database
from modelsync_daemon.datadir import DataDir
from modelsync_daemon.hublink import HubLink
from modelsync_daemon.job import BudgetExceeded, Job, Outcome, Preparer, WorkerDied
from modelsync_daemon.ledger import Ledger
from modelsync_daemon.outbox import Outbox
from modelsync_daemon.pointer import Pointer, Reference
from modelsync_daemon.processes import Processes, Report
from modelsync_daemon.reconcile import Decision, Facts, Step, fingerprint
from modelsync_daemon.state import PREPARING, SWITCHING, State
from modelsync_daemon.wishes import Wishes

_PROGRESS_SECONDS = 10.0
_REPORT_SECONDS = 0.3
_log = logging.getLogger(__name__)


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
    ) -> None:
        self.settings, self.data, self.database = settings, data, database
        self._preparer, self._network, self._refused = preparer, network, refused
        self.processes = Processes()
        self.ledger = Ledger(database)
        self.wishes = Wishes(database)
        self.activation = Activation(
            data,
            database,
            self.processes,
            patience or Patience(probe=settings.probe_seconds, probation=settings.probation_seconds),
            self._changed,
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
                network,
                refused,
            )
        )
        self._running: dict[str, _Running] = {}
        self._progress: dict[str, tuple[int, int]] = {}
        self._progress_told = 0.0
        self._kick = asyncio.Event()
        self._dirty = asyncio.Event()

    async def run(self) -> None:
        """Resume what was under way, then reconcile until cancelled; leaves everything durable behind."""
        self.data.clean()
        for row in self.database.models():
            if row.state in SWITCHING:
                self._start(row.name, self._resume(row.name), self.wishes.of(row.name))
        jobs = [self._reconcile_for_ever(), self._report_for_ever(), self._flush_hourly()]
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
            self.ledger.flush()

    # --- what the socket and direct methods ask for ---

    def status(self) -> dict[str, Any]:
        """The status document."""
        return status.build(
            self.data,
            self.database,
            self.ledger,
            self.wishes.desired.models,
            self._progress,
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
        await self._stop(name)
        if self.database.model(name).state in PREPARING | {State.PROBING}:
            self.database.transition(name, State.WAITING)
        hold = reconcile.HOLD_ROLLBACK + fingerprint(self.wishes.of(name))
        try:
            return self.activation.roll_back(name, hold)
        finally:
            self._kick.set()

    async def hold(self, name: str) -> None:
        """Keep what serves, whatever the twin says, until released. Raises RefusedError for an unknown model."""
        self._known(name)
        self.database.update(name, hold=reconcile.HOLD_OPERATOR)
        if self.database.model(name).state in PREPARING | {State.PROBING}:
            await self._stop(name)
        self._changed()
        self._kick.set()

    def release(self, name: str) -> None:
        """End a hold and every quarantine of `name`. Raises RefusedError if there is none."""
        self._known(name)
        if not self.database.model(name).hold and not self.database.quarantined(name):
            raise RefusedError(f"{name} is neither held nor in quarantine.")
        self.database.unquarantine(name)
        row = self.database.update(name, hold="", retry_at=0, attempts=0)
        if row.state == State.QUARANTINED and self.data.read_pointer(name) is not None:
            self.database.transition(name, State.WAITING)
        self._changed()
        self._kick.set()

    def report(self, name: str, report: Report) -> None:
        """An inference process reports."""
        self.processes.report(name, report)
        bad = report.pointer == "current" and report.state in (reports.REFUSED, reports.FAILED)
        if bad and name not in self._running:
            self.activation.refused_current(name, report, self.wishes.of(name).retry)

    async def method(self, name: str, payload: Any) -> MethodAnswer:
        """A direct method; never raises."""
        try:
            model = payload.get("model") if isinstance(payload, Mapping) else None
            if name == "status":
                return MethodAnswer(200, self.status())
            if name == "sync":
                self.sync()
                return MethodAnswer(202, {})
            if name not in ("rollback", "hold", "release"):
                return MethodAnswer(404, {"error": "the methods are status, sync, rollback, hold and release."})
            if not isinstance(model, str):
                return MethodAnswer(400, {"error": 'the payload names no model: {"model":"NAME"}.'})
            if name == "rollback":
                back = await self.rollback(model)
                return MethodAnswer(200, describe(back))
            if name == "hold":
                await self.hold(model)
            else:
                self.release(model)
            return MethodAnswer(200, {})
        except UsageError as error:
            return MethodAnswer(400, {"error": str(error)})
        except ModelsyncError as error:
            return MethodAnswer(409, {"error": str(error)})

    def _known(self, name: str) -> None:
        names.check_model_name(name)
        if self.database.model(name).since == 0 and name not in self.wishes.desired.models:
            raise RefusedError(f"{name} is not a model of this device.")

    # --- reconciliation ---

    def _on_twin(self, document: Mapping[str, Any]) -> None:
        changed = self.wishes.accept(document)
        self._hurry(None if changed else "offline")
        self._dirty.set()

    def _hurry(self, code: str | None) -> None:
        """Let what waits (for reason `code`, or any) be tried now."""
        for row in self.database.models():
            if row.state == State.WAITING and row.retry_at and code in (None, row.error_code):
                self.database.update(row.name, retry_at=0)
        self._kick.set()

    async def _reconcile_for_ever(self) -> None:
        while True:
            self._kick.clear()
            again = await self._reconcile()
            wait = None if again is None else max(0.05, again - self.database.clock())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._kick.wait(), wait)

    async def _reconcile(self) -> float | None:
        """One look at every model; returns when to look again (epoch seconds), None if only a change can help."""
        deadlines = []
        for name in sorted({row.name for row in self.database.models()} | set(self.wishes.desired.models)):
            wish = self.wishes.of(name)
            running = self._running.get(name)
            if running is not None:
                outdated = running.wish != fingerprint(wish)
                if not outdated or self.database.model(name).state == State.ACTIVATING:
                    continue
                await self._stop(name)
            decision = reconcile.decide(self._facts(name, wish))
            await self._apply(name, wish, decision)
            if decision.again is not None:
                deadlines.append(decision.again)
        deadlines += [row.retry_at for row in self.database.models() if row.state == State.WAITING and row.retry_at]
        return min(deadlines, default=None)

    def _facts(self, name: str, wish: Wish) -> Facts:
        current = self.data.read_pointer(name)
        now = self.database.clock()
        row = self.database.model(name)
        return Facts(
            row=row,
            wish=wish,
            now=now,
            serving=current.reference if current else None,
            present=bool(row.since) or current is not None or bool(self.data.installed(name)),
            quarantined=self.database.quarantined(name),
            origin=self._origin(),
            held_by_policy=self._policy().hold,
            opens=budget.seconds_to_open(self._policy(), now),
        )

    def _origin(self) -> str | None:
        return self.wishes.desired.origin or self.settings.origin

    def _policy(self) -> Policy:
        return budget.stricter(self.settings.policy, self.wishes.desired.policy)

    async def _apply(self, name: str, wish: Wish, decision: Decision) -> None:
        if decision.lift_hold:
            self.database.update(name, hold="")
            self._changed()
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
            self._changed()
        elif decision.step == Step.REMOVE:
            self.database.transition(name, State.IDLE)
            await asyncio.to_thread(self.data.remove_model, name)
            self.database.forget(name)
            self.processes.hint(name, "current")
            self._changed()
        elif decision.step == Step.PREPARE:
            self._start(name, self._update(name, wish, decision.fresh), wish)

    def _start(self, name: str, work: Any, wish: Wish) -> None:
        task = asyncio.ensure_future(self._guarded(name, work))
        self._running[name] = _Running(task, fingerprint(wish))

    async def _guarded(self, name: str, work: Any) -> None:
        try:
            await work
        except ModelsyncError as error:
            self._wait(name, error, False)
        except Exception as error:  # a defect must not end the daemon, which serves other models too
            _log.exception("%s: a defect", name)
            self._wait(name, WorkerDied(f"a defect: {type(error).__name__}: {error}."), False)
        finally:
            self._progress.pop(name, None)
            running = self._running.get(name)
            if running is not None and running.task is asyncio.current_task():
                del self._running[name]
            self._changed()
            self._kick.set()

    async def _stop(self, name: str) -> None:
        """Cancel `name`'s task; what it persisted stays. A pointer that is just being switched is awaited."""
        running = self._running.get(name)
        if running is None:
            return
        if self.database.model(name).state != State.ACTIVATING:
            running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
        self._running.pop(name, None)
        self.activation.abandon(name)

    # --- one model's update ---

    async def _resume(self, name: str) -> None:
        if not await self.activation.resume(name, self.wishes.of(name).retry):
            self.database.transition(name, State.WAITING)

    async def _update(self, name: str, wish: Wish, fresh: bool) -> None:
        before = self.database.model(name)
        for digest, refused in self.database.quarantined(name).items():
            if refused.version == wish.version and refused.retry != wish.retry:
                self.database.unquarantine(name, digest)
        self.database.transition(
            name,
            State.RESOLVING,
            desired=fingerprint(wish),
            target_version=wish.version,
            target_digest=None,
            attempts=1 if fresh else before.attempts + 1,
            retry_at=0,
        )
        self._changed()
        progressed = False

        def on_event(event: Mapping[str, Any]) -> None:
            nonlocal progressed
            progressed = self._on_worker(name, event) or progressed

        try:
            outcome = await self._prepare(name, wish, on_event)
        except UnreachableError as error:
            held = self._held(name, wish)
            if held is None:
                self._wait(name, error, progressed)
                return
            await self.activation.install(name, held, wish.retry)
            return
        except ModelsyncError as error:
            self._wait(name, error, progressed)
            return
        self.database.withdraw(name, frozenset(outcome.withdrawn))
        self.database.update(name, bytes=outcome.bytes)
        await self.activation.install(name, Reference(outcome.version, outcome.digest), wish.retry)

    async def _prepare(self, name: str, wish: Wish, on_event: Any) -> Outcome:
        policy = self._policy()
        job = Job(
            name=name,
            version=wish.version,
            origin=self._origin() or "",
            data=str(self.data.root),
            origin_ca=str(self.settings.origin_ca) if self.settings.origin_ca else None,
            trust_root=str(self.settings.trust) if self.settings.trust else None,
            stall_seconds=self.settings.stall_seconds,
            rate_limit=policy.rate_limit,
            byte_limit=self.ledger.left(policy),
            quarantined=tuple(self.database.quarantined(name)),
        )
        try:
            async with asyncio.timeout(budget.seconds_to_close(policy, self.database.clock())):
                return await self._preparer.prepare(job, on_event)
        except TimeoutError:
            raise _WindowClosed("the time window for fetching closed; it goes on when the next one opens.") from None

    def _on_worker(self, name: str, event: Mapping[str, Any]) -> bool:
        """Take in a worker's event; True if the fetch moved on."""
        if event["event"] == "wire":
            self.ledger.add(event["received"], event["sent"])
        elif event["event"] == "state":
            self._changed()
        elif event["event"] == "progress":
            moved = event["done"] > self._progress.get(name, (event["done"], 0))[0]
            self._progress[name] = (event["done"], event["total"])
            now = asyncio.get_running_loop().time()
            if now - self._progress_told > _PROGRESS_SECONDS:
                self._progress_told = now
                self._changed()
            return moved
        return False

    def _held(self, name: str, wish: Wish) -> Reference | None:
        """An installed, neither withdrawn nor refused version that satisfies `wish` offline."""
        if wish.version in self.database.withdrawn(name):
            return None
        refused = self.database.quarantined(name)
        for item in self.data.installed(name):
            if item.version == wish.version and item.digest not in refused:
                return item.reference
        return None

    def _wait(self, name: str, error: ModelsyncError, progressed: bool) -> None:
        row, now = self.database.model(name), self.database.clock()
        attempts = 1 if progressed else max(row.attempts, 1)
        code, wait = "refused", self._refused.seconds(attempts)
        if isinstance(error, UnreachableError):
            code, wait = "offline", self._network.seconds(attempts)
        elif isinstance(error, BudgetExceeded):
            code, wait = "budget", budget.seconds_to_next_day(now) + 1
        elif isinstance(error, _WindowClosed):
            code, wait = "window", 1.0
        elif isinstance(error, WorkerDied):
            code, wait = "worker", self._network.seconds(attempts)
        elif isinstance(error, LocalError):
            code = "disk"
        _log.warning("%s: %s (%s, again in %.0f s)", name, error, code, wait)
        self.database.transition(
            name,
            State.WAITING,
            error_code=code,
            error_text=str(error),
            attempts=attempts,
            retry_at=max(1, int(now + wait) + 1),
        )

    # --- reporting ---

    def _changed(self) -> None:
        self._dirty.set()

    async def _report_for_ever(self) -> None:
        self._dirty.set()
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_REPORT_SECONDS)
            self._dirty.clear()
            if self._link is not None:
                self._outbox.put(twin.build_reported(self.status(), self.wishes.desired.problems))
                self._link.send_soon()

    async def _flush_hourly(self) -> None:
        while True:
            await asyncio.sleep(3600)
            self.ledger.flush()


class _WindowClosed(ModelsyncError):
    """The time window ended while fetching."""


def describe(pointer: Pointer) -> dict[str, Any]:
    """What a rollback answers."""
    return {
        "model": pointer.name,
        "version": pointer.version,
        "digest": pointer.digest,
        "generation": pointer.generation,
    }
