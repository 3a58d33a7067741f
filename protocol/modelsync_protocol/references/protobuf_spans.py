"""Protobuf messages that arrive in pieces, read as the runtimes merge them. Nothing of ONNX, and no I/O here.

A singular message that is given twice is one message: the fields of both, in order. So a message here is a list of
ranges. Unlike containers.protobuf, groups are skipped as protobuf skips them, and keys that readers may take
differently are refused. https://protobuf.dev/programming-guides/encoding/#last-one-wins
"""

from __future__ import annotations

from collections.abc import Iterator

from modelsync_protocol.containers.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, varint
from modelsync_protocol.errors import FormatError

GROUP, END_GROUP = 3, 4
_MAX_GROUPS = 100
"""As deep as protobuf itself goes."""
_MAX_KEY = (1 << 32) - 1

Spans = list[tuple[int, int]]
"""(begin, end) of the pieces of one message."""


def merged(data: memoryview, spans: Spans) -> Iterator[Field]:
    """The fields of all pieces in order; a group is one field of kind GROUP. FormatError where malformed."""
    for begin, end in spans:
        position = begin
        while position < end:
            field = _field(data, position, end, 0)
            if field.kind == END_GROUP:
                raise FormatError("a protobuf group ends that never began.")
            yield field
            position = field.end


def _field(data: memoryview, position: int, end: int, depth: int) -> Field:
    key, begin = varint(data, position, end)
    number, kind, value, stop = key >> 3, key & 7, 0, begin
    if key > _MAX_KEY or number == 0:
        raise FormatError("a protobuf key is out of range.")
    if kind == VARINT:
        value, stop = varint(data, begin, end)
    elif kind == FIXED64:
        stop += 8
    elif kind == FIXED32:
        stop += 4
    elif kind == BYTES:
        length, begin = varint(data, begin, end)
        stop = begin + length
    elif kind == GROUP:
        stop = _group(data, begin, end, number, depth + 1)
    elif kind != END_GROUP:
        raise FormatError(f"protobuf wire type {kind} is not known here.")
    if stop > end:
        raise FormatError("a protobuf field reaches beyond its message.")
    return Field(number, kind, begin, stop, value)


def _group(data: memoryview, position: int, end: int, number: int, depth: int) -> int:
    if depth > _MAX_GROUPS:
        raise FormatError("protobuf groups are nested too deeply.")
    while position < end:
        field = _field(data, position, end, depth)
        position = field.end
        if field.kind == END_GROUP:
            if field.number != number:
                raise FormatError("a protobuf group ends with another number.")
            return position
    raise FormatError("a protobuf group does not end.")
