"""Decodes interleaved rANS and the raw bits beside it, a vector of lanes per step. No I/O here.

32-bit states, 16-bit renormalisation, static 12-bit tables (J. Duda, arXiv:1311.2540; F. Giesen, arXiv:1402.3392).
Symbol i belongs to lane i mod lanes; a step of the decoder refills its lanes in ascending order. What the encoder had
in a lane's state to begin with, 2^16 + 16 bits, is what is left in it at the end: those are raw bits too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs.tables import PROBABILITY_BITS, TOTAL, Tables
from modelsync_protocol.errors import FormatError
from modelsync_protocol.native.core import PADDING, Bits, core
from modelsync_protocol.native.room import Room

MAX_LANE_BITS = 12
MAX_STEPS = 1 << 16
"""Symbols per lane: bounds the decoder's time, as a step costs the same whatever the number of lanes."""

LOWEST_STATE = 1 << 16

_STEPS = 64
"""Steps prepared at a time."""

_LOWEST, _HALF = np.uint32(LOWEST_STATE), np.uint32(16)
_SLOT_MASK, _SHIFT = np.uint32(TOTAL - 1), np.uint32(PROBABILITY_BITS)
_FREQUENCY_MASK, _OFFSET_SHIFT = np.uint32(8191), np.uint32(13)


def decode_symbols(
    tables: Tables, selectors: NDArray[np.uint8], states: NDArray[np.uint32], words: NDArray[np.uint16]
) -> NDArray[np.uint16]:
    """Replace each table number in `selectors` by the symbol decoded with it; return the 16 bits left in each lane.

    All `words` must be used up and each state must end below 2^17, else FormatError.
    """
    lanes, total = len(states), len(selectors)
    if total > lanes * MAX_STEPS:
        raise FormatError("a frame has too many symbols for its lanes.")
    compiled = core()
    if compiled is not None:
        return compiled.rans_decode(tables.packed(), selectors, states, words)
    state = states.astype(np.uint32)
    refill = words.astype(np.uint32)
    used = 0
    whole = total - total % lanes
    for begin in range(0, whole, lanes * _STEPS):
        end = min(begin + lanes * _STEPS, whole)
        used = _run(tables, selectors[begin:end].reshape(-1, lanes), state, refill, used)
    if whole < total:
        used = _run(tables, selectors[whole:].reshape(1, -1), state[: total - whole], refill, used)
    if used != len(words) or bool((state >> np.uint32(17)).any()) or bool((state < _LOWEST).any()):
        raise FormatError("a frame's symbols do not end where they should.")
    return (state - _LOWEST).astype(np.uint16)


def _run(
    tables: Tables, selectors: NDArray[np.uint8], state: NDArray[np.uint32], refill: NDArray[np.uint32], used: int
) -> int:
    """Decode rows of one symbol a lane in place, update `state`, and return how many words are used up by now."""
    rows = selectors.astype(np.intp)
    rows <<= PROBABILITY_BITS
    width = selectors.shape[1]
    step, high = np.empty(width, np.uint32), np.empty(width, np.uint32)
    slots = high.view(np.int32)  # signed: what 32-bit machines index with
    short = np.empty(width, bool)
    available = len(refill)
    symbols, steps = tables.slots()
    for place, symbol in zip(rows, selectors, strict=True):
        np.bitwise_and(state, _SLOT_MASK, out=high)
        place += slots
        symbols.take(place, out=symbol, mode="clip")
        steps.take(place, out=step, mode="clip")
        np.right_shift(state, _SHIFT, out=high)
        np.bitwise_and(step, _FREQUENCY_MASK, out=state)
        state *= high
        step >>= _OFFSET_SHIFT
        state += step
        (lanes,) = np.less(state, _LOWEST, out=short).nonzero()
        count = len(lanes)
        if count:
            after = used + count
            if after > available:
                raise FormatError("a frame's symbols are cut short.")
            state[lanes] = (state[lanes] << _HALF) | refill[used:after]
            used = after
    return used


class RawBits:
    """A reader of fields of 0 to 64 bits, lowest bit first, over a buffer that it pads by copying once, into `room`."""

    def __init__(self, *parts: bytes | memoryview, room: Room | None = None) -> None:
        size = sum(map(len, parts))
        padded = size + -size % 4 + PADDING
        data = np.zeros(padded, np.uint8) if room is None else room.raw(padded)
        at = 0
        for part in parts:
            data[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
        data[size:] = 0
        self._limit = 8 * size
        self._words = data.view("<u4")
        self._position = 0

    def borrow(self) -> Bits:
        """For the compiled core: it reads on, and `advance` says to where."""
        return self._words, self._limit, self._position

    def advance(self, position: int) -> None:
        """Fields up to `position` (bits) are taken."""
        self._position = position

    def take(self, counts: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """Read one field for each count of bits, in order."""
        ends = np.cumsum(counts, dtype=np.int32)
        ends += np.int32(self._position)
        after = int(ends[-1]) if len(ends) else self._position
        if after > self._limit:
            raise FormatError("a frame's raw bits are cut short.")
        starts = ends - counts
        self._position = after
        if len(counts) == 0 or int(counts.max()) <= 32:
            return self._fields(starts, counts)
        low = np.minimum(counts, np.uint8(32))
        high = self._fields(starts + low, counts - low)
        return self._fields(starts, low) | (high << np.uint64(32))

    def _fields(self, starts: NDArray[np.int32], counts: NDArray[np.uint8]) -> NDArray[np.uint64]:
        words = starts >> np.int32(5)
        both: NDArray[np.uint64] = self._words[words + np.int32(1)].astype(np.uint64)
        both <<= np.uint64(32)
        both |= self._words[words]
        both >>= (starts & np.int32(31)).astype(np.uint64)
        ones = (np.uint64(1) << counts.astype(np.uint64)) - np.uint64(1)
        both &= ones
        return both

    def end(self, padding: int) -> None:
        """Raise FormatError unless at most `padding` bits are left."""
        if self._limit - self._position > padding:
            raise FormatError("a frame has raw bits left over.")
