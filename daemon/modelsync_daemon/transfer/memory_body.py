"""Reads an object that is in memory, as a download's body does (transfer.ObjectReader)."""

from __future__ import annotations

from modelsync_protocol.errors import FormatError


class OneSource:
    """The part of transfer.ObjectReader that is about neighbours, for what has none."""

    hearsay = False

    def accept(self) -> None:
        """Nothing: only what neighbours bring is asked about."""

    async def again(self, begin: int, count: int) -> bytes | None:
        """Nobody else is known."""
        return None


class MemoryBody(OneSource):
    """Reads `data` (borrowed) in order from `position` on."""

    etag = ""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    async def read(self, count: int) -> bytes:
        """Exactly the next `count` bytes; FormatError if there are fewer."""
        part = self._data[self.position : self.position + count]
        if len(part) != count:
            raise FormatError("an object that came with others is cut short.")
        self.position += count
        return part

    def unread(self, data: bytes) -> None:
        """Give back the last bytes that were read."""
        self.position -= len(data)

    async def skip_to(self, position: int) -> None:
        """Go on at `position`."""
        self.position = position

    def close(self) -> None:
        """Nothing is open."""
