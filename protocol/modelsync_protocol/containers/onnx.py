"""Tensors of an ONNX file: a bounded walk over the protobuf of onnx.proto3, without its library. No I/O here.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
"""

from __future__ import annotations

from collections.abc import Iterator

from modelsync_protocol.containers.protobuf import BYTES, VARINT, fields, varint
from modelsync_protocol.containers.ranges import ExternalTensor, TensorRange
from modelsync_protocol.errors import FormatError

_MAX_DEPTH = 32
_MAX_RANK = 32
_MAX_NAME_BYTES = 512
"""Of a tensor's name, and of the path to its graph."""

_MAX_LOCATION_BYTES = 1024
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_INPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 4, 5
_ATTRIBUTE_INT = 3
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_FLOATS, _ATTRIBUTE_INTS = 1, 5, 6, 7, 8
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 10, 11
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL = 1, 2, 8, 9, 13
_TYPED = {4: "f32", 5: None, 7: None, 9: None, 10: "f64", 11: None}
"""float_data, int32_data, int64_data, raw_data, double_data, uint64_data: each one run; varints have no width."""

_DTYPES = {
    1: "f32",
    2: "u8",
    3: "i8",
    4: "i16",
    5: "i16",
    6: "i32",
    7: "i64",
    9: "u8",
    10: "f16",
    11: "f64",
    12: "i32",
    13: "i64",
    16: "bf16",
    17: "u8",
    18: "u8",
    19: "u8",
    20: "u8",
    21: "u4",
    22: "u4",
}

_PACKED_INPUTS = {"MatMulNBits": 1, "GatherBlockQuantized": 0}
"""Operators of com.microsoft whose input of that number holds quants of `bits` bits, as bytes."""


def tensors(data: memoryview) -> Iterator[TensorRange]:
    """Yield every tensor whose bytes are in the file; raise FormatError if `data` is no ONNX model."""
    return (found for found in _walk(data) if isinstance(found, TensorRange))


def external_tensors(data: memoryview) -> Iterator[ExternalTensor]:
    """Yield every tensor whose bytes are in other files; raise FormatError if `data` is no ONNX model."""
    return (found for found in _walk(data) if isinstance(found, ExternalTensor))


def nibbles(data: memoryview) -> Iterator[str]:
    """Yield the names, as `tensors` gives them, of tensors of bytes that hold two quants of 4 bits each.

    Only the main graph is looked at. Raises FormatError if `data` is no ONNX model.
    """
    for number, kind, begin, end, _ in fields(data, 0, len(data)):
        if number == _MODEL_GRAPH and kind == BYTES:
            for part in fields(data, begin, end):
                if part.number == _GRAPH_NODE and part.kind == BYTES:
                    yield from _packed_input(data, part.begin, part.end)


def _packed_input(data: memoryview, start: int, end: int) -> Iterator[str]:
    inputs: list[str] = []
    operator, bits = "", 4
    for number, kind, begin, stop, _ in fields(data, start, end):
        if kind != BYTES:
            continue
        if number == _NODE_INPUT and len(inputs) <= max(_PACKED_INPUTS.values()):
            inputs.append(f":{_text(data, begin, stop)}")
        elif number == _NODE_OPERATOR:
            operator = _text(data, begin, stop)
        elif number == _NODE_ATTRIBUTE:
            found = list(fields(data, begin, stop))
            if any(f.number == _ATTRIBUTE_NAME and _text(data, f.begin, f.end) == "bits" for f in found):
                bits = next((f.value for f in found if f.number == _ATTRIBUTE_INT and f.kind == VARINT), bits)
    place = _PACKED_INPUTS.get(operator)
    if place is not None and bits == 4 and place < len(inputs):
        yield inputs[place]


def _walk(data: memoryview) -> Iterator[TensorRange | ExternalTensor]:
    seen = False
    for number, kind, begin, end, _ in fields(data, 0, len(data)):
        if number == _MODEL_GRAPH and kind == BYTES:
            seen = True
            yield from _graph(data, begin, end, "", 0)
    if not seen:
        raise FormatError("the file holds no ONNX graph.")


