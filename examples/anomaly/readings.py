"""Synthetic temperature readings with labelled faults, and the features of a window. No model here.

A reading comes every 10 minutes; a window is 84 of them (14 hours). Three faults are planted: a spike (one or
two wild readings), a jump (the sensor slips and stays off) and a stuck sensor (one value for hours).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WINDOW = 84
"""Readings in a window."""

FEATURES = 2 * WINDOW - 1
"""Features of a window: its readings' distances from the median, then its steps between neighbours."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Windows:
    """`readings`: shape (n, WINDOW), degrees Celsius; `faulty`: shape (n,), 0 or 1 (int64)."""

    readings: Floats
    faulty: npt.NDArray[np.int64]


def generate(count: int, seed: int) -> Windows:
    """Make `count` windows, about half of them faulty. The same arguments give the same windows."""
    rng = np.random.default_rng(seed)
    hours = rng.uniform(0, 24, (count, 1)) + np.arange(WINDOW) / 6
    daily = rng.uniform(2, 6, (count, 1)) * np.sin((hours - 9) * np.pi / 12)
    weather = np.cumsum(rng.normal(0, 0.04, (count, WINDOW)), axis=1)
    readings = rng.normal(15, 6, (count, 1)) + daily + weather + rng.normal(0, 0.15, (count, WINDOW))
    faulty = rng.integers(0, 2, count)
    for row in np.flatnonzero(faulty):
        _plant(readings[row], rng)
    return Windows(readings, faulty)


def features(readings: Floats) -> npt.NDArray[np.float32]:
    """Features of windows of shape (n, WINDOW): shape (n, FEATURES), float32, all >= 0.

    Sorted, so that a linear model sees "the largest step" and "how many steps are nearly zero", wherever
    they are in the window; log-compressed, so that one wild reading does not drown the rest.
    """
    distance = np.abs(readings - np.median(readings, axis=1, keepdims=True))
    step = np.abs(np.diff(readings, axis=1))
    ordered = np.hstack([np.sort(distance, axis=1), np.sort(step, axis=1)])
    result: npt.NDArray[np.float32] = np.log1p(10 * ordered).astype(np.float32)
    return result


def _plant(window: Floats, rng: np.random.Generator) -> None:
    """Plant one fault in `window` in place."""
    kind = rng.integers(0, 3)
    at = int(rng.integers(4, WINDOW - 24))
    size = rng.choice([-1.0, 1.0]) * rng.uniform(5, 15)
    if kind == 0:
        window[at : at + int(rng.integers(1, 3))] += size
    elif kind == 1:
        window[at:] += size
    else:
        window[at : at + 24] = window[at]
