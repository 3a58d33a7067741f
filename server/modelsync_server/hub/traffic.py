"""What the service REST is asked: counted by kind, refused beyond settable rates (429), kept. No network here.

Kinds and rates are those of learn.microsoft.com/azure/iot-hub/iot-hub-devguide-quotas-throttling. Azure lets short
bursts through and queues; this hub refuses at once, so that whoever keeps to its rates keeps to Azure's.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from modelsync_protocol.errors import UsageError
from modelsync_server.iothub.errors import HubError

KINDS = ("queries", "twin_reads", "twin_updates", "configurations", "methods", "registry")
KEPT = 100_000
"""Requests kept in memory, the newest."""

_RATE = re.compile(r"(\d+)/(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` requests in any `seconds`."""

    count: int
    seconds: float

    def __post_init__(self) -> None:
        if self.count < 1 or self.seconds <= 0:
            raise UsageError("a rate is COUNT/SECONDS, both more than 0, such as 20/60.")


Rates = Mapping[str, Rate]
TIERS: Mapping[str, Rates] = {
    "none": {},
    "S1": {
        "queries": Rate(20, 60),
        "twin_reads": Rate(100, 1),
        "twin_updates": Rate(50, 1),
        "configurations": Rate(20, 60),
        "methods": Rate(40, 1),
        "registry": Rate(100, 60),
    },
    "S2": {
        "queries": Rate(20, 60),
        "twin_reads": Rate(100, 1),
        "twin_updates": Rate(50, 1),
        "configurations": Rate(20, 60),
        "methods": Rate(120, 1),
        "registry": Rate(100, 60),
    },
    "S3": {
        "queries": Rate(1000, 60),
        "twin_reads": Rate(500, 1),
        "twin_updates": Rate(250, 1),
        "configurations": Rate(20, 60),
        "methods": Rate(6000, 1),
        "registry": Rate(5000, 60),
    },
}
"""Azure's rates for one unit."""


def parse_rates(tier: str, texts: Iterable[str]) -> dict[str, Rate]:
    """The rates of a tier, with single ones replaced (`queries=20/60`); UsageError says what is wrong."""
    if tier not in TIERS:
        raise UsageError(f"{tier!r} is not a tier; take one of {', '.join(TIERS)}.")
    rates = dict(TIERS[tier])
    for text in texts:
        kind, equals, value = text.partition("=")
        found = _RATE.fullmatch(value)
        if not equals or kind not in KINDS or found is None:
            raise UsageError(f"{text!r} is not of the form KIND=COUNT/SECONDS with a KIND of {', '.join(KINDS)}.")
        rates[kind] = Rate(int(found[1]), float(found[2]))
    return rates


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when (monotonic seconds), what kind, and how it was answered."""

    at: float
    kind: str
    method: str
    path: str
    status: int

    def document(self) -> dict[str, Any]:
        return {"at": self.at, "kind": self.kind, "method": self.method, "path": self.path, "status": self.status}


class TooManyRequests(HubError):
    """429; `after` whole seconds until the next one is let in."""

    def __init__(self, kind: str, after: int) -> None:
        super().__init__(429001, "ThrottlingException", f"too many {kind.replace('_', ' ')}; wait {after} s.")
        self.after = after


def kind_of(method: str, path: str) -> str:
    """Which of KINDS a request is."""
    first, _, rest = path.lstrip("/").partition("/")
    if first == "configurations":
        return "configurations"
    if first == "twins":
        if rest.endswith("/methods"):
            return "methods"
        return "twin_reads" if method == "GET" else "twin_updates"
    return "queries" if (first, rest, method) == ("devices", "query", "POST") else "registry"


@dataclass(slots=True)
class Traffic:
    """The log and the rates in force; `sink` gets each request as a JSON line."""

    rates: Rates = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    sink: Callable[[str], None] | None = None
    log: deque[Request] = field(default_factory=lambda: deque(maxlen=KEPT))
    _let_in: dict[str, deque[float]] = field(default_factory=dict)

    def admit(self, kind: str) -> None:
        """Count one request of a kind; TooManyRequests if its rate is used up."""
        rate = self.rates.get(kind)
        if rate is None:
            return
        now, times = self.clock(), self._let_in.setdefault(kind, deque())
        while times and times[0] <= now - rate.seconds:
            times.popleft()
        if len(times) >= rate.count:
            raise TooManyRequests(kind, max(1, ceil(times[0] + rate.seconds - now)))
        times.append(now)

    def note(self, kind: str, method: str, path: str, status: int) -> None:
        """Remember how a request was answered."""
        request = Request(self.clock(), kind, method, path, status)
        self.log.append(request)
        if self.sink is not None:
            self.sink(json.dumps(request.document()))

    def peak(self, kind: str, seconds: float) -> int:
        """The most requests of a kind in any `seconds`, refused ones included."""
        times = [request.at for request in self.log if request.kind == kind]
        first = most = 0
        for last, at in enumerate(times):
            while times[first] <= at - seconds:
                first += 1
            most = max(most, last - first + 1)
        return most
