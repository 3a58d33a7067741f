"""Brings a complete version into service, watches it, and goes back: probing, activating, probation, rollback.

Inference processes follow the pointers and report; another application is told (telling.py). It
fetches nothing. Each step is persisted first, and `resume` goes on from whatever step a kill left behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelsync_daemon.activate import inference_processes as reports
from modelsync_daemon.activate import telling
from modelsync_daemon.activate.consumer import NotServing, NotThere
from modelsync_daemon.activate.inference_processes import Event, Joined, Left, Processes, Report, Unready
from modelsync_daemon.activate.telling import Telling
from modelsync_daemon.activate.verdicts import Before, how_it_did, how_it_ended, is_about, trouble_with
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Pointer, Reference
from modelsync_daemon.disk.states import SETTLED, State
from modelsync_daemon.timing.deadline import within
from modelsync_protocol.errors import RefusedError

UPDATE, ROLLBACK, FALLBACK = "update", "rollback", "fallback"
"""Why a model is in `activating`: a new version, a rollback that was asked for, a fallback after a failure."""

_MAX_DEATHS = 3
_MAX_STARTS = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take, seconds. `settle`: for inference processes to come back after a restart of ours."""

    probe: float = 60.0
    probation: float = 60.0
    settle: float = 5.0


class Activation:
    """The switch of every model on this device. One call per model at a time (the resident sees to that)."""

    def __init__(
        self,
        data: DataDir,
        database: Database,
        processes: Processes,
        patience: Patience,
        changed: Callable[[], None] = lambda: None,
        told: Telling | None = None,
    ) -> None:
        """`told`: applications that are told of versions; None: there are none."""
        self._data, self._database, self.processes = data, database, processes
        self.told = told or Telling(data, database)
        self._patience, self._changed = patience, changed
        self._begin = time.monotonic()

    async def install(self, name: str, reference: Reference, retry: str = "") -> None:
        """Bring `reference`, complete on the disk, into service: probe, activate, probation.

        `retry` is the twin's token, remembered with a quarantine. Returns in `active`, `rolled back` or
        `quarantined`; never raises for a bad version. NotThere: its application can't be told now.
        """
        old = self._data.read_pointer(name)
        # Every attempt takes a new generation, so that a late report about an earlier one can't be mistaken.
        generation = self._next_generation(name, old)
        self._step(
            name,
            State.PROBING,
            target_version=reference.version,
            target_digest=reference.digest,
            intent=UPDATE,
            generation=generation,
            starts=0,
        )
        await self._settle(name)
        previous = old.previous if old and old.reference == reference else old.reference if old else None
        pointer = Pointer(name, reference, generation, previous)
        before = how_it_did(self.processes.last(name))
        try:
            await self._probe(pointer)
            await self.told.examine(pointer)
        except NotThere:  # nothing is said against the version
            self._drop_candidate(name)
            raise
        except NotServing as error:
            self._database.quarantine(name, reference.digest, reference.version, str(error), retry)
            self._step(name, State.QUARANTINED, error_code="probe", error_text=str(error), attempts=0)
            self._drop_candidate(name)
            self._data.prune(name)
            return
        self._step(name, State.ACTIVATING)
        self._point(pointer)
        await self._after_switch(pointer, before, retry)

    async def remove(self, name: str) -> None:
        """Take `name` off this device: files, state, and whoever serves it. Raises LocalError."""
        await asyncio.to_thread(self._data.remove_model, name)
        self._database.forget(name)
        telling.forget(self._database, name)
        self.processes.hint(name, "current")

    async def resume(self, name: str, retry: str = "") -> bool:
        """Go on with a switch that a restart interrupted; False if its version must be prepared again."""
        row = self._database.model(name)
        if row.target_version is None or row.target_digest is None:
            return False
        target = Reference(row.target_version, row.target_digest)
        current = self._data.read_pointer(name)
        pointed = current is not None and current.reference == target
        if row.state == State.PROBATION and current is not None and pointed:
            starts = row.starts + 1
            self._database.update(name, starts=starts)
            if starts >= _MAX_STARTS or target.digest in self._database.quarantined(name):
                reason = "the device restarted again and again while it was on probation."
                await self._fall_back(current, reason, retry)
                return True
            await self._settle(name)
            await self._probation(current, Before(), retry)
            return True
        if row.state == State.ACTIVATING and row.intent in (ROLLBACK, FALLBACK):
            if self._data.find(name, target) is None:
                return False
            if not pointed or current is None or current.generation != row.generation:
                previous = current.reference if current and row.intent == ROLLBACK else None
                self._point(Pointer(name, target, row.generation, previous))
            await self._come_back(name)
            return True
        if row.state == State.ACTIVATING and current and pointed and current.generation == row.generation:
            starts = row.starts + 1
            self._database.update(name, starts=starts)
            if starts >= _MAX_STARTS:
                reason = "the device restarted again and again while it was brought into service."
                await self._fall_back(current, reason, retry)
                return True
            self._drop_candidate(name)
            await self._settle(name)
            await self._after_switch(current, Before(), retry)
            return True
        if self._data.find(name, target) is None:
            return False
        await self.install(name, target, retry)
        return True

    def check_previous(self, name: str) -> tuple[Pointer, Reference]:
        """The pointer and the complete version that `roll_back` would go to; raises RefusedError if there is none."""
        current = self._data.read_pointer(name)
        if current is None:
            raise RefusedError(f"{name} has no active version on this device.")
        if current.previous is None or self._data.find(name, current.previous) is None:
            raise RefusedError(f"{name} has no previous version on this device to go back to.")
        if current.previous.version in self._database.withdrawn(name):
            raise RefusedError(f"{name}'s previous version {current.previous.version} was withdrawn by its publisher.")
        return current, current.previous

    def roll_back(self, name: str, hold: str) -> Pointer:
        """Point to the kept previous version, for zero bytes, and set `hold`; raises RefusedError if there is none."""
        current, previous = self.check_previous(name)
        back = Pointer(name, previous, self._next_generation(name, current), current.reference)
        self._step(
            name,
            State.ACTIVATING,
            intent=ROLLBACK,
            target_version=back.version,
            target_digest=back.digest,
            generation=back.generation,
            hold=hold,
            attempts=0,
            error_code="",
            error_text="",
        )
        self._drop_candidate(name)
        self._point(back)
        self._step(name, State.ROLLED_BACK)
        return back

    def point_at_once(self, name: str, reference: Reference) -> Pointer:
        """Activate without anybody watching (`modelsyncd pull`); the current version again costs no generation."""
        old = self._data.read_pointer(name)
        if old is not None and old.reference == reference:
            self._step(name, State.PROBING)
            self._finish(old)
            return old
        pointer = Pointer(name, reference, self._next_generation(name, old), old.reference if old else None)
        target = {"target_version": reference.version, "target_digest": reference.digest, "intent": UPDATE}
        self._step(name, State.PROBING, **target)
        self._step(name, State.ACTIVATING, generation=pointer.generation)
        self._point(pointer)
        self._finish(pointer)
        return pointer

    def abandon(self, name: str) -> None:
        """A probe was cancelled: take the candidate away."""
        self._drop_candidate(name)

    def refused_current(self, name: str, report: Report, retry: str = "") -> None:
        """A process reports outside any switch that the current version does not load: go back."""
        current = self._data.read_pointer(name)
        if current is None or current.generation != report.generation or current.digest != report.digest:
            return
        reason = report.reason or "the inference process can't serve it."
        if current.previous is None:
            self._database.quarantine(name, current.digest, current.version, reason, retry)
            if self._database.model(name).state == State.ACTIVE:
                self._step(name, State.QUARANTINED, error_code="serving", error_text=reason)
        elif self._database.model(name).state in SETTLED and self._point_back(current, reason, retry):
            self._step(name, State.ROLLED_BACK)  # an application that is told as well is so by the next look
            self._prune(name)

    async def _probe(self, pointer: Pointer) -> None:
        """Have every registered process load the candidate; raises NotServing. Nobody registered: nothing to ask."""
        name, deaths, ended = pointer.name, 0, ""
        waiting = set(self.processes.registered(name))
        if not waiting:
            return
        with self.processes.events(name) as events:
            self._data.write_candidate(pointer)
            self.processes.hint(name, "candidate")
            deadline = time.monotonic() + self._patience.probe
            while True:
                event = await _next(events, deadline)
                if event is None:
                    raise NotServing(f"no inference process answered the probe within {self._patience.probe:.0f} s.")
                if isinstance(event, Joined):
                    waiting.add(event.pid)
                    continue
                if isinstance(event, Left):
                    waiting.discard(event.pid)
                    deaths += 1
                    if deaths >= 2:
                        raise NotServing(f"the inference process died twice while it loaded this version{ended}.")
                    continue
                if not isinstance(event, Report):
                    continue
                ended = how_it_ended(event) or ended
                if event.state == reports.DEFERRED:
                    deadline = time.monotonic() + self._patience.probe  # the application keeps us waiting, and says so
                elif event.pointer == "candidate" and event.generation == pointer.generation:
                    if event.state != reports.READY:
                        raise NotServing(event.reason or "the inference process refused it.")
                    waiting.discard(event.pid)
                    if not waiting:
                        return

    async def _after_switch(self, pointer: Pointer, before: Before, retry: str) -> None:
        name = pointer.name
        if not self.processes.registered(name) and not self.told.has(name):
            self._finish(pointer)
            return
        try:
            await self.told.load(pointer)
            if self.processes.registered(name):
                await self._await_serving(pointer)
        except NotServing as error:
            if isinstance(error, NotThere) and pointer.previous is None:
                self._finish(pointer)  # it finds its first model when it comes, and is told then
            else:
                await self._fall_back(pointer, str(error), retry)
            return
        self._step(name, State.PROBATION, starts=0)
        await self._probation(pointer, before, retry)

    async def _await_serving(self, pointer: Pointer) -> None:
        if any(is_about(report, pointer) and report.state == reports.SERVING for report in self._last(pointer)):
            return
        with self.processes.events(pointer.name) as events:
            self.processes.hint(pointer.name, "current")
            deadline = time.monotonic() + self._patience.probe
            while True:
                event = await _next(events, deadline)
                if event is None:
                    raise NotServing(f"no inference process served it within {self._patience.probe:.0f} s.")
                if isinstance(event, Report) and is_about(event, pointer):
                    if event.state == reports.SERVING:
                        return
                    if event.state == reports.DEFERRED:
                        deadline = time.monotonic() + self._patience.probe
                    if event.state in (reports.REFUSED, reports.FAILED):
                        raise NotServing(event.reason or "the inference process can't serve it.")

    async def _probation(self, pointer: Pointer, before: Before, retry: str) -> None:
        since = self._database.model(pointer.name).since
        left = self._patience.probation - max(0.0, self._database.clock() - since)
        deadline = time.monotonic() + max(0.0, min(left, self._patience.probation))
        with self.processes.events(pointer.name) as events:
            async with self.told.watched(pointer, events.put_nowait):
                trouble = await _trouble(events, deadline, pointer, before)
        if trouble is not None:
            await self._fall_back(pointer, trouble, retry)
            return
        self._finish(pointer)

    def _finish(self, pointer: Pointer) -> None:
        self._step(pointer.name, State.ACTIVE, attempts=0, error_code="", error_text="", starts=0)
        self._data.prune(pointer.name)

    async def _fall_back(self, bad: Pointer, reason: str, retry: str) -> None:
        """Quarantine what `bad` points to and go back to its previous version, if there is one."""
        if self._point_back(bad, reason, retry):
            await self._come_back(bad.name)

    def _point_back(self, bad: Pointer, reason: str, retry: str) -> bool:
        """The first half of it, up to the pointer; False if there is nothing to go back to."""
        name = bad.name
        self._database.quarantine(name, bad.digest, bad.version, reason, retry)
        previous = bad.previous
        if previous is None or self._data.find(name, previous) is None:
            self._step(name, State.QUARANTINED, error_code="serving", error_text=reason, attempts=0)
            return False
        back = Pointer(name, previous, self._next_generation(name, bad), None)
        self._step(
            name,
            State.ACTIVATING,
            intent=FALLBACK,
            target_version=back.version,
            target_digest=back.digest,
            generation=back.generation,
            error_code="serving",
            error_text=reason,
            attempts=0,
        )
        self._point(back)
        return True

    async def _come_back(self, name: str) -> None:
        """The second half: have the version loaded that the pointer names again. One that does not is told again."""
        await self.told.settle(name)
        self._step(name, State.ROLLED_BACK)
        self._prune(name)

    def _prune(self, name: str) -> None:
        """Remove what is not needed; an application that did not come back yet may still read what it serves."""
        if self.told.owed(name) is None:
            self._data.prune(name)

    def _point(self, pointer: Pointer) -> None:
        self._data.write_current(pointer)
        self._drop_candidate(pointer.name)
        self.processes.hint(pointer.name, "current")

    def _drop_candidate(self, name: str) -> None:
        self._data.remove_candidate(name)
        self.processes.hint(name, "candidate")

    async def _settle(self, name: str) -> None:
        """Shortly after our start, give inference processes time to register again before nobody is asked.

        Only where one was ever seen: a device without inference processes need not wait.
        """
        key = f"watched:{name}"
        while not self.processes.registered(name):
            left = self._begin + self._patience.settle - time.monotonic()
            if left <= 0 or self._database.document(key) is None:
                return
            await asyncio.sleep(min(left, 0.1))
        self._database.remember(key, "yes")

    def _next_generation(self, name: str, current: Pointer | None) -> int:
        return max(current.generation if current else 0, self._database.model(name).generation) + 1

    def _last(self, pointer: Pointer) -> list[Report]:
        return self.processes.last(pointer.name)

    def _step(self, name: str, state: State, **details: Any) -> None:
        self._database.transition(name, state, **details)
        self._changed()


async def _next(events: asyncio.Queue[Event], deadline: float) -> Event | None:
    """The next event, or None at `deadline` (monotonic seconds)."""
    try:
        return await within(max(0.0, deadline - time.monotonic()), events.get())
    except TimeoutError:
        return None


async def _trouble(events: asyncio.Queue[Event], deadline: float, pointer: Pointer, before: Before) -> str | None:
    """Why the version that `pointer` names has to go; None if nothing was said against it until `deadline`."""
    deaths, ended = 0, ""
    while (event := await _next(events, deadline)) is not None:
        trouble = None
        ended = how_it_ended(event) or ended
        if isinstance(event, Unready):
            trouble = event.reason
        elif isinstance(event, Left):
            deaths += 1
            if deaths >= _MAX_DEATHS:
                trouble = f"the inference process ended {deaths} times while it was on probation{ended}."
        elif isinstance(event, Report) and is_about(event, pointer):
            trouble = trouble_with(event, before)
        if trouble is not None:
            return trouble
    return None
