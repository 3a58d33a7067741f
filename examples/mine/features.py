"""From rows of tags to what the model takes: a window over the last rows, bad and missing readings bridged. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.mine.line import MEASURED

ROWS = 8
"""Rows of a window: two seconds."""

BRIDGED = 4
"""So many scans in a row a tag's last good reading may stand for a bad or missing one."""

FEATURES = 3 * len(MEASURED)
"""By tag: mean, standard deviation, last half's mean less the first half's."""


@dataclass(frozen=True, slots=True)
class Window:
    """`features`: shape (FEATURES,), float32, or None with the reason in `unfit`. `scan`: of its last row."""

    scan: int
    features: npt.NDArray[np.float32] | None
    unfit: str = ""


class Windows:
    """The windows of one line. Rows come at least once and in order; a row that was seen is no news."""

    def __init__(self) -> None:
        self._rows: deque[tuple[float, ...]] = deque(maxlen=ROWS)
        self._last_good: dict[str, tuple[float, int]] = {}
        self._scan = 0

    def add(self, row: Mapping[str, Any]) -> Window | None:
        """Take `{"scan": n, "tags": {tag: [value, quality]}}`; None if the row was there before."""
        scan = int(row["scan"])
        if scan <= self._scan:
            return None
        self._scan, values, lacking = scan, [], []
        for tag in MEASURED:
            value, quality = row["tags"].get(tag, (0.0, "missing"))
            if quality in ("good", "uncertain") and np.isfinite(value):
                self._last_good[tag] = (float(value), scan)
            held, since = self._last_good.get(tag, (0.0, scan - BRIDGED - 1))
            if scan - since > BRIDGED:
                lacking.append(f"{tag} is {quality} for more than {BRIDGED} scans")
            values.append(held)
        if lacking:
            self._rows.clear()
            return Window(scan, None, "; ".join(lacking))
        self._rows.append(tuple(values))
        if len(self._rows) < ROWS:
            return Window(scan, None, f"{len(self._rows)} of {ROWS} rows so far")
        return Window(scan, features(list(self._rows)))


def features(rows: Sequence[Sequence[float]]) -> npt.NDArray[np.float32]:
    """Features of ROWS rows of MEASURED: shape (FEATURES,), float32."""
    array = np.asarray(rows, dtype=np.float64)
    half = len(array) // 2
    trend = array[half:].mean(axis=0) - array[:half].mean(axis=0)
    found: npt.NDArray[np.float32] = np.concatenate([array.mean(axis=0), array.std(axis=0), trend]).astype(np.float32)
    return found
