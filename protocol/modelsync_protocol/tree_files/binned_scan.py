"""Finds HistGradientBoosting's nodes and bin edges in bytes of a pickle or joblib file, by their content. No I/O here.

A tree is an array of packed records of 56 bytes (52 where a feature's number has four), depth first: a node's left
child follows it. The edges are the arrays of float64 behind the name `bin_thresholds_`, one a feature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.trees.machine_words import numbered
from modelsync_protocol.trees.splits import MAX_NODES


def _record(feature: str) -> np.dtype[Any]:
    return np.dtype(
        [
            ("value", "<f8"),
            ("count", "<u4"),
            ("feature", feature),
            ("threshold", "<f8"),
            ("missing", "u1"),
            ("left", "<u4"),
            ("right", "<u4"),
            ("gain", "<f8"),
            ("depth", "<u4"),
            ("leaf", "u1"),
            ("bin", "u1"),
            ("categorical", "u1"),
            ("bitset", "<u4"),
        ]
    )


RECORDS: dict[int, np.dtype[Any]] = {56: _record("<i8"), 52: _record("<i4")}
MAX_TREES = 1 << 15
MAX_FEATURES = 1 << 15
_START = re.compile(rb"\x01\x00{3}[\s\S]{3}\x00[\s\S]{8}\x00{5}[\s\S][\x00\x01][\s\S]{2}\x00\x00")
"""From `left` on: 1, right, gain, depth 0, no leaf, bin, categorical, bitset."""

_EDGES = b"bin_thresholds_"
_NEXT = re.compile(
    rb"b(?P<pad>[\x01-\x10])(?=\xff)|\x89C(?P<short>[\s\S])|\x89B(?P<long>[\s\S]{4})|\x89\x8e(?P<longest>[\s\S]{8})"
)
_SHAPE = re.compile(rb"(?:K(?P<one>[\s\S])|M(?P<two>[\s\S]{2}))\x85")
_NEAR_BYTES = 400


@dataclass(frozen=True, slots=True)
class Span:
    """A tree's records, or a feature's edges."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a file, ascending; `size`: bytes of a record."""

    size: int
    edges: list[Span]
    trees: list[Span]


def find(data: bytes) -> Found | None:
    """Edges and trees with at least one split; None if there are no trees."""
    for size in RECORDS:
        trees = list(_trees(data, size))
        if trees:
            edges = list(_edges(data))
            return Found(size, edges if edges and edges[-1].end <= trees[0].begin else [], trees[:MAX_TREES])
    return None


def _trees(data: bytes, size: int) -> Iterator[Span]:
    before = size - 27
    position = 0
    total = 0
    while match := _START.search(data, position):
        begin = match.start() - before
        count = _nodes(data, begin, size) if begin >= 0 else 0
        total += count
        if total > MAX_NODES:
            return
        if count:
            yield Span(begin, begin + count * size)
            position = begin + count * size
        else:
            position = match.start() + 1


def _nodes(data: bytes, begin: int, size: int) -> int:
    """Number of nodes of the tree at `begin`, 0 if there is none."""
    window = 256
    while True:
        count = min(window, (len(data) - begin) // size, MAX_NODES)
        if count < 3:
            return 0
        nodes = np.frombuffer(data, RECORDS[size], count, begin)
        leaf = nodes["leaf"] == 1
        left = nodes["left"].astype(np.int64)
        fits = np.where(leaf, (left == 0) & (nodes["feature"] == 0), left == numbered(1, count + 1))
        fits &= nodes["leaf"] <= 1
        ends = np.flatnonzero(1 + np.cumsum(np.where(leaf, -1, 1)) == 0)
        until = int(ends[0]) + 1 if len(ends) else count
        if not bool(fits[:until].all()):
            return 0
        if len(ends):
            return until
        if count < window:
            return 0
        window *= 2


def _edges(data: bytes) -> Iterator[Span]:
    position = data.find(_EDGES)
    if position < 0:
        return
    begin = position
    for _ in range(MAX_FEATURES):
        span = _array(data, begin, min(len(data), begin + _NEAR_BYTES))
        if span is None:
            return
        yield span
        begin = span.end


def _array(data: bytes, begin: int, end: int) -> Span | None:
    """The first array from `begin` that may be one of edges."""
    for match in _NEXT.finditer(data, begin, end):
        start = match.end()
        if match["pad"]:
            padding = match["pad"][0]
            start += padding
            shapes = list(_SHAPE.finditer(data, begin, match.start()))
            if not shapes or data[match.end() : start] != b"\xff" * padding:
                continue
            number = shapes[-1]["one"] or shapes[-1]["two"]
            length = 8 * int.from_bytes(number, "little")
        else:
            length = int.from_bytes(match["short"] or match["long"] or match["longest"], "little")
        if length % 8 or not 0 < length <= 8 * 4096 or start + length > len(data):
            continue
        if _ascending(np.frombuffer(data, "<f8", length // 8, start)):
            return Span(start, start + length)
    return None


def _ascending(values: NDArray[np.float64]) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values).all()) and bool((values[1:] > values[:-1]).all())
