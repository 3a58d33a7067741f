"""What became of the frames, by what the cameras wrote down. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]


def lost(lines: Sequence[Line]) -> list[int]:
    """Frames from the first to the last that have no line, or none that says what they show."""
    named = {int(line["frame"]) for line in lines if line.get("label")}
    return [number for number in range(1, max(named, default=0) + 1) if number not in named]


def twice(lines: Sequence[Line]) -> list[int]:
    """Frames with more than one line."""
    counted = Counter(int(line["frame"]) for line in lines)
    return [number for number, times in counted.items() if times > 1]


def misnamed(lines: Iterable[Line], labels: Mapping[int, Sequence[str]]) -> list[Line]:
    """Lines whose label is none of those that came with the version which answered."""
    return [line for line in lines if line.get("label") not in labels.get(line["version"], ())]


def truth(line: Line) -> str:
    """What is on the picture: its file's name says it."""
    return str(line["name"]).partition("-")[2].partition(".")[0]


def right(lines: Iterable[Line], kind: str = "") -> tuple[int, int]:
    """(named rightly, all) of the frames that show `kind`, or of all."""
    wanted = [line for line in lines if not kind or truth(line) == kind]
    return sum(line.get("label") == truth(line) for line in wanted), len(wanted)


def versions(lines: Iterable[Line]) -> list[int]:
    """The versions that answered, in the order in which each did first."""
    return list(dict.fromkeys(int(line["version"]) for line in lines))
