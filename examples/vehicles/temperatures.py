"""The temperatures of a vehicle's sensors, sample by sample, with faults of known truth. The only part made up.

A vehicle has SENSORS sensors, each sampled every 10 s. Stage 1 makes the mean of each 10 minutes on the vehicle: a
reading. A window is 84 readings (14 hours), as in examples/anomaly, whose features are used. The same vehicle,
window and conditions give the same samples, as a sensor's own log would.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from examples.anomaly.readings import WINDOW

SENSORS = 6
SAMPLES = 60
"""Samples of a reading."""
SAMPLE_BYTES = 2
"""What a sample takes where it is sent raw: hundredths of a degree in 16 bits."""

Floats = npt.NDArray[np.float64]
Readings = npt.NDArray[np.int16]
Labels = npt.NDArray[np.int64]

_FAULTY = 0.2
_STUCK, _MARGIN = 24, 12


@dataclass(frozen=True, slots=True)
class Conditions:
    """What changes: `heat` outside, 0 (winter) to 1 (high summer); `age` of sensors, 0 (new) to 1 (worn contacts)."""

    heat: float = 0.0
    age: float = 0.0

    @staticmethod
    def read(path: Path) -> Conditions:
        """As the story last set them for everybody."""
        return Conditions(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """Replace them at once."""
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(self)))
        beside.replace(path)


@dataclass(frozen=True, slots=True)
class Sampled:
    """`samples` (SENSORS, WINDOW, SAMPLES), degrees Celsius; `faulty` (SENSORS,) 0 or 1: what a workshop would find."""

    samples: Floats
    faulty: Labels


def sample(vehicle: int, window: int, conditions: Conditions) -> Sampled:
    """A window of all sensors of a vehicle."""
    rng = np.random.default_rng([vehicle, window])
    shape = (SENSORS, WINDOW)
    hours = rng.uniform(0, 24) + np.arange(WINDOW) / 6
    swing = rng.uniform(2, 6, (SENSORS, 1)) * (1 + 2.0 * conditions.heat)
    daily = swing * np.sin((hours - 9) * np.pi / 12)
    weather = np.cumsum(rng.normal(0, 0.04 + 0.25 * conditions.heat, shape), axis=1)
    base = rng.normal(15, 6, (SENSORS, 1)) + 18 * conditions.heat
    flicker = rng.normal(0, 0.15 + 0.9 * conditions.age, shape)
    readings = base + daily + weather + flicker
    faulty = (rng.random(SENSORS) < _FAULTY).astype(np.int64)
    for sensor in np.flatnonzero(faulty):
        _plant(readings[sensor], rng)
    return Sampled(readings[:, :, None] + rng.normal(0, 0.3, (*shape, SAMPLES)), faulty)


def down_sample(samples: Floats) -> Readings:
    """Stage 1: the mean of each reading's samples, in hundredths of a degree; (SENSORS, WINDOW)."""
    means: Readings = np.clip(np.round(samples.mean(axis=2) * 100), -32768, 32767).astype(np.int16)
    return means


def _plant(readings: Floats, rng: np.random.Generator) -> None:
    """Plant one fault in place: wild readings, a slipped sensor, or one that sticks."""
    kind, at = rng.integers(0, 3), int(rng.integers(4, WINDOW - _STUCK))
    size = rng.choice([-1.0, 1.0]) * rng.uniform(8, 18)
    if kind == 0:
        readings[at : at + int(rng.integers(1, 3))] += size
    elif kind == 1:
        readings[at:] += size
    else:
        readings[at : at + _STUCK] = readings[at]


def faulty(vehicle: int, window: int) -> Labels:
    """What a workshop finds of the sensors in that window; (SENSORS,), 0 or 1."""
    return sample(vehicle, window, Conditions()).faulty
