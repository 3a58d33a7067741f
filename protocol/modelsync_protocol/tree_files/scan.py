"""Finds scikit-learn's trees in bytes of a pickle or joblib file, whole or cut, by their content. For encoders; no I/O.

A tree is an array of records, 56 or 64 bytes each, and then an array of values. The records of a tree that was built
depth first begin with left_child = 1, and end where as many leaves have come as splits ask for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from modelsync_protocol.trees.machine_words import numbered
from modelsync_protocol.trees.splits import MAX_NODES

SIZES = (64, 56)
_START = re.compile(rb"\x01\x00{7}(?=[\s\S]{4}\x00{4}[\s\S]{4}\x00{4})")
_NUMBER = rb"(K[\s\S]|M[\s\S]{2}|J[\s\S]{4})"
_SHAPE = re.compile(_NUMBER + _NUMBER + _NUMBER + rb"\x87")
"""A tuple of three numbers: nodes, outputs, classes."""

_MARKS = ((b"B", 4), (b"\x8e", 8), (b"\x96", 8), (b"C", 1))
"""Opcodes before bytes, and the width of the length in between."""
_BEFORE_DATA = re.compile(rb"b([\x01-\x10])(?=\xff)")
_NEAR_BYTES = 1200
"""How far after a tree's records its values begin at most."""

_MAX_VALUES = 1 << 14


@dataclass(frozen=True, slots=True)
class Found:
    """One tree's place: offset of its records, how many nodes, offset of its values, and those of a node."""

    records: int
    count: int
    size: int
    values: int
    outputs: int
    classes: int

    @property
    def records_end(self) -> int:
        """After the records."""
        return self.records + self.count * self.size

    @property
    def end(self) -> int:
        """After the values."""
        return self.values + self.count * self.outputs * self.classes * 8


def trees(data: bytes) -> Iterator[Found]:
    """Yield the trees with at least one split, ascending and disjoint."""
    position = 0
    while match := _START.search(data, position):
        found = _tree(data, match.start())
        if found is None:
            position = match.start() + 1
        else:
            yield found
            position = found.end


def _tree(data: bytes, begin: int) -> Found | None:
    for size in SIZES:
        count = _nodes(data, begin, size)
        if count:
            values = _values(data, begin + count * size, count)
            if values is not None:
                return Found(begin, count, size, *values)
    return None


def _nodes(data: bytes, begin: int, size: int) -> int:
    """Number of nodes of the tree at `begin`, 0 if there is none."""
    window = 256
    while True:
        count = min(window, (len(data) - begin) // size, MAX_NODES)
        if count < 3:
            return 0
        left = np.ndarray((count,), "<i8", data, begin, (size,))
        feature = np.ndarray((count,), "<i8", data, begin + 16, (size,))
        leaf = left == -1
        fits = np.where(leaf, feature == -2, (left == numbered(1, count + 1)) & (feature >= 0))
        open_ = 1 + np.cumsum(np.where(leaf, -1, 1))
        ends = np.flatnonzero(open_ == 0)
        until = int(ends[0]) + 1 if len(ends) else count
        if not bool(fits[:until].all()):
            return 0
        if len(ends):
            return until
        if count < window:
            return 0
        window *= 4


def _values(data: bytes, end: int, count: int) -> tuple[int, int, int] | None:
    """(offset, outputs, classes) of the values of a tree of `count` nodes whose records end at `end`."""
    near = data[end : end + _NEAR_BYTES]
    start = _pickled(near, count)
    shapes = _shapes(near[: start[0]] if start is not None else near, count)
    if start is not None:
        offset, width = start
        shapes += _shapes(data[end + offset + width * count * 8 :][:_NEAR_BYTES], count)
        shapes = [shape for shape in shapes if shape[1] * shape[2] == width] or [(0, 1, width)]
        _, outputs, classes = shapes[0]
    elif shapes:
        place, outputs, classes = shapes[0]
        after = _padded(near, place)
        if after is None:
            return None
        offset = after
    else:
        return None
    if not 0 < outputs * classes <= _MAX_VALUES or end + offset + outputs * classes * count * 8 > len(data):
        return None
    return end + offset, outputs, classes


def _shapes(data: bytes, count: int) -> list[tuple[int, int, int]]:
    """(place after it, outputs, classes) of each tuple that may be the shape of the values."""
    found = []
    for match in _SHAPE.finditer(data):
        nodes, outputs, classes = (int.from_bytes(part[1:], "little") for part in match.groups())
        if nodes == count:
            found.append((match.end(), outputs, classes))
    return found


def _pickled(near: bytes, count: int) -> tuple[int, int] | None:
    """(offset, values of a node) where an opcode announces as many bytes as the values may have."""
    best: tuple[int, int] | None = None
    for opcode, width in _MARKS:
        place = near.find(opcode)
        while place >= 0:
            after = place + 1 + width
            length = int.from_bytes(near[place + 1 : after], "little")
            whole = length > 0 and length % (8 * count) == 0 and length // (8 * count) <= _MAX_VALUES
            if whole and (best is None or after < best[0]):
                best = after, length // (8 * count)
            place = near.find(opcode, place + 1)
    return best


def _padded(near: bytes, after: int) -> int | None:
    """Where joblib's padding ends."""
    for match in _BEFORE_DATA.finditer(near, after):
        padding = match[1][0]
        if near[match.end() : match.end() + padding] == b"\xff" * padding:
            return match.end() + padding
    return None
