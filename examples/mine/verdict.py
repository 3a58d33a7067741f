"""What happened to the plant, by its own log and the historian's archive, not by what services say of themselves."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.mine.line import Limits

_JITTER = 0.05
"""Seconds between a write's arrival and the plant's note of it; the guard counts from the plant's own word."""

Json = Mapping[str, Any]


@dataclass(slots=True)
class LineLog:
    """What the plant wrote down of one line: its scans, and each write of advice, both in order."""

    scans: list[Json] = field(default_factory=list)
    writes: list[Json] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The number of the newest scan."""
        return int(self.scans[-1]["scan"]) if self.scans else 0

    def between(self, first: int, last: int) -> list[Json]:
        """Scans from `first` to `last`, both included."""
        return [scan for scan in self.scans if first <= scan["scan"] <= last]

    def writes_between(self, first: int, last: int) -> list[Json]:
        """Writes of advice in the time of these scans."""
        scans = self.between(first, last)
        return [write for write in self.writes if scans and scans[0]["t"] <= write["t"] <= scans[-1]["t"]]


def read_log(path: Path) -> dict[str, LineLog]:
    """The plant's log by line; a last line that is not whole yet is left out."""
    found: dict[str, LineLog] = {}
    for text in path.read_text(encoding="utf-8").split("\n")[:-1]:
        entry = json.loads(text)
        log = found.setdefault(entry["line"], LineLog())
        (log.scans if "scan" in entry else log.writes).append(entry)
    return found


def missing(scans: Iterable[Json], archived: Iterable[int]) -> list[int]:
    """Scans of the plant that the archive lacks."""
    return sorted({int(scan["scan"]) for scan in scans} - set(archived))


def sources(scans: Iterable[Json]) -> Counter[str]:
    """By whom the set-point was in force, in scans."""
    return Counter(str(scan["source"]) for scan in scans)


def without_set_point(scans: Iterable[Json]) -> int:
    """Scans in which the plant had no finite set-point; there must be none."""
    return sum(not isinstance(scan["set_point"], int | float) or not math.isfinite(scan["set_point"]) for scan in scans)


def violations(log: LineLog, limits: Limits) -> list[str]:
    """Each write of advice that is no finite number, beyond the limits, or too fast away from what was before."""
    found, before = [], None
    scans = iter(log.scans)
    scan, in_force = next(scans, None), limits.safe
    for write in log.writes:
        while scan is not None and scan["t"] <= write["t"]:
            in_force, scan = scan["set_point"], next(scans, None)
        value = write["advised"]
        if not isinstance(value, int | float) or not math.isfinite(value):
            found.append(f"{value!r} is no finite number")
            continue
        if not limits.low <= value <= limits.high:
            found.append(f"{value:g} is beyond {limits.low:g} to {limits.high:g}")
        gap = math.inf if before is None else write["t"] - before["t"]
        near = [in_force] if before is None else [in_force, before["advised"]]
        most = limits.per_second * (min(gap, 1.0) + _JITTER)
        if min(abs(value - other) for other in near) > most + 1e-6:
            found.append(f"{value:g} is more than {most:.1f} away from what was in force")
        before = write
    return found


def switches(versions: Sequence[tuple[int, int]]) -> list[int]:
    """The versions that decided, in the order of scans, each run once; versions of 0 (nobody was asked) left out."""
    found: list[int] = []
    for _, version in sorted(versions):
        if version and (not found or found[-1] != version):
            found.append(version)
    return found
