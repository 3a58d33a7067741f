"""Brings a complete version into service, watches it, and goes back: probing, activating, probation, rollback.

It fetches nothing. Each step is persisted first, and `resume` goes on from whatever step a kill left behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from modelsync_daemon.activate import inference_processes as reports
from modelsync_daemon.activate.inference_processes import Event, Joined, Left, Processes, Report
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Pointer, Reference
from modelsync_daemon.disk.states import SETTLED, State
from modelsync_daemon.timing.deadline import within
from modelsync_protocol.errors import ModelsyncError, RefusedError

UPDATE, ROLLBACK, FALLBACK = "update", "rollback", "fallback"
"""Why a model is in `activating`: a new version, a rollback that was asked for, a fallback after a failure."""

_MAX_DEATHS = 3
_MAX_STARTS = 3
_MIN_ERRORS = 5
_ERROR_RATE_RISE = 0.1
_MIN_TIMED_REQUESTS = 50
_SLOWER = 4.0
_SLOWER_BY_MICROSECONDS = 2000


class NotServing(ModelsyncError):
    """An inference process refused or broke the version; the sentence says why."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take, seconds. `settle`: for inference processes to come back after a restart of ours."""

    probe: float = 60.0
    probation: float = 60.0
    settle: float = 5.0


@dataclass(frozen=True, slots=True)
class Before:
    """How the version before the switch did: the share of runs that failed, and the mean microseconds of one.

    0: not known, and then it is not compared.
    """

    error_rate: float = 0.0
    run_us: float = 0.0


class Activation:
    """The switch of every model on this device. One call per model at a time (the resident sees to that)."""

    def __init__(
        self,
        data: DataDir,
        database: Database,
        processes: Processes,
        patience: Patience,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._data, self._database, self.processes = data, database, processes
        self._patience, self._changed = patience, changed
        self._begin = time.monotonic()

    async def install(self, name: str, reference: Reference, retry: str = "") -> None:
        """Bring `reference`, complete on the disk, into service: probe, activate, probation.

        `retry` is the twin's token, remembered with a quarantine. Returns in `active`, `rolled back` or
        `quarantined`; never raises for a bad version.
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
        before = self._how_it_did(name)
        try:
            await self._probe(pointer)
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
                self._fall_back(current, "the device restarted again and again while it was on probation.", retry)
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
            self._step(name, State.ROLLED_BACK)
            self._data.prune(name)
            return True
        if row.state == State.ACTIVATING and current and pointed and current.generation == row.generation:
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
        elif self._database.model(name).state in SETTLED:
            self._fall_back(current, reason, retry)

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
                ended = _how_it_ended(event) or ended
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
        if not self.processes.registered(name):
            self._finish(pointer)
            return
        try:
            await self._await_serving(pointer)
        except NotServing as error:
            self._fall_back(pointer, str(error), retry)
            return
        self._step(name, State.PROBATION, starts=0)
        await self._probation(pointer, before, retry)

    async def _await_serving(self, pointer: Pointer) -> None:
        if any(_is_about(report, pointer) and report.state == reports.SERVING for report in self._last(pointer)):
            return
        with self.processes.events(pointer.name) as events:
            self.processes.hint(pointer.name, "current")
            deadline = time.monotonic() + self._patience.probe
            while True:
                event = await _next(events, deadline)
                if event is None:
                    raise NotServing(f"no inference process served it within {self._patience.probe:.0f} s.")
                if isinstance(event, Report) and _is_about(event, pointer):
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
        deaths, ended = 0, ""
        with self.processes.events(pointer.name) as events:
            while (event := await _next(events, deadline)) is not None:
                trouble = None
                ended = _how_it_ended(event) or ended
                if isinstance(event, Left):
                    deaths += 1
                    if deaths >= _MAX_DEATHS:
                        trouble = f"the inference process ended {deaths} times while it was on probation{ended}."
                elif isinstance(event, Report) and _is_about(event, pointer):
                    trouble = _trouble(event, before)
                if trouble is not None:
                    self._fall_back(pointer, trouble, retry)
                    return
        self._finish(pointer)

    def _finish(self, pointer: Pointer) -> None:
        self._step(pointer.name, State.ACTIVE, attempts=0, error_code="", error_text="", starts=0)
        self._data.prune(pointer.name)

    def _fall_back(self, bad: Pointer, reason: str, retry: str) -> None:
        """Quarantine what `bad` points to and go back to its previous version, if there is one."""
        name = bad.name
        self._database.quarantine(name, bad.digest, bad.version, reason, retry)
        previous = bad.previous
        if previous is None or self._data.find(name, previous) is None:
            self._step(name, State.QUARANTINED, error_code="serving", error_text=reason, attempts=0)
            return
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
        self._step(name, State.ROLLED_BACK)
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

    def _how_it_did(self, name: str) -> Before:
        served = [report for report in self.processes.last(name) if report.state == reports.SERVING]
        requests = sum(report.requests for report in served)
        timed = [report.run_us for report in served if report.run_us and report.requests >= _MIN_TIMED_REQUESTS]
        errors = sum(report.errors for report in served)
        return Before(errors / requests if requests else 0.0, sum(timed) / len(timed) if timed else 0.0)

    def _step(self, name: str, state: State, **details: object) -> None:
        self._database.transition(name, state, **details)
        self._changed()


def _how_it_ended(event: Event) -> str:
    """The rest of a sentence about the process that a reporting one came after; empty if nobody knows."""
    return f" (it {event.ended})" if isinstance(event, Report) and event.restarts and event.ended else ""


def _is_about(report: Report, pointer: Pointer) -> bool:
    return report.pointer == "current" and report.generation == pointer.generation and report.digest == pointer.digest


def _trouble(report: Report, before: Before) -> str | None:
    if report.state in (reports.REFUSED, reports.FAILED):
        return report.reason or "the inference process can't serve it."
    if report.errors >= _MIN_ERRORS and report.errors / max(report.requests, 1) > before.error_rate + _ERROR_RATE_RISE:
        return f"{report.errors} of {report.requests} requests failed since the switch."
    limit = max(before.run_us * _SLOWER, before.run_us + _SLOWER_BY_MICROSECONDS)
    if before.run_us and report.requests >= _MIN_TIMED_REQUESTS and report.run_us > limit:
        return (
            f"a run takes {report.run_us / 1000:.1f} ms on average since the switch; "
            f"the version before took {before.run_us / 1000:.1f} ms."
        )
    return None


async def _next(events: asyncio.Queue[Event], deadline: float) -> Event | None:
    """The next event, or None at `deadline` (monotonic seconds)."""
    try:
        return await within(max(0.0, deadline - time.monotonic()), events.get())
    except TimeoutError:
        return None
