"""Reads and writes the arrays of LightGBM's trees in its text format, where they lie in a file. No I/O here.

A tree is a block of lines `name=numbers` (LightGBM's src/io/tree.cpp). Thresholds and leaves have 17 significant
digits, all other fractions 6; both are what C's printf makes of the number with %.17g and %g.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError

NAMES = (
    "Tree",
    "num_leaves",
    "split_feature",
    "split_gain",
    "threshold",
    "decision_type",
    "left_child",
    "right_child",
    "leaf_value",
    "leaf_weight",
    "leaf_count",
    "internal_value",
    "internal_weight",
    "internal_count",
    "shrinkage",
)
NEEDED = frozenset(
    {
        "split_feature",
        "split_gain",
        "threshold",
        "left_child",
        "right_child",
        "leaf_value",
        "leaf_weight",
        "leaf_count",
    }
)
WHOLE = frozenset({"Tree", "num_leaves", "split_feature", "decision_type", "left_child", "right_child"}) | {
    "leaf_count",
    "internal_count",
}
LONG = frozenset({"threshold", "leaf_value", "leaf_weight"})
ONE = frozenset({"Tree", "num_leaves", "shrinkage"})
LEAVES = frozenset({"leaf_value", "leaf_weight", "leaf_count"})
MAX_TREES = 1 << 15
_MOST_LEAVES = 1 << 18
_LINE = re.compile(rb"(?<=\n)(" + b"|".join(name.encode() for name in NAMES) + rb")=([-+0-9.a-z ]*)(?=\n)")
_NUMBERS = {name: number for number, name in enumerate(NAMES)}


@dataclass(frozen=True, slots=True)
class Array:
    """Where an array's text lies, and the number of its name."""

    name: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Trees:
    """Arrays of all whole trees of two leaves and more, tree by tree in one order."""

    names: tuple[int, ...]
    arrays: list[list[Array]]


def trees(data: bytes) -> Trees | None:
    """The trees in `data` that have the same arrays in the same order as most of the first ones."""
    groups: list[list[Array]] = []
    for match in _LINE.finditer(data):
        name = _NUMBERS[match[1].decode()]
        if name == 0:
            if len(groups) == MAX_TREES:
                break
            groups.append([])
        if groups:
            groups[-1].append(Array(name, match.start(2), match.end(2)))
    if not groups:
        return None
    names = tuple(array.name for array in max(groups[:3], key=len))
    if len(set(names)) != len(names) or not {NAMES[name] for name in names} >= NEEDED:
        return None
    kept = []
    for group in groups:
        part = group[: len(names)]
        if tuple(array.name for array in part) == names and _whole(data, part):
            kept.append(part)
    return Trees(names, kept) if kept else None


def _whole(data: bytes, arrays: list[Array]) -> bool:
    """Whether all arrays have as many numbers as the tree has nodes of the kind."""
    counts = {NAMES[a.name]: data.count(b" ", a.begin, a.end) + 1 if a.end > a.begin else 0 for a in arrays}
    inner = counts["left_child"]
    if not 0 < inner < _MOST_LEAVES:
        return False
    return all(
        count == (1 if name in ONE else inner + 1 if name in LEAVES else inner) for name, count in counts.items()
    )


def read(data: bytes, array: Array) -> NDArray[Any]:
    """An array's elements: int64, or float64."""
    numbers = data[array.begin : array.end].split(b" ")
    try:
        if NAMES[array.name] in WHOLE:
            return np.array([int(number) for number in numbers], np.int64)
        return np.array([float(number) for number in numbers])
    except (ValueError, OverflowError) as error:
        raise FormatError("an array of a booster is malformed.") from error


def write(values: NDArray[Any], name: str) -> bytes:
    """Undo `read`."""
    if name in WHOLE:
        return " ".join(map(str, values.tolist())).encode()
    form = "%.17g" if name in LONG else "%g"
    return " ".join([form % value for value in values.tolist()]).encode()
