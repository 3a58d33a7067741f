"""Columns of flags, symbols, numbers and places in a range, as bits for a mixer. No I/O here.

Every call takes the elements' contexts (one row each) and their values, or None to decode them; elements are worked on
in batches of as many as there are lanes, and a batch knows what all before it taught.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.trees.lanes import Lanes
from modelsync_protocol.trees.logistic import log2
from modelsync_protocol.trees.mixing import Contexts, Mixer

Integers = NDArray[np.int64]

_LENGTH_BITS = 7
_TOP_BITS = 3
"""Bits of a number under its leading one that are modelled; the rest is raw."""

_PATH_BITS = 4
"""Halvings of a range that know the way they came."""

NUMBER_SLOTS = _LENGTH_BITS + _TOP_BITS
RANGE_SLOTS = 8
MAX_RANGE_BITS = 32


def _table_bits(elements: int) -> int:
    return min(16, max(12, (24 * max(1, elements)).bit_length()))


def mixer(inputs: int, slots: int, elements: int, extras: int = 0) -> Mixer:
    """A mixer with tables as large as `elements` values need."""
    return Mixer(inputs, slots, _table_bits(elements), extras)


def stacked(*rows: NDArray[Any]) -> Contexts:
    """Contexts from rows of context numbers."""
    return np.stack([np.asarray(row).astype(np.uint32) for row in rows])


def _batches(lanes: Lanes, count: int) -> list[slice]:
    return [slice(begin, min(begin + lanes.count, count)) for begin in range(0, count, lanes.count)]


def _part(values: Integers | None, batch: Any) -> Integers | None:
    return None if values is None else values[batch]


def symbols(model: Mixer, lanes: Lanes, contexts: Contexts, bits: int, values: Integers | None) -> Integers:
    """Integers of `bits` bits, highest first, each bit in the context of those above it."""
    count = contexts.shape[1]
    result = np.zeros(count, np.int64)
    for batch in _batches(lanes, count):
        known = _part(values, batch)
        result[batch] = _symbol(model, lanes, contexts[:, batch], bits, known, 0)
    return result


def _symbol(model: Mixer, lanes: Lanes, contexts: Contexts, bits: int, known: Integers | None, slot: int) -> Integers:
    prefix = np.ones(contexts.shape[1], np.int64)
    for level in range(bits):
        bit = None if known is None else (known >> np.int64(bits - 1 - level) & np.int64(1)).astype(bool)
        found = model.decide(lanes, contexts, prefix.astype(np.uint32), slot + level, bit)
        prefix = prefix * 2 + found
    return prefix - np.int64(1 << bits)


def numbers(model: Mixer, lanes: Lanes, contexts: Contexts, values: Integers | None) -> Integers:
    """Integers of 64 bits, taken as unsigned: their length, three bits under the leading one, the rest raw."""
    count = contexts.shape[1]
    result = np.zeros(count, np.int64)
    for batch in _batches(lanes, count):
        known = _part(values, batch)
        result[batch] = _number(model, lanes, contexts[:, batch], None if known is None else known.view(np.uint64))
    return result


def _number(model: Mixer, lanes: Lanes, contexts: Contexts, known: NDArray[np.uint64] | None) -> Integers:
    length = _symbol(model, lanes, contexts, _LENGTH_BITS, None if known is None else _lengths(known), 0)
    if int(length.max(initial=0)) > 64:
        raise FormatError("a frame of trees holds a number that is too long.")
    value = (length > 0).astype(np.uint64)
    for level in range(_TOP_BITS):
        (active,) = (length > level + 1).nonzero()
        if not len(active):
            break
        below = (length[active] - np.int64(level + 2)).astype(np.uint64)
        bit = None if known is None else (known[active] >> below & np.uint64(1)).astype(bool)
        node = (length[active] << np.int64(8)) + value[active].astype(np.int64) + np.int64(1 << 20)
        found = model.decide(lanes, contexts[:, active], node.astype(np.uint32), _LENGTH_BITS + level, bit)
        value[active] = value[active] * np.uint64(2) + found.astype(np.uint64)
    left = np.maximum(length - np.int64(_TOP_BITS + 1), 0).astype(np.uint64)
    fields = None if known is None else known & ((np.uint64(1) << left) - np.uint64(1))
    low = lanes.raw(left.astype(np.uint8), fields)
    result: Integers = (value << left | low).view(np.int64)
    return result


def _lengths(values: NDArray[np.uint64]) -> Integers:
    lengths = np.zeros(len(values), np.int64)
    rest = values.copy()
    for step in (32, 16, 8, 4, 2, 1):
        large = rest >> np.uint64(step) > 0
        lengths[large] += step
        rest[large] >>= np.uint64(step)
    return lengths + (rest > 0)


def signed(values: Integers) -> Integers:
    """Zigzag: 0, -1, 1, -2, … as 0, 1, 2, 3, …"""
    return values << np.int64(1) ^ values >> np.int64(63)


def unsigned(values: Integers) -> Integers:
    """Undo `signed`."""
    return (values.view(np.uint64) >> np.uint64(1)).view(np.int64) ^ -(values & np.int64(1))


def places(
    model: Mixer,
    lanes: Lanes,
    contexts: Contexts,
    low: Integers,
    high: Integers,
    values: Integers | None,
    masses: Masses | None = None,
) -> Integers:
    """Integers from `low` to below `high` by halving the range; `masses` say how likely each is, and learn.

    The first context knows the way taken, all others the halves themselves.
    """
    count = contexts.shape[1]
    if bool((high <= low).any()):
        raise FormatError("a frame of trees leaves no choice where there must be one.")
    result = np.zeros(count, np.int64)
    for batch in _batches(lanes, count):
        known = _part(values, batch)
        result[batch] = _place(model, lanes, contexts[:, batch], low[batch].copy(), high[batch].copy(), known, masses)
        if masses is not None:
            masses.use(result[batch])
    return result


def _place(
    model: Mixer,
    lanes: Lanes,
    contexts: Contexts,
    low: Integers,
    high: Integers,
    known: Integers | None,
    masses: Masses | None,
) -> Integers:
    path = np.ones(len(low), np.int64)
    sums = masses.sums() if masses is not None else None
    for level in range(MAX_RANGE_BITS):
        (active,) = (high - low > 1).nonzero()
        if not len(active):
            break
        first, last = low[active], high[active]
        middle = (first + last) >> np.int64(1)
        bit = None if known is None else known[active] >= middle
        way = path[active] if level < _PATH_BITS else np.full(len(active), level + 100, np.int64)
        node = np.empty((len(contexts), len(active)), np.uint32)
        node[0] = way.astype(np.uint32)
        node[1:] = (first * np.int64(77777) + last).astype(np.uint32)
        extra = None
        if sums is not None:
            extra = (log2(sums[last] - sums[middle]) - log2(sums[middle] - sums[first])).reshape(1, -1)
        found = model.decide(lanes, contexts[:, active], node, min(level, RANGE_SLOTS - 1), bit, extra)
        path[active] = path[active] * 2 + found
        low[active] = np.where(found, middle, first)
        high[active] = np.where(found, last, middle)
    return low


def log2_of(values: Integers) -> Integers:
    """log2 of positive integers with 8 fraction bits."""
    return log2(values).astype(np.int64)


class Masses:
    """How likely each entry of a dictionary is: more for one that must still come, and for one that came often."""

    def __init__(self, old: Integers, absent: NDArray[np.bool_] | None = None) -> None:
        """`old`: how often the base uses each entry; those it never uses are there because the target does.

        `absent`: entries that hardly come.
        """
        self._masses = np.where(old > 0, 2 + 6 * np.minimum(old, 1000), 32)
        if absent is not None:
            self._masses[absent] = 1
        self._fresh = old == 0

    def sums(self) -> Integers:
        """Masses of all entries before each place."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self._masses)])

    def use(self, places: Integers) -> None:
        """Learn that these entries came."""
        first = np.unique(places[self._fresh[places]])
        self._masses[first] = 2
        self._fresh[first] = False
        np.add.at(self._masses, places, np.int64(8))
