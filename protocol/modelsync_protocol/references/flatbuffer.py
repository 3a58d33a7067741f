"""A bounded look into flatbuffers, without a schema's code. No I/O here.

Layout: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

from collections.abc import Iterator

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError

_MAX_TEXT_BYTES = 4096


class Flatbuffer:
    """Tables of `data` are named by their positions; FormatError where an offset leaves the file.

    Vectors may be shared by many tables: `visits` bounds what is looked at in all.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._left = 10 * caps.MAX_TENSORS

    @property
    def root(self) -> int:
        """The root table."""
        return self.number(0, 4)

    def number(self, position: int, width: int) -> int:
        """The unsigned integer of `width` bytes at `position`."""
        if not 0 <= position <= len(self._data) - width:
            raise FormatError("a flatbuffer offset reaches beyond the file.")
        return int.from_bytes(self._data[position : position + width], "little")

    def place(self, table: int, slot: int) -> int | None:
        """Where field `slot` of a table lies; None if it is left out."""
        back = self.number(table, 4)
        vtable = table - (back - (1 << 32) if back >> 31 else back)
        entry = 4 + 2 * slot
        if entry + 2 > self.number(vtable, 2):
            return None
        offset = self.number(vtable + entry, 2)
        return table + offset if offset else None

    def scalar(self, table: int, slot: int, width: int, default: int = 0) -> int:
        """An integer field."""
        place = self.place(table, slot)
        return default if place is None else self.number(place, width)

    def table(self, table: int, slot: int) -> int | None:
        """A field that is a table."""
        place = self.place(table, slot)
        return None if place is None else place + self.number(place, 4)

    def text(self, table: int, slot: int) -> str:
        """A field that is a string; empty if it is left out."""
        start = self.table(table, slot)
        if start is None:
            return ""
        length = self.number(start, 4)
        if length > len(self._data) - start - 4:
            raise FormatError("a flatbuffer string reaches beyond the file.")
        return bytes(self._data[start + 4 : start + 4 + min(length, _MAX_TEXT_BYTES)]).decode(errors="replace")

    def tables(self, table: int | None, slot: int) -> Iterator[int]:
        """The tables of a field that is a vector of them."""
        start = None if table is None else self.table(table, slot)
        if start is None:
            return
        for index in range(self.number(start, 4)):
            self._left -= 1
            if self._left < 0:
                raise FormatError("the flatbuffer has too many tables.")
            place = start + 4 + 4 * index
            yield place + self.number(place, 4)
