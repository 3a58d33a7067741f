"""Cuts a file into chunks: at tensor boundaries where the container is known, by content elsewhere. No I/O here.

Cuts depend on the bytes (and the file name's suffix) alone, so the same file gives the same chunks everywhere.
The publisher alone cuts; devices read the sizes from the manifest. Specified in FORMAT.md §chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.containers import cut_ranges
from modelsync_protocol.native.core import core

_LARGE_TENSOR_BYTES = 16 * caps.KIB
_GEAR_WINDOW = 32
_GEAR_THRESHOLD = 2**32 // (caps.CDC_AVERAGE_BYTES - caps.CDC_MIN_BYTES)
_BLOCK = 4 * caps.MIB
_GEAR: NDArray[np.uint32] = np.array(
    [int.from_bytes(hashlib.sha256(b"modelsync gear %d" % i).digest()[:4], "little") for i in range(256)],
    np.uint32,
)


def chunk_sizes(path: str, data: memoryview) -> tuple[int, ...]:
    """Sizes in bytes, in order, of the chunks of the file `path` (its suffix names the container) with bytes `data`."""
    sizes: list[int] = []
    position = 0
    for offset, length in cut_ranges(path, data):
        if length < _LARGE_TENSOR_BYTES:
            continue
        sizes += _opaque(data[position:offset])
        sizes += _regular(length)
        position = offset + length
    sizes += _opaque(data[position:])
    return tuple(sizes)


def _regular(length: int) -> Iterator[int]:
    """A tensor: every 256 KiB from its start."""
    while length > 0:
        yield min(length, caps.TENSOR_CHUNK_BYTES)
        length -= caps.TENSOR_CHUNK_BYTES


def _opaque(data: memoryview) -> Iterator[int]:
    """Bytes without known structure: one chunk if short, else cuts where the gear hash is small."""
    start, total = 0, len(data)
    if total == 0:
        return
    cuts = _candidates(data) if total > caps.CDC_MIN_BYTES else iter(())
    cut = next(cuts, total)
    while total - start > caps.CDC_MIN_BYTES:
        while cut - start < caps.CDC_MIN_BYTES and cut < total:
            cut = next(cuts, total)
        end = min(cut, start + caps.CDC_MAX_BYTES, total)
        yield end - start
        start = end
    if start < total:
        yield total - start


def _candidates(data: memoryview) -> Iterator[int]:
    """Positions after which the gear hash of the last 32 bytes is under the threshold, ascending."""
    raw = np.frombuffer(data, np.uint8)
    compiled, state = core(), np.zeros(1, np.uint32)
    for begin in range(0, len(raw) if compiled is not None else 0, _BLOCK):
        assert compiled is not None
        for index in compiled.gear(_GEAR, raw[begin : begin + _BLOCK], _GEAR_THRESHOLD, state).tolist():
            yield begin + index + 1
    if compiled is not None:
        return
    for begin in range(0, len(raw), _BLOCK):
        lead = min(begin, _GEAR_WINDOW - 1)
        # h_i = Σ_k gear[b_{i-k}] · 2^k (mod 2^32), for k < 32, by doubling the window five times.
        hashes = _GEAR[raw[begin - lead : begin + _BLOCK]]
        width = 1
        while width < _GEAR_WINDOW:
            hashes[width:] += hashes[:-width] << np.uint32(width)
            width *= 2
        for index in np.flatnonzero(hashes[lead:] < _GEAR_THRESHOLD):
            yield begin + int(index) + 1
