"""A bounded walk over protobuf messages, without a schema. No I/O here.

Encoding: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from modelsync_protocol.errors import FormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field: its number and wire type, the bytes of its value, and for VARINT the value (else 0)."""

    number: int
    kind: int
    begin: int
    end: int
    value: int


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message in data[start:end]; FormatError where it is malformed."""
    position = start
    while position < end:
        key, position = varint(data, position, end)
        kind, value, begin = key & 7, 0, position
        if kind == VARINT:
            value, position = varint(data, position, end)
        elif kind == FIXED64:
            position += 8
        elif kind == FIXED32:
            position += 4
        elif kind == BYTES:
            length, begin = varint(data, position, end)
            if length > end - begin:
                raise FormatError("a protobuf field reaches beyond its message.")
            position = begin + length
        else:
            raise FormatError(f"protobuf wire type {kind} is not known here.")
        if position > end:
            raise FormatError("a protobuf field reaches beyond its message.")
        yield Field(key >> 3, kind, begin, position, value)


def varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """(value, position after it) of the varint at `position`."""
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
