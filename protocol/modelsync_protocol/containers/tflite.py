"""Tensors of a TensorFlow Lite file: a bounded walk over its flatbuffer, without its library. No I/O here.

Schema: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

from __future__ import annotations

from collections.abc import Iterator

from modelsync_protocol import caps
from modelsync_protocol.containers.ranges import TensorRange
from modelsync_protocol.errors import FormatError

_IDENTIFIER = b"TFL3"
_MODEL_SUBGRAPHS, _MODEL_BUFFERS = 2, 4
_SUBGRAPH_TENSORS = 0
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME = 0, 1, 2, 3
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2
_MAX_NAME_BYTES = 1024
_MAX_RANK = 32
_DTYPES = {
    0: "f32",
    1: "f16",
    2: "i32",
    3: "u8",
    4: "i64",
    6: "u8",
    7: "i16",
    9: "i8",
    10: "f64",
    12: "i64",
    15: "i32",
    17: "u4",
}


def tensors(data: memoryview) -> Iterator[TensorRange]:
    """Yield every buffer, typed by the first tensor that uses it; FormatError if `data` is no TFLite model."""
    if len(data) < 8 or bytes(data[4:8]) != _IDENTIFIER:
        raise FormatError("the file is no TensorFlow Lite model.")
    root = _unsigned(data, 0, 4)
    table = _field(data, root, _MODEL_BUFFERS)
    if table is None:
        return
    uses = _uses(data, root)
    for index, buffer in enumerate(_tables(data, table, "buffers")):
        name, dtype, shape = uses.get(index, ("", None, ()))
        inline = _field(data, buffer, _BUFFER_DATA)
        if inline is not None:
            yield TensorRange(name, *_vector(data, inline), dtype, shape)
            continue
        far, size = _field(data, buffer, _BUFFER_OFFSET), _field(data, buffer, _BUFFER_SIZE)
        if far is not None and size is not None:
            yield TensorRange(name, _unsigned(data, far, 8), _unsigned(data, size, 8), dtype, shape)


def _uses(data: memoryview, root: int) -> dict[int, tuple[str, str | None, tuple[int, ...]]]:
    """Buffer number → name, element type and shape of a tensor that it holds; empty if that part is damaged."""
    uses: dict[int, tuple[str, str | None, tuple[int, ...]]] = {}
    seen = 0
    try:
        graphs = _field(data, root, _MODEL_SUBGRAPHS)
        for graph in _tables(data, graphs, "graphs") if graphs is not None else ():
            listed = _field(data, graph, _SUBGRAPH_TENSORS)
            seen += 1
            for tensor in _tables(data, listed, "tensors") if listed is not None else ():
                seen += 1  # graphs may share their vectors: their number alone bounds nothing
                if seen > caps.MAX_TENSORS:
                    raise FormatError("the TensorFlow Lite model has too many tensors.")
                buffer, kind = _field(data, tensor, _TENSOR_BUFFER), _field(data, tensor, _TENSOR_TYPE)
                number = _unsigned(data, buffer, 4) if buffer is not None else 0
                dtype = _DTYPES.get(_unsigned(data, kind, 1) if kind is not None else 0)
                if number not in uses:
                    uses[number] = _name(data, tensor), dtype, _shape(data, tensor)
    except FormatError:
        return {}
    return uses


def _name(data: memoryview, tensor: int) -> str:
    field = _field(data, tensor, _TENSOR_NAME)
    if field is None:
        return ""
    start, length = _vector(data, field)
    return bytes(data[start : start + min(length, _MAX_NAME_BYTES)]).decode(errors="replace")


def _shape(data: memoryview, tensor: int) -> tuple[int, ...]:
    field = _field(data, tensor, _TENSOR_SHAPE)
    if field is None:
        return ()
    start, rank = _vector(data, field)
    return tuple(_unsigned(data, start + 4 * axis, 4) for axis in range(rank)) if rank <= _MAX_RANK else ()


def _tables(data: memoryview, field: int, what: str) -> Iterator[int]:
    """Positions of the tables of a vector of tables."""
    start, count = _vector(data, field)
    if count > caps.MAX_TENSORS:
        raise FormatError(f"the TensorFlow Lite model has too many {what}.")
    for place in range(start, start + 4 * count, 4):
        yield place + _unsigned(data, place, 4)


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
