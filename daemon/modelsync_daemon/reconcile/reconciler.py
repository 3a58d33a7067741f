"""The loop that brings this device to what is desired: looks at every model, decides, and starts one task a model.

It decides nothing itself (decision.py), fetches nothing (update.py, the worker) and switches nothing (activation.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any

from modelsync_daemon.activate.activation import Activation
from modelsync_daemon.capabilities import refusals
from modelsync_daemon.disk import garbage
from modelsync_daemon.disk.database import DamagedDatabase
from modelsync_daemon.disk.states import PREPARING, SWITCHING, State
from modelsync_daemon.reconcile.decision import MAX_WAIT_SECONDS, Decision, Facts, Step, decide, fingerprint
from modelsync_daemon.reconcile.device import Device
from modelsync_daemon.reconcile.model_tasks import ModelTasks
from modelsync_daemon.reconcile.pushed_updates import PushedUpdates
from modelsync_daemon.reconcile.repair import Repairs
from modelsync_daemon.reconcile.signals import Signals
from modelsync_daemon.reconcile.update import Updates
from modelsync_daemon.timing.backoff import REFUSED, Backoff
from modelsync_daemon.timing.deadline import within
from modelsync_daemon.workers.messages import WorkerDied
from modelsync_protocol.errors import LocalError, ModelsyncError
from modelsync_protocol.twin import Wish

_LONGEST_SLEEP_SECONDS = 900.0
"""Deadlines are the clock's, which may be corrected meanwhile: they are looked at again so often."""

_ON_ANOTHER_NETWORK = frozenset({"network", "window", "budget", "offline"})
"""What waits for one of these may go on when another network rule is in force."""

_log = logging.getLogger(__name__)


