"""Finds runs of records of one size in a frame, and what each field is best taken relative to. No I/O here.

A stride shows in what changed: bytes at the same place of each record change alike. Costs are estimated by the entropy
of each byte of each field, as encoding 10 writes them one behind the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.codecs import alignment, records
from modelsync_protocol.codecs.records import FROM_BASE, FROM_BEFORE, VALUE, Field, Run

_STRIDES = (*range(1, 65), 72, 80, 96, 104, 112, 120, 128)
_GAPS = (8, 64)
"""Equal bytes between changed ones that end a run: a list's tags are few, a structure's unchanged fields more."""

_LEAST_RECORDS, _LEAST_BYTES = 16, 64
_SAMPLE_BYTES = 16 * caps.KIB
_MOST_RUNS = 256
_NEAR = 1.05
"""The shortest stride within this factor of the cheapest is tried too."""

_HOPE = 0.97
"""A run must promise to be so much smaller than its bytes as one column."""

Bytes = NDArray[np.uint8]


def plans(target: bytes, base: bytes) -> Iterator[list[Run]]:
    """Yield runs of records, ascending and disjoint, that are worth an attempt, for each way to find them."""
    new, old = np.frombuffer(target, np.uint8), np.frombuffer(base, np.uint8)
    known: list[list[Run]] = []
    blocks = alignment.plans(target, base)[-1] if base else []
    for gap in _GAPS:
        runs: list[Run] = []
        for begin, end, place in _changed(new, old, blocks, gap):
            if len(runs) < _MOST_RUNS and end - begin >= _LEAST_BYTES:
                run = _run(new, old, begin, end, place)
                if run is not None and (not runs or run.begin >= runs[-1].end):
                    runs.append(run)
        if runs and runs not in known:
            known.append(runs)
            yield runs


def _changed(new: Bytes, old: Bytes, blocks: list[alignment.Block], gap: int) -> Iterator[tuple[int, int, int | None]]:
    """(begin, end, place in the base) of stretches that changed; the place is None where there is no counterpart."""
    position = 0
    for block in [*blocks, alignment.Block(len(new), 0, 0)]:
        if block.begin > position:
            yield position, block.begin, None
        position = block.begin + block.length
        part = slice(block.begin, position)
        places = np.flatnonzero(new[part] != old[block.place : block.place + block.length])
        if len(places):
            edges = np.flatnonzero(np.diff(places) > gap)
            firsts, lasts = places[np.r_[0, edges + 1]], places[np.r_[edges, len(places) - 1]]
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
                yield block.begin + first, block.begin + last + 1, block.place + first


def _run(new: Bytes, old: Bytes, begin: int, end: int, place: int | None) -> Run | None:
    """The stretch as records, if that promises anything."""
    size = min(end - begin, _SAMPLE_BYTES)
    middle = begin + (end - begin - size) // 2
    values = new[middle : middle + size]
    before = None if place is None else old[place + middle - begin : place + middle - begin + size]
    changes = values if before is None else values - before
    costs = {
        stride: float(np.minimum(_columns(values, stride), _columns(changes, stride)).sum()) + stride / 2
        for stride in _STRIDES
        if size >= _LEAST_RECORDS * stride
    }
    flat, least = costs[1], min(costs.values())
    best: tuple[float, int, int, tuple[Field, ...]] | None = None
    # Multiples of the true stride promise about as much.
    for stride in dict.fromkeys(
        (next(s for s in costs if costs[s] <= _NEAR * least), min(costs, key=lambda s: costs[s]))
    ):
        cost, phase, fields = _layout(values, before, stride)
        if best is None or cost < best[0]:
            best = cost, stride, phase, fields
    if best is None or best[0] > _HOPE * flat:
        return None
    _, stride, phase, fields = best
    # Whole records; unchanged bytes before the first change may belong to its record.
    first = begin + (middle - begin + phase) % stride
    room = first - begin
    if room > 0 and first >= stride and (place is None or place + room >= stride):
        first -= stride
    count = -(-(end - first) // stride)
    shift = 0 if place is None else place - begin
    while first + count * stride > len(new) or (place is not None and first + shift + count * stride > len(old)):
        count -= 1
    return Run(first, count, max(0, first + shift), fields) if count >= _LEAST_RECORDS else None


def _columns(data: Bytes, stride: int) -> NDArray[np.float64]:
    """Bytes that each column of records of `stride` bytes costs by itself."""
    rows = len(data) // stride
    cells = np.arange(rows * stride) % stride * 256 + data[: rows * stride]
    return _costs(np.bincount(cells, minlength=256 * stride).reshape(stride, 256))


def _costs(counts: NDArray[np.intp]) -> NDArray[np.float64]:
    """Bytes of columns with such counts of each byte value, as a block of zstd has them."""
    total = counts.sum(axis=1)
    distinct = (counts > 0).sum(axis=1)
    logs = np.log2(np.maximum(counts, 1))
    bits = total * np.log2(np.maximum(total, 1)) - (counts * logs).sum(axis=1)
    coded = np.maximum(bits, total * (distinct > 1)) / 8 + 5 + np.minimum(distinct, 128) * 0.4
    return np.where(distinct < 2, 0.0, np.minimum(coded, total + 0.0))


def _layout(values: Bytes, before: Bytes | None, stride: int) -> tuple[float, int, tuple[Field, ...]]:
    """(bytes, byte of the sample at which a record begins, fields) of the cheapest way to take a record apart."""
    rows = len(values) // stride - 1
    relatives = (VALUE, FROM_BEFORE) if before is None else (VALUE, FROM_BASE, FROM_BEFORE)
    found: dict[tuple[int, int], tuple[float, int]] = {}
    for column, width in product(range(stride), (1, 2, 4, 8)):
        if width <= stride:
            words = _words(values, column, width, rows, stride)
            others = None if before is None else _words(before, column, width, rows, stride)
            found[column, width] = min(
                (_field_cost(words, others, Field(width, relative)), relative) for relative in relatives
            )
    best: tuple[float, int, tuple[Field, ...]] | None = None
    for phase in range(stride):
        costs: list[tuple[float, tuple[Field, ...]]] = [(0.0, ())]
        for end in range(1, stride + 1):
            ways = []
            for width in (1, 2, 4, 8):
                if width <= end:
                    cost, relative = found[(phase + end - width) % stride, width]
                    ahead, fields = costs[end - width]
                    ways.append((ahead + cost + 0.3, (*fields, Field(width, relative))))
            costs.append(min(ways, key=lambda way: way[0]))
        if best is None or costs[-1][0] < best[0]:
            best = costs[-1][0], phase, costs[-1][1]
    assert best is not None
    return best


def _words(data: Bytes, column: int, width: int, rows: int, stride: int) -> Bytes:
    """The `width` bytes from `column` on of each record; they may reach into the next one."""
    return np.lib.stride_tricks.sliding_window_view(data, width)[column::stride][:rows]


def _field_cost(words: Bytes, others: Bytes | None, field: Field) -> float:
    numbers = records.differences(words, others, field)
    planes = np.ascontiguousarray(numbers).view(np.uint8).reshape(len(words), field.width)
    cells = np.arange(field.width) * 256 + planes
    return float(_costs(np.bincount(cells.ravel(), minlength=256 * field.width).reshape(field.width, 256)).sum())
