"""Encoding 8: records of a fixed size, transposed so that equal fields stand together. No I/O here.

FORMAT.md §transpose. Columns may travel as differences from the record before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.codecs import zstd
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.codecs.quick_size import quick_size
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_varint

_MAX_STRIDE = 4096
_TRIED = (2, 3, 4, 5, 6, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 96, 128)
_PROBE_BYTES = 64 * caps.KIB


class Transpose:
    """Leans on nothing."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding; strides and differences are chosen by estimates on a sample."""
        stride, differenced = _layout(target)
        out = bytearray()
        write_varint(out, stride)
        out.append(differenced)
        return bytes(out) + zstd.compress(_columns(target, stride, differenced), b"")

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes:
        """See codecs.port.Encoding."""
        if length > caps.MAX_FRAME_BYTES:
            raise FormatError(f"a frame of {length} decoded bytes is larger than any allowed.")
        reader = Reader(payload, "a frame of records")
        stride = reader.varint(_MAX_STRIDE)
        flag = reader.take(1)[0]
        if stride == 0 or flag > 1:
            raise FormatError("a frame of records has an unknown layout.")
        data = zstd.decompress(bytes(reader.take(len(payload) - reader.offset)), length, b"")
        rows = length // stride
        table = np.frombuffer(data, np.uint8, rows * stride).reshape(stride, rows)
        if flag:
            table = np.cumsum(table, axis=1, dtype=np.uint8)
        return table.T.tobytes() + data[rows * stride :]

    def estimate(self, target: bytes) -> int:
        """About how many bytes `encode` will give, quickly."""
        return quick_size(_columns(target, *_layout(target)))


def _layout(data: bytes) -> tuple[int, bool]:
    choices = [(stride, flag) for stride in _strides(data) for flag in (False, True)]
    return min(choices, key=lambda choice: quick_size(_columns(_sample(data, choice[0]), *choice)))


def _columns(data: bytes, stride: int, differenced: bool) -> bytes:
    rows = len(data) // stride
    table: NDArray[np.uint8] = np.frombuffer(data, np.uint8, rows * stride).reshape(rows, stride).T
    if differenced:
        table = np.diff(table, axis=1, prepend=np.zeros((stride, 1), np.uint8))
    return table.tobytes() + data[rows * stride :]


def _sample(data: bytes, stride: int) -> bytes:
    """The middle of the data, beginning at a record."""
    if len(data) <= _PROBE_BYTES:
        return data
    begin = (len(data) - _PROBE_BYTES) // 2
    begin -= begin % stride
    return data[begin : begin + _PROBE_BYTES]


def _strides(data: bytes) -> list[int]:
    """Record sizes worth trying: those after which bytes repeat most often."""
    sample = np.frombuffer(_sample(data, 1), np.uint8)
    fitting = [stride for stride in _TRIED if 4 * stride <= len(sample)]
    repeats = {stride: int(np.count_nonzero(sample[stride:] == sample[:-stride])) for stride in fitting}
    return sorted(fitting, key=lambda stride: -repeats[stride])[:4] or [1]
