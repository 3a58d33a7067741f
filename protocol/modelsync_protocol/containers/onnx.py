"""Tensor ranges of an ONNX file: a bounded walk over the protobuf of onnx.proto3, without its library.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
"""

from __future__ import annotations

from collections.abc import Iterator

from modelsync_protocol.errors import FormatError

_MAX_DEPTH = 32
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_FLOATS, _ATTRIBUTE_INTS = 5, 6, 7, 8
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 10, 11
_TENSOR_PACKED = frozenset({4, 5, 7, 9, 10, 11})
"""float_data, int32_data, int64_data, raw_data, double_data, uint64_data: each one length-delimited run."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def tensor_ranges(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of every tensor's bytes; raise FormatError if `data` is no ONNX model."""
    graphs = [(start, end) for number, start, end in _fields(data, 0, len(data)) if number == _MODEL_GRAPH]
    if not graphs:
        raise FormatError("the file holds no ONNX graph.")
    for start, end in graphs:
        yield from _graph(data, start, end, 0)


def _graph(data: memoryview, start: int, end: int, depth: int) -> Iterator[tuple[int, int]]:
    if depth > _MAX_DEPTH:
        raise FormatError("the ONNX graph is nested too deeply.")
    for number, begin, stop in _fields(data, start, end):
        if number == _GRAPH_INITIALIZER:
            yield from _tensor(data, begin, stop)
        elif number == _GRAPH_SPARSE:
            for inner, first, last in _fields(data, begin, stop):
                if inner in (1, 2):
                    yield from _tensor(data, first, last)
        elif number == _GRAPH_NODE:
            for inner, first, last in _fields(data, begin, stop):
                if inner == _NODE_ATTRIBUTE:
                    yield from _attribute(data, first, last, depth)


def _attribute(data: memoryview, start: int, end: int, depth: int) -> Iterator[tuple[int, int]]:
    for number, begin, stop in _fields(data, start, end):
        if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            yield from _tensor(data, begin, stop)
        elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            yield from _graph(data, begin, stop, depth + 1)
        elif number in (_ATTRIBUTE_FLOATS, _ATTRIBUTE_INTS):
            yield begin, stop - begin


def _tensor(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int]]:
    for number, begin, stop in _fields(data, start, end):
        if number in _TENSOR_PACKED:
            yield begin, stop - begin


def _fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, begin, end) of each length-delimited field; the others are stepped over."""
    position = start
    while position < end:
        key, position = _varint(data, position, end)
        kind = key & 7
        if kind == _VARINT:
            _, position = _varint(data, position, end)
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        elif kind == _BYTES:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise FormatError("a protobuf field reaches beyond its message.")
            yield key >> 3, position, position + length
            position += length
        else:
            raise FormatError(f"protobuf wire type {kind} does not exist in ONNX files.")
        if position > end:
            raise FormatError("a protobuf field reaches beyond its message.")


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if position >= end:
            raise FormatError("a protobuf integer is cut short.")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise FormatError("a protobuf integer is too long.")
