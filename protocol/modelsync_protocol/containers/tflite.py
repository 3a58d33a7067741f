"""Tensor ranges of a TensorFlow Lite file: a bounded walk over its flatbuffer, without its library.

Schema: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

from __future__ import annotations

from collections.abc import Iterator

from modelsync_protocol.errors import FormatError

_IDENTIFIER = b"TFL3"
_MODEL_BUFFERS = 4
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2
_MAX_BUFFERS = 1_000_000


def tensor_ranges(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of every buffer's bytes; raise FormatError if `data` is no TFLite model."""
    if len(data) < 8 or bytes(data[4:8]) != _IDENTIFIER:
        raise FormatError("the file is no TensorFlow Lite model.")
    table = _field(data, _unsigned(data, 0, 4), _MODEL_BUFFERS)
    if table is None:
        return
    start, count = _vector(data, table)
    if count > _MAX_BUFFERS:
        raise FormatError("the TensorFlow Lite model has too many buffers.")
    for index in range(count):
        place = start + 4 * index
        buffer = place + _unsigned(data, place, 4)
        inline = _field(data, buffer, _BUFFER_DATA)
        if inline is not None:
            yield _vector(data, inline)
            continue
        far, size = _field(data, buffer, _BUFFER_OFFSET), _field(data, buffer, _BUFFER_SIZE)
        if far is not None and size is not None:
            yield _unsigned(data, far, 8), _unsigned(data, size, 8)


def _unsigned(data: memoryview, position: int, width: int) -> int:
    if not 0 <= position <= len(data) - width:
        raise FormatError("a flatbuffer offset reaches beyond the file.")
    return int.from_bytes(data[position : position + width], "little")


def _field(data: memoryview, table: int, index: int) -> int | None:
    """Position of field `index` of a table, or None if the table leaves it out."""
    vtable = table - int.from_bytes(_unsigned(data, table, 4).to_bytes(4, "little"), "little", signed=True)
    slot = 4 + 2 * index
    if slot + 2 > _unsigned(data, vtable, 2):
        return None
    offset = _unsigned(data, vtable + slot, 2)
    return table + offset if offset else None


def _vector(data: memoryview, position: int) -> tuple[int, int]:
    """(first byte, number of elements) of the vector that the field at `position` points to."""
    start = position + _unsigned(data, position, 4)
    return start + 4, _unsigned(data, start, 4)
