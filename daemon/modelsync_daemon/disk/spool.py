"""Objects as they come from the origin or a neighbour, kept for neighbours: which bytes of each are here, in a folder.

A worker writes, the resident daemon reads what is there so far; the two share files and locks only. Nothing here is
needed: whatever is lost or damaged is fetched again, so little is synced. It knows no network and no names of objects.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import struct
import time
from pathlib import Path
from typing import Any

from modelsync_daemon.disk.datadir import RESERVE_BYTES
from modelsync_daemon.disk.spool_view import View, merged
from modelsync_protocol.errors import LocalError

_RECORD = struct.Struct("<QQQ")
"""What is done, from where, how many bytes (or to where)."""

_HEAD_BYTES = 512
_PLANNED, _HERE, _SIZE, _SETTLED = 1, 2, 3, 4
_STEP_BYTES = 1024 * 1024
"""So much room is made at a time."""

_BOOT = "boot"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Entry:
    """One object's two files, open for reading. Close it; while it is open, nobody makes room by removing it."""

    def __init__(self, data: int, log: int) -> None:
        self._data, self._log = data, log
        self._read_to = _HEAD_BYTES
        self._size: int | None = None
        self._here: list[tuple[int, int]] = []
        self._planned: tuple[int, int | None] | None = None
        self._cursor = 0
        self._settled = False

    @property
    def begun(self) -> float:
        """When its first byte was about to be written (Unix seconds)."""
        try:
            return float(self._head()["at"])
        except (ValueError, KeyError, TypeError):
            return 0.0

    @property
    def changes(self) -> bool:
        """Whether stores replace the object, so that a copy is soon stale."""
        try:
            return bool(self._head().get("changes", True))
        except (ValueError, AttributeError):
            return True

    def _head(self) -> dict[str, Any]:
        return dict(json.loads(os.pread(self._log, _HEAD_BYTES, 0).rstrip(b"\0")))

    def view(self) -> View:
        """What is here now."""
        while True:
            block = os.pread(self._log, 64 * _RECORD.size, self._read_to)
            block = block[: len(block) // _RECORD.size * _RECORD.size]
            for kind, offset, value in _RECORD.iter_unpack(block):
                self._take(kind, offset, value)
            self._read_to += len(block)
            if len(block) < 64 * _RECORD.size:
                break
        return View(self._size, tuple(self._here), self._planned, self._cursor, self._settled)

    def _take(self, kind: int, offset: int, value: int) -> None:
        if kind == _PLANNED:
            self._planned = (offset, value or None)
            self._cursor = offset
        elif kind == _HERE:
            self._here = merged(self._here, offset, offset + value)
            self._cursor = offset + value
        elif kind == _SIZE:
            self._size = value
        elif kind == _SETTLED:
            self._settled, self._planned = True, None

    def growing(self) -> bool:
        """Whether its writer lives."""
        if not _try_lock(self._log, fcntl.LOCK_SH):
            return True
        fcntl.flock(self._log, fcntl.LOCK_UN)  # or it would keep the next writer out
        return False

    def gone(self) -> bool:
        """Whether it was dropped since it was opened."""
        return os.fstat(self._log).st_nlink == 0

    def read(self, offset: int, count: int) -> bytes:
        """Bytes that are here, at most `count`."""
        return os.pread(self._data, count, offset)

    def close(self) -> None:
        """Let go; may be called twice."""
        for descriptor in (self._data, self._log):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._log = -1

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Writer:
    """Takes in bytes of one object. It holds a lock as long as its process lives, by which readers know that."""

    def __init__(self, spool: Spool, name: str, data: int, log: int) -> None:
        self._spool, self._name, self._data, self._log = spool, name, data, log
        self._room = 0

    def plan(self, begin: int, end: int | None) -> None:
        """Say what is about to be written: bytes from `begin` on, to `end` if that is known."""
        self._record(_PLANNED, begin, end or 0)

    def size(self, size: int) -> None:
        """Say how long the object is."""
        self._record(_SIZE, 0, size)

    def write(self, offset: int, data: bytes) -> bool:
        """Keep bytes, and show them to readers; False if the disk doesn't take them: the object then ends there."""
        if self._data < 0:
            return False
        try:
            if self._room < len(data):
                self._room = self._spool.make_room(len(data), self._name)
            view, done = memoryview(data), 0
            while done < len(data):
                done += os.pwrite(self._data, view[done:], offset + done)
        except OSError:
            self.close()
            return False
        self._room -= len(data)
        self._record(_HERE, offset, len(data))
        return True

    def settle(self, *, durable: bool = False) -> None:
        """Nothing more is to come. `durable`: what is here survives a power cut, and is believed after one."""
        with contextlib.suppress(OSError):
            if self._data >= 0 and durable:
                os.fsync(self._data)
            self._record(_SETTLED, 0, int(durable))
            if self._log >= 0 and durable:
                os.fsync(self._log)
        self.close()

    def drop(self) -> None:
        """Remove the object: there is none, or it is not what it should be."""
        self._spool.remove(self._name)
        self.close()

    def close(self) -> None:
        """Let go; may be called twice. What is here stays here."""
        for descriptor in (self._data, self._log):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._log = -1

    def _record(self, kind: int, offset: int, value: int) -> None:
        if self._log < 0:
            return
        with contextlib.suppress(OSError):
            os.write(self._log, _RECORD.pack(kind, offset, value))


class Spool:
    """Objects in `folder`, at most `quota` bytes of them: what was used longest ago makes room, never what is in use.

    Several processes may use one folder at a time.
    """

    def __init__(self, folder: Path, quota: int) -> None:
        self._folder, self._quota = folder, quota

    def create(self) -> None:
        """Make the folder; drop what a power cut may have damaged and what nobody writes any more. Raises LocalError.

        For the one who holds the data directory's lock.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            boot = _BOOT_ID.read_text(encoding="ascii") if _BOOT_ID.exists() else ""
            known = self._folder / _BOOT
            same = known.exists() and known.read_text(encoding="ascii") == boot
            for name in self._names():
                if not (same and self._sound(name)) and not self._durable(name):
                    self.remove(name)
            for entry in self._folder.glob("*.data"):
                if not entry.with_suffix(".log").exists():
                    entry.unlink(missing_ok=True)
            known.write_text(boot, encoding="ascii")
        except OSError as error:
            raise LocalError(
                f"{self._folder} can't be used for neighbours ({error.strerror}); check the disk."
            ) from error

    def open(self, target: str) -> Entry | None:
        """The object's entry, if anything of it is here."""
        name = _name(target)
        try:
            log = os.open(self._folder / f"{name}.log", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            data = os.open(self._folder / f"{name}.data", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(log)
            return None
        _try_lock(data, fcntl.LOCK_SH)
        with contextlib.suppress(OSError):
            os.utime(self._folder / f"{name}.data")
        return Entry(data, log)

    def holds(self, key: str) -> bool:
        """Whether an object that does not change is here whole, by its key."""
        for log in self._folder.glob(f"{key}*.log"):
            with contextlib.suppress(OSError):
                entry = self._entry(log.stem)
                if entry is not None:
                    with entry:
                        return entry.view().whole and not entry.changes
        return False

    def write(self, target: str) -> Writer | None:
        """Begin, or go on with, an object; None if somebody else writes it, or the disk doesn't take it."""
        name = _name(target)
        data = log = -1
        try:
            log = os.open(self._folder / f"{name}.log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            if not _try_lock(log, fcntl.LOCK_EX):
                os.close(log)
                return None
            data = os.open(self._folder / f"{name}.data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _try_lock(data, fcntl.LOCK_SH)
            if os.fstat(log).st_size == 0:
                os.ftruncate(data, 0)
                head = json.dumps({"format": 1, "at": int(time.time()), "changes": "?" in target}).encode()
                os.write(log, head.ljust(_HEAD_BYTES, b"\0"))
        except OSError:
            for descriptor in (data, log):
                if descriptor >= 0:
                    os.close(descriptor)
            return None
        return Writer(self, name, data, log)

    def put(self, target: str, data: bytes) -> None:
        """Keep a small object whole, in the place of what was called so."""
        self.remove(_name(target))
        writer = self.write(target)
        if writer is not None:
            writer.write(0, data)
            writer.size(len(data))
            writer.settle()

    def drop(self, target: str) -> None:
        """Remove an object."""
        self.remove(_name(target))

    def make_room(self, count: int, name: str) -> int:
        """Let at least `count` more bytes of object `name` fit, by removing others; how many do. OSError (ENOSPC)."""
        step = max(count, min(_STEP_BYTES, self._quota // 16))  # each writer may be so far beyond what is counted
        used = self._used()
        while sum(size for _, size, _ in used) + step > self._quota or self._free() < step:
            victim = next((item for _, _, item in used if item != name and self._idle(item)), None)
            if victim is None:
                if sum(size for _, size, _ in used) + count <= self._quota and self._free() >= count:
                    return count
                raise OSError(errno.ENOSPC, "the quota for neighbours is used up")
            self.remove(victim)
            used = [item for item in used if item[2] != victim]
        return step

    def remove(self, name: str) -> None:
        """Remove both files of an object; who has them open goes on reading."""
        for suffix in (".log", ".data"):
            (self._folder / f"{name}{suffix}").unlink(missing_ok=True)

    def age(self, seconds: float) -> None:
        """Remove what nobody has used for so long."""
        before = time.time() - seconds
        for used, _, name in self._used():
            if used < before and self._idle(name):
                self.remove(name)

    @property
    def used_bytes(self) -> int:
        """What it takes of the disk."""
        return sum(size for _, size, _ in self._used())

    def _free(self) -> int:
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize - RESERVE_BYTES

    def _names(self) -> list[str]:
        return sorted(entry.stem for entry in self._folder.glob("*.log"))

    def _used(self) -> list[tuple[float, int, str]]:
        """When last used, bytes on the disk, name; what was used longest ago first."""
        found = []
        for name in self._names():
            with contextlib.suppress(OSError):
                info, log = ((self._folder / f"{name}{suffix}").stat() for suffix in (".data", ".log"))
                found.append((info.st_mtime, (info.st_blocks + log.st_blocks) * 512, name))
        return sorted(found)

    def _idle(self, name: str) -> bool:
        """Whether nobody has it open: neither a writer nor who sends it to somebody."""
        for suffix in (".data", ".log"):
            try:
                descriptor = os.open(self._folder / f"{name}{suffix}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if not _try_lock(descriptor, fcntl.LOCK_EX):
                    return False
            finally:
                os.close(descriptor)
        return True

    def _sound(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            entry = self._entry(name)
            if entry is not None:
                with entry:
                    return entry.view().whole
        return False

    def _durable(self, name: str) -> bool:
        try:
            with (self._folder / f"{name}.log").open("rb") as file:
                file.seek(-_RECORD.size, os.SEEK_END)
                kind, _, durable = _RECORD.unpack(file.read(_RECORD.size))
        except (OSError, struct.error):
            return False
        return bool(kind == _SETTLED and durable)

    def _entry(self, name: str) -> Entry | None:
        log = os.open(self._folder / f"{name}.log", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return Entry(os.open(self._folder / f"{name}.data", os.O_RDONLY | os.O_CLOEXEC), log)
        except OSError:
            os.close(log)
            return None


def _name(target: str) -> str:
    """It begins with the key by which neighbours ask (protocol site.key_of)."""
    return hashlib.sha256(b"modelsync site 1\n" + target.encode()).hexdigest()[:40]


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
