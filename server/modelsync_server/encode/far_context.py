"""What a frame could repeat from far back in its own target, as a context that zstd indexes quickly. No I/O here.

Indexing 4 MiB at level 19 takes ten times as long as encoding a frame; mostly for places that the frame repeats nothing
of. These are painted over with a byte that the frame does not hold, so no match can lie there, and a run of it is
indexed at once. A decoder gets the bytes as they are: all that a match says is the same in both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps

_WORD = 4
_MARGIN = 6
"""Words around what is repeated that stay too: matches begin and end at any byte, and shorter ones lie near."""

_HASH_BITS = 23
_FACTORS = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77)

_WORTH = 0.01
"""The share of a frame's bytes that must stand far back, and not near, for a context of so much more memory."""


def far_context(stream: memoryview, start: int, length: int, short: int) -> bytes | None:
    """The painted context of the `length` bytes at `start`; its last `short` bytes are as they are.

    None if they repeat next to nothing that is not in the last `short` bytes too, or hold every byte there is.
    """
    most = min(start, caps.MAX_PREFIX_BYTES, caps.MAX_LEAN_BYTES - length)
    data = np.frombuffer(stream, np.uint8, length, start)
    absent = np.flatnonzero(np.bincount(data, minlength=256) == 0)
    if most <= short or length < _WORD or not len(absent):
        return None
    begin, near = start - most, start - short
    wanted = np.zeros(1 << _HASH_BITS, np.uint8)
    _mark(wanted, stream, start, start + length, 1)
    _mark(wanted, stream, near, start, 0)
    hashes = _hashes(stream, begin, near)
    found = wanted.take(hashes)
    places = np.flatnonzero(found[:-1] & found[1:])  # one alone is chance, or too short
    if _WORD * len(np.unique(hashes[places])) < _WORTH * length:
        return None
    first = max(0, int(places[0]) - _MARGIN) * _WORD
    painted = np.frombuffer(stream, np.uint8, near - begin, begin).copy()
    painted[~_kept(places, len(painted))] = absent[-1]
    return painted[first:].tobytes() + bytes(stream[near:start])


def _kept(places: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Which of `size` bytes lie in or near the words at `places`."""
    words = -(-size // _WORD)
    edges = np.zeros(words + 1, np.int64)
    np.add.at(edges, np.maximum(places - _MARGIN, 0), 1)
    np.add.at(edges, np.minimum(places + _MARGIN + 3, words), -1)
    return np.repeat(np.cumsum(edges[:-1]) > 0, _WORD)[:size]


def _mark(wanted: NDArray[np.uint8], stream: memoryview, begin: int, end: int, value: int) -> None:
    for phase in range(_WORD):
        wanted[_hashes(stream, begin + phase, end)] = value


def _hashes(stream: memoryview, begin: int, end: int) -> NDArray[np.uint32]:
    """Of each two words that follow each other from `begin` on."""
    words = np.frombuffer(stream, "<u4", max(0, end - begin) // _WORD, begin)
    hashes: NDArray[np.uint32] = words[:-1] * _FACTORS[0]
    hashes ^= hashes >> np.uint32(15)
    hashes += words[1:]
    hashes *= _FACTORS[1]
    hashes ^= hashes >> np.uint32(13)
    return hashes & np.uint32((1 << _HASH_BITS) - 1)
