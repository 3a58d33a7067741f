"""Writes what `modelsync_protocol.codecs.rans` reads: interleaved rANS symbols and raw bits. No I/O here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs.rans import LOWEST_STATE
from modelsync_protocol.codecs.tables import PROBABILITY_BITS
from modelsync_protocol.native.core import core
from modelsync_protocol.native.writer import RawBits, writer


class Fields:
    """Raw bits of elements that take `size` bytes in all, in order: the core writes them into `compiled`."""

    def __init__(self, size: int) -> None:
        self.compiled = None if writer() is None else RawBits(size)
        self._added: list[tuple[NDArray[np.uint64], NDArray[np.uint8]]] = []

    def add(self, fields: NDArray[np.uint64], counts: NDArray[np.uint8]) -> None:
        """Fields of `counts` bits each (0 to 64); where the core writes none."""
        self._added.append((fields, counts))

    def packed(self) -> bytes:
        """All of them, lowest bit first, padded with zeros to whole bytes."""
        if self.compiled is not None:
            return self.compiled.bytes()
        fields, counts = zip(*self._added, strict=True)
        return pack_bits(np.concatenate(fields), np.concatenate(counts))


def encode_rows(
    rows: NDArray[np.uint8], symbols: NDArray[np.uint8], steps: NDArray[np.uint32], seeds: NDArray[np.uint16]
) -> tuple[bytes, bytes]:
    """As `encode_symbols`, of symbols in rows of `steps` (256 · 256: frequency, first slot · 2^16)."""
    compiled = writer()
    if compiled is not None:
        states, packed = compiled.rans_encode(rows, symbols, steps, seeds)
        return states.tobytes(), packed.tobytes()
    chosen = steps[rows.astype(np.intp) * 256 + symbols]
    return encode_symbols(chosen & np.uint32(0xFFFF), chosen >> np.uint32(16), seeds)


def encode_symbols(
    frequencies: NDArray[np.uint32], starts: NDArray[np.uint32], seeds: NDArray[np.uint16]
) -> tuple[bytes, bytes]:
    """Encode symbols given as their frequency and first slot; return (states, words) as a decoder takes them.

    `seeds` are 16 raw bits per lane, which a decoder finds in the states that it ends with.
    """
    lanes, total = len(seeds), len(frequencies)
    compiled = core()
    if compiled is not None:
        states, packed = compiled.rans_encode(frequencies, starts, seeds)
        return states.tobytes(), packed.tobytes()
    state = seeds.astype(np.uint32) + np.uint32(LOWEST_STATE)
    shift, half, limit = np.uint32(PROBABILITY_BITS), np.uint32(16), np.uint32(32 - PROBABILITY_BITS)
    words: list[NDArray[np.uint16]] = []
    for begin in range((total - 1) // lanes * lanes, -1, -lanes):
        frequency, start = frequencies[begin : begin + lanes], starts[begin : begin + lanes]
        active = state[: len(frequency)]
        full = np.flatnonzero((active >> limit) >= frequency)
        if len(full):
            spilled = active[full]
            words.append(spilled.astype(np.uint16))
            active[full] = spilled >> half
        quotient = active // frequency
        active -= quotient * frequency
        active += start
        active += quotient << shift
    words.reverse()
    joined = np.concatenate(words) if words else np.zeros(0, np.uint16)
    return state.astype("<u4").tobytes(), joined.astype("<u2").tobytes()


def pack_bits(fields: NDArray[np.uint64], counts: NDArray[np.uint8]) -> bytes:
    """Pack fields of `counts` bits each (0 to 64), lowest bit first, padded with zeros to whole bytes."""
    compiled = core()
    if compiled is not None:
        return compiled.pack(fields, counts)
    wide = counts > 32
    if wide.any():
        low = np.minimum(counts, np.uint8(32))
        parts = np.stack([fields & np.uint64(0xFFFFFFFF), fields >> np.uint64(32)], 1).reshape(-1)
        fields, counts = parts, np.stack([low, counts - low], 1).reshape(-1)
    used = counts > 0
    fields, sizes = fields[used], counts[used].astype(np.int64)
    if not len(fields):
        return b""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    total = int(ends[-1])
    placed = (fields & ((np.uint64(1) << sizes.astype(np.uint64)) - np.uint64(1))) << (starts & 31).astype(np.uint64)
    places = starts >> 5
    heads = np.flatnonzero(np.diff(places, prepend=-1))
    words = np.zeros(total // 32 + 3, np.uint64)
    words[places[heads]] = np.bitwise_or.reduceat(placed, heads)
    result = (words & np.uint64(0xFFFFFFFF)).astype("<u4")
    result[1:] |= (words[:-1] >> np.uint64(32)).astype(np.uint32)
    return result.tobytes()[: -(-total // 8)]
