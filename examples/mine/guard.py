"""What stands between a model and the plant: the rules by which an answer becomes a set-point, or does not. Pure.

Whatever a model says, what `step` gives is a finite number within the limits, no faster away from the last one than the
limits allow; and nothing at all while a human, the interlock or another actuator has the line, or nobody knows who.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from examples.mine.line import SCAN_SECONDS, Limits

_OVERSHOOT = 0.1
"""An answer up to this share of the range outside is cut to the limit; further away is no advice but a fault."""
_LONGEST_STEP = 1.0
"""Seconds that count at the most for the rate: after a pause there is no jump."""
_COUNTER = 1 << 32
"""The plant's counters, Scan and Heartbeat, are below it (UInt32)."""
TAKEOVER_SECONDS = 1.0
"""So long another's heartbeat stands still before its line is taken over; shorter than the plant's watchdog."""


class Why(StrEnum):
    """Where the set-point comes from, or why there is none from here."""

    MODEL = "model"
    HELD = "held"
    SAFE = "safe"
    MANUAL = "manual"
    INTERLOCK = "interlock"
    UNKNOWN = "unknown"
    OTHER = "another actuator"


@dataclass(frozen=True, slots=True)
class Plant:
    """What the plant says: who has the line, whether its interlock has tripped, which set-point is in force (t/h).

    `scan`: the number of its last scan, the one clock that answers and plant share.
    """

    manual: bool
    interlock: bool
    effective: float
    scan: int


def plant(values: tuple[object, ...]) -> Plant | None:
    """From the values of Manual, Interlock, Setpoint and Scan; None if one of them is not what it should be."""
    match values:
        case (bool(manual), bool(interlock), float() | int() as effective, int(scan)) if math.isfinite(effective):
            return Plant(manual, interlock, float(effective), scan)
    return None


@dataclass(frozen=True, slots=True)
class Decision:
    """`value`: the set-point to write, t/h; None: write none. `beats`: whether the heartbeat is written."""

    value: float | None
    why: Why

    @property
    def beats(self) -> bool:
        """Not where nobody knows who has the line: a beating heart would keep old advice in force."""
        return self.why not in (Why.UNKNOWN, Why.OTHER)


class Guard:
    """The guard of one line. Times are seconds of one monotonic clock."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._current: float | None = None
        self._written = 0.0
        self._advice: float | None = None
        self._advised = -math.inf
        self._scan = 0
        self._plant_scan: int | None = None

    def offer(self, answer: object, scan: int, now: float) -> str:
        """Take a model's answer for `scan`: `[x]` or `x`, t/h. Empty if it is followed, else why it is not."""
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        if answer is None:
            return "not finite"  # JSON has no NaN and no infinities: the scoring module sends null
        if isinstance(answer, bool) or not isinstance(answer, int | float):
            return "not one number"
        if isinstance(answer, float) and not math.isfinite(answer):
            return "not finite"
        if self._plant_scan is None:
            return "the plant is not seen"
        behind = self._plant_scan - scan
        if scan <= self._scan or behind * SCAN_SECONDS > self._limits.hold_seconds:
            return "late"
        if -behind * SCAN_SECONDS > self._limits.fresh_seconds:
            return "ahead of the plant"
        margin = _OVERSHOOT * (self._limits.high - self._limits.low)
        if not self._limits.low - margin <= answer <= self._limits.high + margin:
            return "far outside the limits"
        self._scan, self._advice, self._advised = scan, self._within(float(answer)), now
        return ""

    def lost(self) -> None:
        """The line to the plant was lost: what is in force there is not known any more, nor where its scans are."""
        self._current = self._plant_scan = None

    def written(self, now: float) -> None:
        """The plant has what `step` gave: the rate counts from here, or a slow line would make a step too fast."""
        self._written = now

    def step(self, plant: Plant | None, now: float) -> Decision:
        """What to write now; `plant` None: it does not say. Bumpless: advice begins where the plant is."""
        if plant is None:
            self.lost()
            return Decision(None, Why.UNKNOWN)
        if self._plant_scan is not None and plant.scan < self._plant_scan:
            self._scan, self._advice = 0, None  # the plant counts anew
        self._plant_scan = plant.scan
        if plant.interlock or plant.manual:
            self._current = None
            return Decision(None, Why.INTERLOCK if plant.interlock else Why.MANUAL)
        # Further away than a second moves it, what is in force was set by somebody else: a human between two looks,
        # or the plant's fallback while this process stood still.
        most = self._limits.per_second * _LONGEST_STEP
        if self._current is None or abs(self._within(plant.effective) - self._current) > most:
            self._current, self._written = self._within(plant.effective), now
        age, target, why = now - self._advised, self._limits.safe, Why.SAFE
        if self._advice is not None and age <= self._limits.fresh_seconds:
            target, why = self._advice, Why.MODEL
        elif age <= self._limits.hold_seconds:
            target, why = self._current, Why.HELD
        most = self._limits.per_second * min(max(0.0, now - self._written), _LONGEST_STEP)
        self._current = self._within(self._current + max(-most, min(most, target - self._current)))
        return Decision(self._current, why)

    def _within(self, value: float) -> float:
        return max(self._limits.low, min(self._limits.high, value))


class Claim:
    """Which of two actuators of a line writes: whose heartbeat the plant has, until it stands still.

    `first`: where this one's beats begin, by chance, so that two are told apart.
    """

    def __init__(self, first: int) -> None:
        self._beat, self._sent = first % _COUNTER, deque[int](maxlen=2)
        self._seen: object = None
        self._since = 0.0

    def holds(self, beat: object, now: float) -> bool:
        """Whether this one may write, with `beat` in the plant. Seconds of one monotonic clock."""
        if beat in self._sent:
            self._seen = None
            return True
        if beat != self._seen:
            self._seen, self._since = beat, now
        return now - self._since >= TAKEOVER_SECONDS

    def beat(self) -> int:
        """The next to send. The one before stays ours too: nobody knows whether a write that failed arrived."""
        self._beat = (self._beat + 1) % _COUNTER
        self._sent.append(self._beat)
        return self._beat
