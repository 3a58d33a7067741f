"""Checked access to an HDF5 file: fields at addresses, and object headers with their messages. No I/O here."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError

UNDEFINED = 0xFFFF_FFFF_FFFF_FFFF
_CONTINUATION = 0x10
_MAX_STEPS = 20 * caps.MAX_TENSORS
_MAX_HEADER_BLOCKS = 1_000


@dataclass(frozen=True, slots=True)
class Message:
    """A header message: what kind it is, and its bytes."""

    kind: int
    data: memoryview


class File:
    """The bytes of an HDF5 file with 8-byte offsets and lengths.

    Counts what is looked at, so that whoever follows addresses stops: `at` raises FormatError after _MAX_STEPS calls.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.base = 0
        self._steps = 0

    def at(self, address: int, size: int) -> memoryview:
        """Return `size` bytes at `address`; FormatError if they lie outside of the file."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise FormatError("the HDF5 file has more parts than are followed.")
        offset = self.base + address
        if not 0 <= offset <= len(self.data) - size:
            raise FormatError("the HDF5 file points beyond its end.")
        return self.data[offset : offset + size]

    def signed_block(self, address: int, magic: bytes, size: int) -> memoryview:
        """Return `size` bytes at `address` that begin with `magic`."""
        block = self.at(address, size)
        if bytes(block[: len(magic)]) != magic:
            raise FormatError(f"the HDF5 file lacks a block {magic!r} where it says that there is one.")
        return block

    def root(self) -> int:
        """Read the superblock; return the address of the root group's object header."""
        head = self.at(0, 48)
        version = head[8]
        if version in (0, 1):
            widths, place, root = head[13:15], 24 if version == 0 else 28, 40
        elif version in (2, 3):
            widths, place, root = head[9:11], 12, 24
        else:
            raise FormatError(f"the HDF5 file has a superblock of version {version}, which is not known here.")
        if bytes(widths) != b"\x08\x08":
            raise FormatError("the HDF5 file has offsets of another width than 8 bytes.")
        (base,) = struct.unpack_from("<Q", self.at(place, 8))
        (address,) = struct.unpack_from("<Q", self.at(place + root, 8))
        if base:
            raise FormatError("the HDF5 file begins behind its start.")
        return int(address)

    def messages(self, address: int) -> Iterator[Message]:
        """Yield the messages of the object header at `address`, those of continuations included."""
        if bytes(self.at(address, 4)) == b"OHDR":
            yield from self._messages_v2(address)
        else:
            yield from self._messages_v1(address)

    def _messages_v1(self, address: int) -> Iterator[Message]:
        head = self.at(address, 16)
        if head[0] != 1:
            raise FormatError("the HDF5 file has an object header of an unknown version.")
        count, size = struct.unpack_from("<H4xI", head, 2)
        blocks = [(address + 16, size)]
        for number in range(_MAX_HEADER_BLOCKS):
            if number >= len(blocks):
                return
            block = self.at(*blocks[number])
            position = 0
            while position + 8 <= len(block) and count > 0:
                kind, length = struct.unpack_from("<HH", block, position)
                data = block[position + 8 : position + 8 + length]
                position += 8 + length
                count -= 1
                if kind == _CONTINUATION:
                    blocks.append(_place(data))
                yield Message(kind, data)

    def _messages_v2(self, address: int) -> Iterator[Message]:
        head = self.at(address, 6)
        flags = head[5]
        place = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(self.at(place, width), "little")
        lead = 6 if flags & 4 else 4
        blocks = [(place + width, size)]
        for number in range(_MAX_HEADER_BLOCKS):
            if number >= len(blocks):
                return
            block = self.at(*blocks[number])
            position = 0
            while position + lead <= len(block):
                kind, length = struct.unpack_from("<BH", block, position)
                data = block[position + lead : position + lead + length]
                position += lead + length
                if kind == _CONTINUATION:
                    start, long = _place(data)
                    self.signed_block(start, b"OCHK", 8)
                    blocks.append((start + 4, long - 8))
                yield Message(kind, data)


def _place(data: memoryview) -> tuple[int, int]:
    if len(data) < 16:
        raise FormatError("the HDF5 file has a continuation that is cut short.")
    address, size = struct.unpack_from("<QQ", data)
    if size < 8:
        raise FormatError("the HDF5 file has a continuation without content.")
    return address, size
