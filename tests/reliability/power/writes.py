"""Reads what dm-log-writes logged, and makes the disks that a power cut may leave: flushed writes, some of the others.

The format is that of Linux' drivers/md/dm-log-writes.c: a sector of super block, then for each entry a sector and its
data, all little-endian.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Entry:
    """`data` went to byte `offset`. `flush`: all before it is durable; `fua`: it is durable itself; or a `mark`."""

    offset: int
    data: bytes
    flush: bool
    fua: bool
    mark: str = ""


def read_log(path: Path) -> list[Entry]:
    """All entries in order. AssertionError if this is no such log."""
    entries = []
    with path.open("rb") as log:
        magic, version, count, sector = _SUPER.unpack(log.read(_SUPER.size))
        assert (magic, version) == (_MAGIC, 1), "not a log of dm-log-writes"
        position = sector
        for _ in range(count):
            log.seek(position)
            at, length, flags, text = _ENTRY.unpack(log.read(_ENTRY.size))
            mark = log.read(text).decode() if flags & _MARK else ""
            log.seek(position + sector)
            data = b"" if flags & _DISCARD else log.read(length * sector)
            entries.append(Entry(at * sector, data, bool(flags & _FLUSH), bool(flags & _FUA), mark))
            position += sector + (0 if flags & _DISCARD else length * sector)
    return entries


def position(entries: Sequence[Entry], mark: str) -> int:
    """Where the log has this mark."""
    return next(number for number, entry in enumerate(entries) if entry.mark == mark)


def crash_disk(
    base: Path, entries: Sequence[Entry], cut: int, share: float, chance: random.Random, path: Path
) -> tuple[int, int]:
    """Write to `path` the disk that was `base`, cut before entry `cut`; (unflushed writes, how many of them are lost).

    What was flushed is there, of what came since then a random `share` (0 to 1) is not.
    """
    certain = max((number for number, entry in enumerate(entries[:cut]) if entry.flush), default=0)
    shutil.copy(base, path)
    unsure = lost = 0
    with path.open("r+b") as disk:
        for number, entry in enumerate(entries[:cut]):
            if not entry.data:
                continue
            if number >= certain and not entry.fua:
                unsure += 1
                if chance.random() < share:
                    lost += 1
                    continue
            disk.seek(entry.offset)
            disk.write(entry.data)
    return unsure, lost
