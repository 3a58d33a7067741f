"""What stands between a model and the plant: the rules by which an answer becomes a set-point, or does not. Pure.

Whatever a model says, what `step` gives is a finite number within the limits, no faster away from the last one than the
limits allow; and nothing at all while a human or the interlock has the line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from examples.mine.line import Limits

_OVERSHOOT = 0.1
"""An answer up to this share of the range outside is cut to the limit; further away is no advice but a fault."""
_LONGEST_STEP = 1.0
"""Seconds that count at the most for the rate: after a pause there is no jump."""


class Why(StrEnum):
    """Where the set-point comes from, or why there is none from here."""

    MODEL = "model"
    HELD = "held"
    SAFE = "safe"
    MANUAL = "manual"
    INTERLOCK = "interlock"


@dataclass(frozen=True, slots=True)
class Plant:
    """What the plant says: who has the line, whether its interlock has tripped, which set-point is in force (t/h)."""

    manual: bool
    interlock: bool
    effective: float


@dataclass(frozen=True, slots=True)
class Decision:
    """`value`: the set-point to write, t/h; None: write none."""

    value: float | None
    why: Why


class Guard:
    """The guard of one line. Times are seconds of one monotonic clock."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._current: float | None = None
        self._written = 0.0
        self._advice: float | None = None
        self._advised = -math.inf
        self._scan = 0

    def offer(self, answer: object, scan: int, now: float) -> str:
        """Take a model's answer for `scan`: `[x]` or `x`, t/h. Empty if it is followed, else why it is not."""
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        if answer is None:
            return "not finite"  # JSON has no NaN and no infinities: the scoring module sends null
        if isinstance(answer, bool) or not isinstance(answer, int | float):
            return "not one number"
        if not math.isfinite(answer):
            return "not finite"
        if scan <= self._scan:
            return "late"
        margin = _OVERSHOOT * (self._limits.high - self._limits.low)
        if not self._limits.low - margin <= answer <= self._limits.high + margin:
            return "far outside the limits"
        self._scan, self._advice, self._advised = scan, self._within(float(answer)), now
        return ""

    def lost(self) -> None:
        """The line to the plant was lost: what is in force there is not known any more."""
        self._current = None

    def written(self, now: float) -> None:
        """The plant has what `step` gave: the rate counts from here, or a slow line would make a step too fast."""
        self._written = now

    def step(self, plant: Plant, now: float) -> Decision:
        """What to write now. Bumpless: advice begins where the plant is, whoever had it before."""
        if plant.interlock or plant.manual:
            self._current = None
            return Decision(None, Why.INTERLOCK if plant.interlock else Why.MANUAL)
        if self._current is None:
            self._current = self._within(plant.effective if math.isfinite(plant.effective) else self._limits.safe)
            self._written = now
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
