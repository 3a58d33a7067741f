"""Cuts a file into chunks: at tensor boundaries where the container is known, by content elsewhere. No I/O here.

Cuts depend on the bytes (and the file name's suffix) alone, so the same file gives the same chunks everywhere; but in
an artifact whose manifest would be too large, opaque bytes are cut more coarsely.
The publisher alone cuts; devices read the sizes from the manifest. Specified in FORMAT.md §chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.containers import cut_ranges
from modelsync_protocol.native.core import core

_LARGE_TENSOR_BYTES = 16 * caps.KIB
_GEAR_WINDOW = 32
_BLOCK = 4 * caps.MIB
_GEAR: NDArray[np.uint32] = np.array(
    [int.from_bytes(hashlib.sha256(b"modelsync gear %d" % i).digest()[:4], "little") for i in range(256)],
    np.uint32,
)


@dataclass(frozen=True, slots=True)
class Cut:
    """How opaque bytes are cut: the shortest and the longest chunk, bytes, and below which hash one may end."""

    least: int
    most: int
    threshold: int

    @classmethod
    def of(cls, scale: int) -> Cut:
        """Chunks `scale` times as large as usual, of a chunk's longest size at the most."""
        least, average = scale * caps.CDC_MIN_BYTES, scale * caps.CDC_AVERAGE_BYTES
        return cls(least, min(scale * caps.CDC_MAX_BYTES, caps.TENSOR_CHUNK_BYTES), 2**32 // (average - least))


USUAL, COARSE = Cut.of(1), Cut.of(caps.CDC_COARSE)


def chunk_sizes(path: str, data: memoryview, cut: Cut = USUAL) -> tuple[int, ...]:
    """Sizes in bytes, in order, of the chunks of the file `path` (its suffix names the container) with bytes `data`."""
    sizes: list[int] = []
    position = 0
    for offset, length in cut_ranges(path, data):
        if length < _LARGE_TENSOR_BYTES:
            continue
        sizes += _opaque(data[position:offset], cut)
        sizes += _regular(length)
        position = offset + length
    sizes += _opaque(data[position:], cut)
    return tuple(sizes)


def _regular(length: int) -> Iterator[int]:
    """A tensor: every 256 KiB from its start."""
    while length > 0:
        yield min(length, caps.TENSOR_CHUNK_BYTES)
        length -= caps.TENSOR_CHUNK_BYTES


def _opaque(data: memoryview, how: Cut) -> Iterator[int]:
    """Bytes without known structure: one chunk if short, else cuts where the gear hash is small."""
    start, total = 0, len(data)
    if total == 0:
        return
    cuts = _candidates(data, how.threshold) if total > how.least else iter(())
    cut = next(cuts, total)
    while total - start > how.least:
        while cut - start < how.least and cut < total:
            cut = next(cuts, total)
        end = min(cut, start + how.most, total)
        yield end - start
        start = end
    if start < total:
        yield total - start


def _candidates(data: memoryview, threshold: int) -> Iterator[int]:
    """Positions after which the gear hash of the last 32 bytes is under the threshold, ascending."""
    raw = np.frombuffer(data, np.uint8)
    compiled = core()
    if compiled is not None:
        state = np.zeros(1, np.uint32)
        for begin in range(0, len(raw), _BLOCK):
            for index in compiled.gear(_GEAR, raw[begin : begin + _BLOCK], threshold, state).tolist():
                yield begin + index + 1
        return
    for begin in range(0, len(raw), _BLOCK):
        lead = min(begin, _GEAR_WINDOW - 1)
        # h_i = Σ_k gear[b_{i-k}] · 2^k (mod 2^32), for k < 32, by doubling the window five times.
        hashes = _GEAR[raw[begin - lead : begin + _BLOCK]]
        width = 1
        while width < _GEAR_WINDOW:
            hashes[width:] += hashes[:-width] << np.uint32(width)
            width *= 2
        for index in np.flatnonzero(hashes[lead:] < threshold):
            yield begin + int(index) + 1
