"""Entries of a zip file: names and byte ranges, from the central directory. No I/O here.

https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from modelsync_protocol.errors import FormatError

_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_CENTRAL, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_MAX_COMMENT_BYTES = 65_535
_MAX_ENTRIES = 100_000
_FULL32 = 0xFFFFFFFF
_ENCRYPTED = 1


STORED, DEFLATED = 0, 8
"""Methods of compression that are known here."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry's name and bytes as they lie in the file; `size` is what they are unpacked."""

    name: str
    offset: int
    length: int
    method: int = STORED
    size: int = 0


def entries(data: memoryview) -> Iterator[Entry]:
    """Yield the stored entries; raise FormatError if `data` is no zip file, or lists bytes twice."""
    return (entry for entry in all_entries(data) if entry.method == STORED and entry.length == entry.size)


def all_entries(data: memoryview) -> Iterator[Entry]:
    """Yield the entries of any method, encrypted ones left out; raise FormatError as `entries` does.

    All entries together are no longer than `data`, so that whoever reads each of them takes no more than linear time.
    """
    room = len(data)
    tail = bytes(data[-(_MAX_COMMENT_BYTES + 22) :])
    place = tail.rfind(_END)
    if place < 0 or len(tail) - place < 22:
        raise FormatError("the file is no zip file.")
    count, _, start = struct.unpack_from("<HII", tail, place + 10)
    if start == _FULL32 or count == 0xFFFF:
        count, start = _far_directory(data, tail, place)
    position = start
    for _ in range(min(count, _MAX_ENTRIES)):
        _expect(data, position, _CENTRAL, 46)
        flags, method = struct.unpack_from("<HH", data, position + 8)
        packed, size, name_size, extra_size, comment_size = struct.unpack_from("<IIHHH", data, position + 20)
        (local,) = struct.unpack_from("<I", data, position + 42)
        name = bytes(data[position + 46 : position + 46 + name_size]).decode(errors="replace")
        extra = bytes(data[position + 46 + name_size : position + 46 + name_size + extra_size])
        size, packed, local = _far_sizes(extra, size, packed, local)
        position += 46 + name_size + extra_size + comment_size
        if not flags & _ENCRYPTED:
            _expect(data, local, _LOCAL, 30)
            lead = sum(struct.unpack_from("<HH", data, local + 26))
            room -= packed
            if room < 0:
                raise FormatError("the zip file's entries overlap.")
            if local + 30 + lead + packed <= len(data):
                yield Entry(name, local + 30 + lead, packed, method, size)


def _far_directory(data: memoryview, tail: bytes, place: int) -> tuple[int, int]:
    locator = tail.rfind(_LOCATOR64, 0, place)
    if locator < 0 or len(tail) - locator < 20:
        raise FormatError("the zip file's directory is missing.")
    (record,) = struct.unpack_from("<Q", tail, locator + 8)
    _expect(data, record, _END64, 56)
    count, _, start = struct.unpack_from("<QQQ", data, record + 32)
    return count, start


def _far_sizes(extra: bytes, size: int, packed: int, local: int) -> tuple[int, int, int]:
    """Replace sizes that do not fit 32 bits by those of the zip64 extra field."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, position)
        if tag == 1:
            numbers = list(struct.unpack_from(f"<{min(length, len(extra) - position - 4) // 8}Q", extra, position + 4))
            values = [numbers.pop(0) if v == _FULL32 and numbers else v for v in (size, packed, local)]
            return values[0], values[1], values[2]
        position += 4 + length
    return size, packed, local


def _expect(data: memoryview, position: int, magic: bytes, size: int) -> None:
    if not 0 <= position <= len(data) - size or bytes(data[position : position + 4]) != magic:
        raise FormatError("the zip file's directory is damaged.")
