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

MAX_LANE_BITS = 12
MAX_STEPS = 1 << 16
"""Symbols per lane: bounds the decoder's time, as a step costs the same whatever the number of lanes."""

LOWEST_STATE = 1 << 16


def decode_symbols(
    tables: Tables, selectors: NDArray[np.uint8], states: NDArray[np.uint32], words: NDArray[np.uint16]
) -> NDArray[np.uint16]:
    """Replace each table number in `selectors` by the symbol decoded with it; return the 16 bits left in each lane.

    All `words` must be used up and each state must end below 2^17, else FormatError.
    """
    lanes, total = len(states), len(selectors)
    if total > lanes * MAX_STEPS:
        raise FormatError("a frame has too many symbols for its lanes.")
    state = states.astype(np.uint32)
    slot_mask, shift = np.uint32(TOTAL - 1), np.uint32(PROBABILITY_BITS)
    place = np.empty(lanes, np.intp)
    step = np.empty(lanes, np.uint32)
    refill = words.astype(np.uint32)
    lowest, half, frequency_mask = np.uint32(LOWEST_STATE), np.uint32(16), np.uint32(8191)
    offset_shift = np.uint32(13)
    used = 0
    for begin in range(0, total, lanes):
        end = begin + lanes
        if end > total:
            end = total
            active = end - begin
            kept, state = state[active:], state[:active]
            place, step = place[:active], step[:active]
        else:
            kept = state[:0]
        np.left_shift(selectors[begin:end], PROBABILITY_BITS, out=place, dtype=np.intp)
        place += state & slot_mask
        tables.symbols.take(place, out=selectors[begin:end], mode="clip")
        tables.steps.take(place, out=step, mode="clip")
        state = (step & frequency_mask) * (state >> shift) + (step >> offset_shift)
        short = np.flatnonzero(state < lowest)
        if len(short):
            fresh = refill[used : used + len(short)]
            if len(fresh) != len(short):
                raise FormatError("a frame's symbols are cut short.")
            used += len(short)
            state[short] = (state[short] << half) | fresh
        if len(kept):
            state = np.concatenate([state, kept])
    if used != len(words) or bool((state >> np.uint32(17)).any()) or bool((state < lowest).any()):
        raise FormatError("a frame's symbols do not end where they should.")
    return (state - lowest).astype(np.uint16)


class RawBits:
    """A reader of fields of 0 to 64 bits, lowest bit first, over a buffer that it pads by copying once."""

    def __init__(self, data: bytes) -> None:
        self._limit = 8 * len(data)
        padding = -len(data) % 4 + 8
        self._words = np.frombuffer(data + bytes(padding), "<u4")
        self._position = 0

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
