"""The inference processes that are registered on the socket: who watches which model, and what they report.

It passes on and remembers; what follows from a report is the activation's business (activation.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelsync_protocol import names
from modelsync_protocol.errors import UsageError

READY, SERVING, REFUSED, FAILED, DEFERRED = "ready", "serving", "refused", "failed", "deferred"
_STATES = (READY, SERVING, REFUSED, FAILED, DEFERRED)
_COUNTERS = {"canary": ("requests", "errors"), "shadow": ("requests", "errors", "skipped", "rows", "agreed")}


@dataclass(frozen=True, slots=True)
class Report:
    """What an inference process did with a pointer (docs/interfaces.md §3)."""

    pid: int
    pointer: str
    generation: int
    version: int
    digest: str
    state: str
    reason: str = ""
    requests: int = 0
    errors: int = 0
    run_us: int = 0
    restarts: int = 0
    ended: str = ""
    trial: Mapping[str, Mapping[str, int]] | None = None

    @classmethod
    def parse(cls, document: object) -> Report:
        """Read a report's JSON document; raises UsageError with a sentence."""
        if not isinstance(document, Mapping):
            raise UsageError("a report is a JSON object.")
        if document.get("pointer") not in ("candidate", "current") or document.get("state") not in _STATES:
            raise UsageError(f"a report needs a pointer (candidate or current) and a state of {', '.join(_STATES)}.")
        if not names.is_digest(document.get("digest")):
            raise UsageError("a report needs the digest that it speaks of.")
        return cls(
            pid=_count(document, "pid"),
            pointer=document["pointer"],
            generation=_count(document, "generation"),
            version=_count(document, "version"),
            digest=document["digest"],
            state=document["state"],
            reason=" ".join(str(document.get("reason") or "").split())[:240],
            requests=_count(document, "requests"),
            errors=_count(document, "errors"),
            run_us=_count(document, "run_us"),
            restarts=_count(document, "restarts"),
            ended=" ".join(str(document.get("ended") or "").split())[:120],
            trial=_trial(document.get("trial")),
        )


@dataclass(frozen=True, slots=True)
class Joined:
    """A process registered."""

    pid: int


@dataclass(frozen=True, slots=True)
class Left:
    """A process's registration ended: it stopped or died."""

    pid: int


@dataclass(frozen=True, slots=True)
class Unready:
    """An application that was told to serve a version does not; the sentence says why."""

    reason: str


Event = Report | Joined | Left | Unready


class Watch:
    """One process's registration: a queue of hints to stream to it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.hints: asyncio.Queue[str] = asyncio.Queue(maxsize=64)


class Processes:
    """All registrations of this daemon, by model."""

    def __init__(self) -> None:
        self._watches: dict[str, list[Watch]] = {}
        self._listeners: dict[str, list[asyncio.Queue[Event]]] = {}
        self._last: dict[tuple[str, int], Report] = {}
        self._said: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._fewer: set[str] = set()

    @contextlib.contextmanager
    def register(self, name: str, pid: int) -> Iterator[Watch]:
        """Count a process as registered for `name` as long as the context lasts."""
        watch = Watch(pid)
        self._watches.setdefault(name, []).append(watch)
        self._tell(name, Joined(pid))
        try:
            yield watch
        finally:
            self._watches[name].remove(watch)
            self._last.pop((name, pid), None)
            if self._said.pop((name, pid), None) is not None:
                self._fewer.add(name)
            self._tell(name, Left(pid))

    def registered(self, name: str) -> frozenset[int]:
        """Process ids that watch `name` now."""
        return frozenset(watch.pid for watch in self._watches.get(name, ()))

    def hint(self, name: str, event: str) -> None:
        """Tell every process that watches `name` to re-read its pointers."""
        for watch in self._watches.get(name, ()):
            with contextlib.suppress(asyncio.QueueFull):  # a process that reads nothing polls its pointers anyway
                watch.hints.put_nowait(event)

    def report(self, name: str, report: Report) -> None:
        """Take in what a process reports."""
        self._last[name, report.pid] = report
        self._tell(name, report)

    def last(self, name: str) -> list[Report]:
        """Each registered process's latest report about `name`."""
        return [report for (model, _), report in self._last.items() if model == name]

    def say(self, name: str, pid: int, environment: Mapping[str, Any]) -> None:
        """A registered process says what it runs models with; of others nothing is taken in."""
        if pid in self.registered(name):
            self._said[name, pid] = environment

    def environments(self, name: str) -> list[Mapping[str, Any]]:
        """What the registered processes said of themselves."""
        return [said for (model, _), said in self._said.items() if model == name]

    def fewer(self, name: str) -> bool:
        """Whether a process that had said something has left since the last call."""
        left = name in self._fewer
        self._fewer.discard(name)
        return left

    @contextlib.contextmanager
    def events(self, name: str) -> Iterator[asyncio.Queue[Event]]:
        """A queue that gets every event about `name` from now on."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._listeners.setdefault(name, []).append(queue)
        try:
            yield queue
        finally:
            self._listeners[name].remove(queue)

    def _tell(self, name: str, event: Event) -> None:
        for queue in self._listeners.get(name, ()):
            queue.put_nowait(event)


def _count(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key, 0)
    if type(value) is not int or value < 0:
        raise UsageError(f"a report's {key} is a whole number from 0.")
    return value


def _trial(value: object) -> dict[str, dict[str, int]] | None:
    """The counters of a trial by role; what is none of ours is left out."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise UsageError("a report's trial is an object or null.")
    roles = {role: value[role] for role in _COUNTERS if isinstance(value.get(role), Mapping)}
    return {role: {key: _count(counters, key) for key in _COUNTERS[role]} for role, counters in roles.items()}
