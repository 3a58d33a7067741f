"""A grinding line: its tags, its limits, and a simulation of its physics. No network here.

Ore of changing hardness is fed to a mill. The harder it is, the more power a tonne takes; the best feed is what brings
the motor to its target power. Hardness itself is measured by nobody, so a model infers it from what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

SCAN_SECONDS = 0.25
"""Time between two scans of the plant; so often every tag is measured."""

MEASURED = ("Feed", "Power", "Pressure", "Density")
"""Tags that are measured: t/h, kW, bar, per cent of solids."""

INPUT, OUTPUT = "X", "setpoint"
"""The model's tensors: features of a window, and the feed that it advises, t/h."""

TARGET_POWER = 1100.0
"""kW; the motor's best point."""

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a set-point of the feed may be (t/h), how fast it may move (t/h a second), and what is safe without advice.

    `fresh_seconds`: so long an answer is followed; `hold_seconds`: so long the last set-point is then held.
    """

    low: float = 300.0
    high: float = 500.0
    per_second: float = 10.0
    safe: float = 350.0
    fresh_seconds: float = 3.0
    hold_seconds: float = 8.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and self.low <= self.safe <= self.high and math.isfinite(self.high)):
            raise ValueError("limits are finite, and low ≤ safe ≤ high")
        if not 0 < self.per_second < math.inf or not 0 < self.fresh_seconds <= self.hold_seconds < math.inf:
            raise ValueError("rate and times are positive and finite, and fresh_seconds ≤ hold_seconds")


@dataclass(slots=True)
class Line:
    """The physics of one line; the same seed gives the same ore."""

    seed: int
    feed: float = 350.0
    scan: int = 0
    _rng: np.random.Generator = field(init=False)
    _phase: float = field(init=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._phase = float(self._rng.uniform(0, 2 * math.pi))

    @property
    def hardness(self) -> float:
        """Of the ore that is in the mill now; 1 is ordinary ore."""
        seconds = self.scan * SCAN_SECONDS
        slow = 0.13 * math.sin(2 * math.pi * seconds / 90 + self._phase)
        return 1.0 + slow + 0.04 * math.sin(2 * math.pi * seconds / 17 + 3 * self._phase)

    @property
    def best_feed(self) -> float:
        """The feed that brings the motor to its target power, t/h."""
        return (TARGET_POWER - 200.0) / (2.2 * self.hardness)

    def step(self, set_point: float) -> Values:
        """One scan under `set_point` (t/h): what the instruments measure, noise included."""
        self.scan += 1
        self.feed += (set_point - self.feed) * SCAN_SECONDS / 1.5
        noise = self._rng.normal(0, 1, 4)
        return {
            "Feed": self.feed + 1.5 * float(noise[0]),
            "Power": 200.0 + 2.2 * self.feed * self.hardness + 4.0 * float(noise[1]),
            "Pressure": 40.0 + 0.05 * self.feed * self.hardness + 0.15 * float(noise[2]),
            "Density": 72.0 - 6.0 * (self.hardness - 1.0) + 0.2 * float(noise[3]),
        }


@dataclass(slots=True)
class Instruments:
    """What goes wrong on the way from the mill to the tag: gaps, bad and uncertain readings, a drifting sensor.

    `read` gives of a measurement (value, quality) by tag; a tag that says nothing in this scan is not in it.
    """

    seed: int
    drift_per_scan: float = 0.0008
    _rng: np.random.Generator = field(init=False)
    _silent: dict[str, int] = field(default_factory=dict)
    _scan: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng([self.seed, 7])

    def read(self, measured: Values) -> dict[str, tuple[float, str]]:
        """The tags of this scan: `good`, `uncertain` or `bad`."""
        self._scan += 1
        found: dict[str, tuple[float, str]] = {}
        for tag, value in measured.items():
            chance = float(self._rng.random())
            if self._silent.get(tag, 0) >= self._scan:
                continue
            if chance < 0.004:  # the transmitter is away for up to three scans
                self._silent[tag] = self._scan + int(self._rng.integers(0, 3))
                continue
            if tag == "Pressure":
                value += self.drift_per_scan * self._scan
            quality = "bad" if chance < 0.010 else "uncertain" if chance < 0.025 else "good"
            found[tag] = (0.0 if quality == "bad" else value, quality)
        return found