class Reconciler:
    """One device's loop. `run` it as a task; cancelling it stops what it started and loses nothing durable."""

    def __init__(
        self,
        device: Device,
        updates: Updates,
        pushed: PushedUpdates,
        repairs: Repairs,
        activation: Activation,
        signals: Signals,
        refused: Backoff = REFUSED,
        first_pause: float = 0.0,
    ) -> None:
        """`refused` spaces attempts while this machine can't persist; `first_pause`: seconds until the start."""
        self._device, self._data, self._database = device, device.data, device.database
        self._updates, self._pushed, self._repairs, self._activation = updates, pushed, repairs, activation
        self._signals, self._refused, self._first_pause = signals, refused, first_pause
        self.tasks = ModelTasks()
        self._acting = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._watched = (False, False)

    async def run(self) -> None:
        """Reconcile until cancelled; `resume` comes first."""
        try:
            await asyncio.sleep(self._first_pause)
            while True:
                self._signals.look.clear()
                if await self._device.networks.look():
                    self._roamed()
                try:
                    async with self._acting:
                        again = await self._reconcile()
                except LocalError as error:
                    again = self.postpone(error)
                await self._watch_networks()
                wait = None if again is None else min(max(0.05, again - self._database.clock()), _LONGEST_SLEEP_SECONDS)
                with contextlib.suppress(TimeoutError):
                    await within(wait, self._signals.look.wait())
        finally:
            doomed = [*self.tasks.all(), *([self._watch] if self._watch is not None else [])]
            for task in doomed:
                task.cancel()
            await asyncio.gather(*doomed, return_exceptions=True)

    def resume(self) -> None:
        """At start: bring the disk in line with the states, and go on with switches that were under way."""
        self._data.clean()
        for row in self._database.models():
            self._tidy(row.name)
            if row.state in SWITCHING:
                wish = fingerprint(self._device.desired.of(row.name))
                self.tasks.start(row.name, self._guarded(row.name, partial(self._resume, row.name)), wish)

    def accept(self, document: Mapping[str, Any]) -> None:
        """Desired properties were read: what they change is begun at once, and what waited for the line is tried."""
        changed = self._device.desired.accept(document)
        self.hurry(None if changed else {"offline"})
        self._signals.changed.set()

    def hurry(self, codes: Collection[str] | None) -> None:
        """Let what waits (for one of these reasons; None: for any) be tried now."""
        for row in self._database.models():
            if row.state == State.WAITING and row.retry_at and (codes is None or row.error_code in codes):
                self._database.update(row.name, retry_at=0)
            if codes is None:
                self._activation.told.hurry(row.name)
        self._signals.look.set()

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing is begun while the caller acts; afterwards every model is looked at."""
        async with self._acting:
            try:
                yield
            finally:
                self._signals.look.set()

    def in_use(self, name: str) -> bool:
        """Whether something is under way for `name`."""
        owed = self._activation.told.owed(name) is not None  # it may still read what it serves
        return name in self.tasks or self._pushed.busy(name) or self._repairs.busy(name) or owed

    def preparing(self) -> bool:
        """Whether an update is on its way to this device."""
        return any(row.name in self.tasks and row.state in PREPARING for row in self._database.models())

    async def stop(self, name: str) -> None:
        """Cancel `name`'s task; what it persisted stays (a pointer is switched between two awaits)."""
        if await self.tasks.stop(name):
            self._activation.abandon(name)

    def postpone(self, error: LocalError) -> float:
        """Nothing can be persisted now, so nothing is done; when to look again (epoch seconds).

        A damaged database ends the daemon: only the next start can rebuild it.
        """
        if isinstance(error, DamagedDatabase):
            raise error
        _log.error("%s", error)
        return self._database.clock() + self._refused.seconds(1)

    def _tidy(self, name: str) -> None:
        """At start, bring the disk in line with a settled state: an error or a kill may have come between the two."""
        state = self._database.model(name).state
        try:
            if state not in SWITCHING:
                self._activation.abandon(name)
            if state in garbage.PRUNABLE and self._activation.told.owed(name) is None:
                self._data.prune(name)
        except LocalError as error:  # what serves goes on; the next start or update tries again
            _log.error("%s", error)

    async def _watch_networks(self) -> None:
        """Be told of another network where there are rules. Only the kernel tells, unless something is fetched, or
        waits for what another network may allow: a device at rest sleeps."""
        networks, waiting = self._device.networks, bool(self.tasks)
        if networks and not waiting:
            rows = self._database.models()
            waiting = any(row.state == State.WAITING and row.error_code in _ON_ANOTHER_NETWORK for row in rows)
        wanted = (bool(networks), waiting)
        if self._watch is not None and (wanted != self._watched or self._watch.done()):
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        if networks and self._watch is None:
            self._watched = wanted
            self._watch = asyncio.ensure_future(networks.watch(self._roamed, waiting=waiting))

    def _roamed(self) -> None:
        """Another network rule is in force, or none is any more."""
        self.hurry(_ON_ANOTHER_NETWORK)
        self._signals.changed.set()

    async def _reconcile(self) -> float | None:
        """One look at every model; returns when to look again (epoch seconds), None if only a change can help."""
        deadlines = []
        for name in sorted(self._names()):
            if self._pushed.busy(name) or self._repairs.busy(name):
                continue
            wish = self._device.desired.of(name)
            if self.tasks.serves(name, fingerprint(wish)) or self._activation.told.busy(name):
                continue
            await self.stop(name)
            decision = decide(self._facts(name, wish))
            await self._apply(name, wish, decision)
            if decision.again is not None:
                deadlines.append(decision.again)
            if name not in self.tasks and self._activation.told.owed(name) is not None:
                deadlines.append(self._tell(name, fingerprint(wish)))
        deadlines += [
            row.retry_at
            for row in self._database.models()
            if row.state == State.WAITING and row.retry_at and row.name not in self.tasks
        ]
        return min(deadlines, default=None)

    def _tell(self, name: str, wish: str) -> float:
        """Tell the application of what the pointer names, if it is time; when to look again (epoch seconds)."""
        now, again = self._database.clock(), self._activation.told.retry_at(name)
        if again - now > 0 and again - now < MAX_WAIT_SECONDS:
            return again
        self.tasks.start(name, self._guarded(name, partial(self._settle, name)), wish)
        return now + _LONGEST_SLEEP_SECONDS

    async def _settle(self, name: str) -> None:
        await self._activation.told.settle(name)

    def _names(self) -> set[str]:
        """Models that are here, desired, or on a medium."""
        desired = self._device.desired
        return {row.name for row in self._database.models()} | set(desired.now.models) | set(desired.carried)

    def _facts(self, name: str, wish: Wish) -> Facts:
        current = self._data.read_pointer(name)
        row = self._database.model(name)
        lies = self._pushed.staged(name, wish.version) is not None
        # What lies here, or on a medium, needs neither origin nor time window.
        local = lies or self._device.desired.medium(name, wish.version) is not None
        return Facts(
            row=row,
            wish=wish,
            now=self._database.clock(),
            serving=current.reference if current else None,
            present=bool(row.since) or current is not None or bool(self._data.installed(name)),
            quarantined=self._database.quarantined(name),
            origin="here" if local else self._device.origin(),
            held_by_policy=self._device.policy().hold,
            opens=0.0 if local else self._device.seconds_to_open(),
            wrong_policy="" if local else self._device.wrong_policy(),
            network="" if local else self._device.networks.closed(),
            lacking=row.state == State.UNSUPPORTED
            and refusals.still(self._database, name, self._device.fingerprint(name)),
        )

    async def _apply(self, name: str, wish: Wish, decision: Decision) -> None:
        if decision.lift_hold:
            self._database.update(name, hold="")
            self._signals.changed.set()
        if decision.step == Step.SETTLE:
            self._database.transition(
                name,
                decision.state,
                desired=fingerprint(wish),
                error_code=decision.code,
                error_text=decision.text,
                attempts=0,
                retry_at=int(decision.again) + 1 if decision.again else 0,
            )
            self._activation.abandon(name)
            self._data.follow_pointer(name)
            self._signals.changed.set()
        elif decision.step == Step.REMOVE:
            self._database.transition(name, State.IDLE)
            await self._activation.remove(name)
            self._signals.changed.set()
        elif decision.step == Step.PREPARE:
            work = partial(self._updates.run, name, wish, decision.fresh)
            self.tasks.start(name, self._guarded(name, work), fingerprint(wish))

    async def _guarded(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            try:
                await work()
            except ModelsyncError as error:
                self._updates.wait(name, error, False)
            except Exception as error:  # a defect must not end the daemon, which serves other models too
                _log.exception("%s: a defect", name)
                self._updates.wait(name, WorkerDied(f"a defect: {type(error).__name__}: {error}."), False)
            self._device.ledger.flush()
            self._database.checkpoint()
        except LocalError as error:
            self.postpone(error)
            await asyncio.sleep(self._refused.seconds(1))
        finally:
            self._updates.progress.pop(name, None)
            self.tasks.ended(name)
            self._signals.changed.set()
            self._signals.look.set()

    async def _resume(self, name: str) -> None:
        if not await self._activation.resume(name, self._device.desired.of(name).retry):
            self._database.transition(name, State.WAITING)
