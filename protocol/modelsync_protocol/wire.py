"""Reading and writing of the binary fields that all our objects are made of. No I/O here.

Integers are LEB128 varints (7 bits a byte, low bits first, shortest form only, below 2^56); signed ones are
zigzag-mapped first. Every read is bounded, so a truncated or hostile buffer raises FormatError.
"""

from __future__ import annotations

from modelsync_protocol.errors import FormatError

_MAX_VARINT_BYTES = 8


class Truncated(FormatError):
    """The buffer ends in the middle of a field; a reader of streams may come back with more bytes."""


def write_varint(out: bytearray, value: int) -> None:
    """Append `value` (0 ≤ value < 2^56)."""
    if not 0 <= value < 1 << 56:
        raise ValueError(f"{value} does not fit a varint")
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def write_signed(out: bytearray, value: int) -> None:
    """Append `value` (|value| < 2^55), zigzag-mapped."""
    write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)


class Reader:
    """A cursor over `data` (borrowed, never copied as a whole)."""

    __slots__ = ("_data", "_what", "offset")

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data = memoryview(data)
        self._what = what
        self.offset = 0

    def varint(self, limit: int) -> int:
        """Read a varint; a value over `limit` raises FormatError."""
        if self.offset < len(self._data) and (value := self._data[self.offset]) < 0x80 and value <= limit:
            self.offset += 1  # most are of one byte, and a large update has millions
            return value
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            if self.offset >= len(self._data):
                raise Truncated(f"{self._what} is cut short.")
            byte = self._data[self.offset]
            self.offset += 1
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if byte == 0 and index > 0:
                    raise FormatError(f"{self._what} holds an integer that is not in its shortest form.")
                break
        else:
            raise FormatError(f"{self._what} holds an integer that is too long.")
        if value > limit:
            raise FormatError(f"{self._what} holds the number {value}; {limit} is the most allowed there.")
        return value

    def signed(self, limit: int) -> int:
        """Read a zigzag varint; a magnitude over `limit` raises FormatError."""
        value = self.varint(2 * limit)
        return value >> 1 if not value & 1 else -((value + 1) >> 1)

    def take(self, count: int) -> memoryview:
        """Return the next `count` bytes as a view of the caller's buffer."""
        if count > len(self._data) - self.offset:
            raise Truncated(f"{self._what} is cut short.")
        view = self._data[self.offset : self.offset + count]
        self.offset += count
        return view

    def expect(self, magic: bytes) -> None:
        """Read and compare a magic number."""
        if bytes(self.take(len(magic))) != magic:
            raise FormatError(f"{self._what} does not begin with {magic!r}; it is of another kind or version.")

    def end(self) -> None:
        """Raise FormatError unless everything has been read."""
        if self.offset != len(self._data):
            raise FormatError(f"{self._what} has {len(self._data) - self.offset} bytes after its end.")
