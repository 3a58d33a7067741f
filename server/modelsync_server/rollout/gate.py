"""Decides whether a ring has passed: pure arithmetic on counts and times, the same for every fleet. No I/O, no clock.

All times are the hub's (seconds since 1970), so that the clocks of operators do not matter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from modelsync_protocol.errors import UsageError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True, slots=True)
class Gate:
    """When a ring lets the next one go.

    `active`: how many devices serve the new version: a number, or a share of those that can be reached. `failures`:
    the largest share of refusals and rollbacks. `soak`: seconds that must pass once enough are active. `wait`: seconds
    after which a ring that is still not through stops the rollout. `returns`: whether a ring that fails goes back.
    """

    active: int | float = 0.8
    failures: float = 0.02
    soak: float = 1800.0
    wait: float = 7 * 86400.0
    returns: bool = True

    def __post_init__(self) -> None:
        whole = type(self.active) is int
        if not (whole and self.active >= 1) and not (not whole and 0 < self.active <= 1):
            raise UsageError("a gate's `active` is a number of devices from 1, or a share such as 80%.")
        if not 0 <= self.failures < 1:
            raise UsageError("a gate's `failures` is a share below 100%, such as 2%.")
        if not (0 <= self.soak < math.inf and 0 < self.wait < math.inf and self.soak <= self.wait):
            raise UsageError("a gate's `soak` is no longer than its `wait`, such as 30m and 7d.")

    def needed(self, reachable: int) -> int:
        """How many active devices it takes where so many can be reached."""
        if type(self.active) is int:
            return self.active
        return max(1, math.ceil(self.active * reachable - 1e-9))

    def allowed(self, devices: int) -> int:
        """How many of so many devices may fail."""
        return math.floor(self.failures * devices + 1e-9)

    def document(self) -> dict[str, Any]:
        """As JSON; `parse_gate` reads it."""
        return {
            "active": self.active if type(self.active) is int else f"{_plain(self.active * 100)}%",
            "failures": f"{_plain(self.failures * 100)}%",
            "soak": f"{_plain(self.soak)}s",
            "wait": f"{_plain(self.wait)}s",
            "returns": self.returns,
        }


def parse_gate(value: object, default: Gate) -> Gate:
    """A gate from a file's table or an option's JSON; what is left out is the default's. UsageError."""
    if value is None:
        return default
    if not isinstance(value, Mapping):
        raise UsageError("a gate is a table with active, failures, soak, wait and returns.")
    unknown = value.keys() - {"active", "failures", "soak", "wait", "returns"}
    if unknown:
        raise UsageError(f"a gate has no {sorted(unknown)[0]!r:.40}; it has active, failures, soak, wait and returns.")
    returns = value.get("returns", default.returns)
    if type(returns) is not bool:
        raise UsageError("a gate's `returns` is true or false.")
    active = value.get("active", default.active)
    return Gate(
        active
        if type(active) is int or (isinstance(active, float) and active == default.active)
        else parse_share(active),
        parse_share(value["failures"]) if "failures" in value else default.failures,
        parse_duration(value["soak"]) if "soak" in value else default.soak,
        parse_duration(value["wait"]) if "wait" in value else default.wait,
        returns,
    )


def parse_share(value: object) -> float:
    """`80%` as 0.8; UsageError."""
    found = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or float(found[1]) > 100:
        raise UsageError(f"{value!r:.40} is no share; write it as 80%.")
    return round(float(found[1]) / 100, 12)


def parse_duration(value: object) -> float:
    """`30m`, `2h`, `7d`, `90s` or a number of seconds; UsageError."""
    if type(value) in (int, float):
        value = _plain(float(str(value)))
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise UsageError(f"{value!r:.40} is no time; write it as 90s, 30m, 2h or 7d.")
    return round(float(found[1]) * _UNITS[found[2]], 6)


def _plain(number: float) -> str:
    """A number without an exponent, exact enough to read back what was written."""
    return f"{number:.10f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many devices of a ring were asked, and how far they are. What is none of the others failed."""

    asked: int = 0
    active: int = 0
    waiting: int = 0
    refused: int = 0
    rolled_back: int = 0
    unsupported: int = 0
    """Those that say that they can't run the version: they fetched nothing, and did not fail."""

    @property
    def failed(self) -> int:
        """Refusals, rollbacks, and reports that make no sense."""
        left = self.asked - self.active - self.waiting - self.unsupported
        return max(left, self.refused + self.rolled_back, 0)

    @property
    def answered(self) -> int:
        return self.active + self.failed


class Verdict(StrEnum):
    """What follows from a ring's state."""

    WAIT = "wait"
    ADVANCE = "advance"
    BREAK = "break"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and why, in one sentence; `ripe` is when enough devices were active (None: they are not)."""

    verdict: Verdict
    why: str
    ripe: float | None


def judge(gate: Gate, counts: Counts, reachable: int, opened: float, ripe: float | None, now: float) -> Judgement:
    """Judge a ring of `reachable` devices that was opened at `opened`; `ripe` is what the last judgement said.

    Devices that can't run the version are not among the reachable ones.
    """
    unable = f" ({devices(counts.unsupported)} can't run it)" if counts.unsupported else ""
    allowed, needed = gate.allowed(max(reachable, counts.answered)), gate.needed(reachable)
    if counts.failed > allowed:
        kinds = f"{counts.refused} refused, {counts.rolled_back} rolled back"
        nonsense = counts.failed - counts.refused - counts.rolled_back
        kinds += f", {nonsense} report nonsense" if nonsense > 0 else ""
        return Judgement(Verdict.BREAK, f"{devices(counts.failed)} failed ({kinds}) and {allowed} may.", ripe)
    if counts.active < needed:
        if now - opened >= gate.wait:
            why = f"only {counts.active} of the {needed} devices that it takes are active after {span(gate.wait)}"
            return Judgement(Verdict.EXPIRE, f"{why}{unable}.", None)
        why = f"{counts.active} of the {needed} devices that it takes are active{unable}."
        return Judgement(Verdict.WAIT, why, None)
    ripe = now if ripe is None else min(ripe, now)
    active = f"{devices(counts.active)} {'is' if counts.active == 1 else 'are'} active"
    left = gate.soak - (now - ripe)
    if left > 0:
        return Judgement(Verdict.WAIT, f"{active}; it soaks for {span(left)} more.", ripe)
    return Judgement(Verdict.ADVANCE, f"{active}, {counts.failed} failed{unable}.", ripe)


def devices(number: int) -> str:
    """`1 device`, `7 devices`."""
    return f"{number} device" if number == 1 else f"{number} devices"


def span(seconds: float) -> str:
    """Seconds for a person."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, math.ceil(seconds))} s"