def _graph(data: memoryview, start: int, end: int, path: str, depth: int) -> Iterator[TensorRange | ExternalTensor]:
    if depth > _MAX_DEPTH:
        raise FormatError("the ONNX graph is nested too deeply.")
    node = 0
    for number, kind, begin, stop, _ in fields(data, start, end):
        if kind != BYTES:
            continue
        if number == _GRAPH_INITIALIZER:
            yield from _tensor(data, begin, stop, path)
        elif number == _GRAPH_SPARSE:
            for part in fields(data, begin, stop):
                if part.number in (1, 2) and part.kind == BYTES:
                    yield from _tensor(data, part.begin, part.end, path)
        elif number == _GRAPH_NODE:
            node += 1
            yield from _node(data, begin, stop, f"{path}/{node}"[:_MAX_NAME_BYTES], depth)


def _node(data: memoryview, start: int, end: int, path: str, depth: int) -> Iterator[TensorRange | ExternalTensor]:
    for number, kind, begin, stop, _ in fields(data, start, end):
        if number == _NODE_ATTRIBUTE and kind == BYTES:
            yield from _attribute(data, begin, stop, path, depth)


def _attribute(data: memoryview, start: int, end: int, node: str, depth: int) -> Iterator[TensorRange | ExternalTensor]:
    path = node
    for number, kind, begin, stop, _ in fields(data, start, end):
        if kind != BYTES:
            continue
        if number == _ATTRIBUTE_NAME:
            path = f"{node}.{_text(data, begin, stop)}"[:_MAX_NAME_BYTES]
        elif number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            yield from _tensor(data, begin, stop, path)
        elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            yield from _graph(data, begin, stop, path, depth + 1)
        elif number in (_ATTRIBUTE_FLOATS, _ATTRIBUTE_INTS):
            length = stop - begin
            floats = number == _ATTRIBUTE_FLOATS and length % 4 == 0
            yield TensorRange(path, begin, length, "f32" if floats else None, (length // 4,) if floats else ())


def _tensor(data: memoryview, start: int, end: int, path: str) -> Iterator[TensorRange | ExternalTensor]:
    shape: list[int] = []
    dtype, name = None, ""
    runs: list[tuple[int, int, int]] = []
    outside: dict[str, str] = {}
    for number, kind, begin, stop, value in fields(data, start, end):
        if number == _TENSOR_DIMS:
            shape += [value] if kind == VARINT else _packed(data, begin, stop)
        elif number == _TENSOR_TYPE and kind == VARINT:
            dtype = _DTYPES.get(value)
        elif kind != BYTES:
            continue
        elif number == _TENSOR_NAME:
            name = _text(data, begin, stop)
        elif number == _TENSOR_EXTERNAL:
            key, text = _entry(data, begin, stop)
            outside[key] = text
        elif number in _TYPED:
            runs.append((number, begin, stop - begin))
    name = f"{path}:{name}"
    known = tuple(shape) if len(shape) <= _MAX_RANK else ()
    for number, begin, length in runs:
        yield TensorRange(name, begin, length, dtype if number == _TENSOR_RAW else _TYPED[number], known)
    if "location" in outside:
        yield ExternalTensor(
            name, outside["location"], _number(outside, "offset") or 0, _number(outside, "length"), dtype, known
        )


def _packed(data: memoryview, begin: int, end: int) -> list[int]:
    values: list[int] = []
    while begin < end and len(values) <= _MAX_RANK:
        value, begin = varint(data, begin, end)
        values.append(value)
    return values


def _entry(data: memoryview, start: int, end: int) -> tuple[str, str]:
    found = (f for f in fields(data, start, end) if f.number in (1, 2) and f.kind == BYTES)
    texts = {f.number: _text(data, f.begin, f.end, _MAX_LOCATION_BYTES) for f in found}
    return texts.get(1, ""), texts.get(2, "")


def _number(outside: dict[str, str], key: str) -> int | None:
    text = outside.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _text(data: memoryview, begin: int, end: int, limit: int = _MAX_NAME_BYTES) -> str:
    return bytes(data[begin : min(end, begin + limit)]).decode(errors="replace")
