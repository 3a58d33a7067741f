"""Decides bits with given probabilities: a decoder, an encoder, and one that only learns. No I/O here.

Interleaved rANS with 32-bit states and 16-bit renormalisation, as in `codecs.rans`, but of bits whose probabilities
(15 bits) the caller makes up as it goes. A call with n bits uses the first n lanes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs.rans import RawBits
from modelsync_protocol.errors import FormatError
from modelsync_protocol.trees.logistic import PROBABILITY_BITS, TOTAL
from modelsync_protocol.trees.machine_words import numbered, repeated

MAX_LANES = 1024
_LOWEST = 1 << 16

Bits = NDArray[np.bool_]
Probabilities = NDArray[np.int32]
Fields = NDArray[np.uint64]


class Lanes(Protocol):
    """Where bits come from or go to."""

    count: int

    def bits(self, ones: Probabilities, known: Bits | None) -> Bits:
        """Bits that are 1 with probability `ones` / 2^15: decoded, or `known` given back. At most `count` of them."""

    def raw(self, counts: NDArray[np.uint8], known: Fields | None) -> Fields:
        """Fields of 0 to 64 bits of no known likelihood."""


class Learner:
    """Gives back what is known."""

    def __init__(self, count: int) -> None:
        self.count = count

    def bits(self, ones: Probabilities, known: Bits | None) -> Bits:
        """See Lanes."""
        if known is None:
            raise ValueError("nothing to learn from")
        return known

    def raw(self, counts: NDArray[np.uint8], known: Fields | None) -> Fields:
        """See Lanes."""
        if known is None:
            raise ValueError("nothing to learn from")
        return known


class Decoder:
    """Reads what `Encoder` wrote; FormatError where that is cut short."""

    def __init__(self, states: NDArray[np.uint32], words: NDArray[np.uint16], raw: bytes, budget: int) -> None:
        self.count = len(states)
        self._states = states.astype(np.uint32)
        self._words = words.astype(np.uint32)
        self._used = 0
        self._raw = RawBits(raw)
        self._budget = budget

    def bits(self, ones: Probabilities, known: Bits | None) -> Bits:
        """See Lanes."""
        count = len(ones)
        self._budget -= count + 64
        if self._budget < 0:
            raise FormatError("a frame of trees takes more decisions than any allowed.")
        probability = ones.astype(np.uint32)
        state = self._states[:count]
        slot = state & np.uint32(TOTAL - 1)
        result: Bits = slot < probability
        width = np.where(result, probability, np.uint32(TOTAL) - probability)
        state >>= np.uint32(PROBABILITY_BITS)
        state *= width
        state += slot
        state -= np.where(result, np.uint32(0), probability)
        (short,) = np.less(state, np.uint32(_LOWEST)).nonzero()
        if len(short):
            after = self._used + len(short)
            if after > len(self._words):
                raise FormatError("a frame of trees is cut short.")
            state[short] = (state[short] << np.uint32(16)) | self._words[self._used : after]
            self._used = after
        return result

    def raw(self, counts: NDArray[np.uint8], known: Fields | None) -> Fields:
        """See Lanes."""
        return self._raw.take(counts)

    def end(self) -> None:
        """Raise FormatError unless everything has been used up."""
        self._raw.end(7)
        if self._used != len(self._words) or bool((self._states != _LOWEST).any()):
            raise FormatError("a frame of trees does not end where it should.")


class Encoder:
    """Collects bits and fields, and writes them once all are known."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._steps: list[tuple[NDArray[np.uint16], Bits]] = []
        self._fields: list[tuple[NDArray[np.uint8], Fields]] = []
        self.decisions = 0

    def bits(self, ones: Probabilities, known: Bits | None) -> Bits:
        """See Lanes."""
        if known is None:
            raise ValueError("nothing to encode")
        self._steps.append((ones.astype(np.uint16), known))
        return known

    def raw(self, counts: NDArray[np.uint8], known: Fields | None) -> Fields:
        """See Lanes."""
        if known is None:
            raise ValueError("nothing to encode")
        self._fields.append((counts, known))
        return known

    def written(self) -> tuple[NDArray[np.uint32], NDArray[np.uint16], bytes]:
        """(states, words, raw bytes) for `Decoder`."""
        state = np.full(self.count, _LOWEST, np.uint64)
        words: list[NDArray[np.uint16]] = []
        for ones, bits in reversed(self._steps):
            count = len(ones)
            probability = ones.astype(np.uint64)
            width = np.where(bits, probability, np.uint64(TOTAL) - probability)
            part = state[:count]
            (full,) = (part >= width << np.uint64(17)).nonzero()
            words.append((part[full] & np.uint64(0xFFFF)).astype(np.uint16))
            part[full] >>= np.uint64(16)
            quotient, rest = np.divmod(part, width)
            part[:] = (quotient << np.uint64(PROBABILITY_BITS)) + rest + np.where(bits, np.uint64(0), probability)
        words.reverse()
        joined = np.concatenate(words) if words else np.empty(0, np.uint16)
        return state.astype(np.uint32), joined, _packed(self._fields)


def _packed(fields: list[tuple[NDArray[np.uint8], Fields]]) -> bytes:
    if not fields:
        return b""
    counts = np.concatenate([part for part, _ in fields])
    values = np.concatenate([part for _, part in fields])
    rows = repeated(numbered(len(counts)), counts)
    starts = np.cumsum(counts, dtype=np.int64) - counts
    within = np.arange(len(rows), dtype=np.int64) - starts[rows]
    bits = (values[rows] >> within.astype(np.uint64)) & np.uint64(1)
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()
