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

_LARGEST = 1e30
"""No instrument shows more, and every feature of such readings is a finite float32."""

FEATURES = 3 * len(MEASURED)
"""By tag: mean, standard deviation, last half's mean less the first half's."""


@dataclass(frozen=True, slots=True)
class Window:
    """`features`: shape (FEATURES,), float32, or None with the reason in `unfit`. `scan`: of its last row."""

    scan: int
    features: npt.NDArray[np.float32] | None
    unfit: str = ""


class Windows:
    """The windows of one line. Rows come at least once and in order; a row that was seen is no news.

    A lower scan with a later stamp is news: the plant was started anew, and so are the windows.
    """

    def __init__(self) -> None:
        self._rows: deque[tuple[float, ...]] = deque(maxlen=ROWS)
        self._last_good: dict[str, tuple[float, int]] = {}
        self._scan, self._stamp = 0, ""

    def add(self, row: Mapping[str, Any]) -> Window | None:
        """Take `{"scan": n, "stamp": UTC text, "tags": {tag: [value, quality]}}`; None if the row was there before.

        ValueError for what is no row.
        """
        scan, stamp, readings = row.get("scan"), row.get("stamp", ""), row.get("tags")
        if type(scan) is not int or not isinstance(stamp, str) or len(stamp) > 40 or not isinstance(readings, dict):
            raise ValueError("no row: it has no scan, stamp and tags")
        if scan <= self._scan:
            if stamp <= self._stamp:
                return None
            self._rows.clear()
            self._last_good.clear()
        self._scan, self._stamp, values, lacking = scan, stamp, list[float](), list[str]()
        for tag in MEASURED:
            value, quality = _reading(readings.get(tag))
            if quality in ("good", "uncertain"):
                self._last_good[tag] = (value, scan)
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


def _reading(found: object) -> tuple[float, str]:
    """(value, quality); what no instrument can show is bad, or one row would make features that are no numbers."""
    match found:
        case None:
            return 0.0, "missing"
        case [float() | int() as value, str(quality)] if abs(value) < _LARGEST:
            return float(value), quality[:20]
    return 0.0, "bad"


def features(rows: Sequence[Sequence[float]]) -> npt.NDArray[np.float32]:
    """Features of ROWS rows of MEASURED: shape (FEATURES,), float32."""
    array = np.asarray(rows, dtype=np.float64)
    half = len(array) // 2
    trend = array[half:].mean(axis=0) - array[:half].mean(axis=0)
    found: npt.NDArray[np.float32] = np.concatenate([array.mean(axis=0), array.std(axis=0), trend]).astype(np.float32)
    return found
