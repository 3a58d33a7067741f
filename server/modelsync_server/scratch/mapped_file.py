"""Maps scratch files into memory as views that outlive mistakes, and keeps few of their pages resident.

Mapped pages of a file are page cache: the kernel takes them back when it needs memory. But until then they count as
this process's, and a publisher that reads 10 GB would seem to hold 10 GB. So while files are mapped a thread looks at
how much is resident, and hands it back to the kernel's cache when it is more than RESIDENT_BYTES. Contents never change
by that: what is touched again is mapped again.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RESIDENT_BYTES = 96 << 20
"""Mapped pages from which on they are handed back, bytes: of mapped files and this program's own code together."""

_EVERY_SECONDS = 0.05
_STATM = Path("/proc/self/statm")


@contextmanager
def mapped(path: Path | int, *, size: int | None = None) -> Iterator[memoryview]:
    """Yield the bytes of a file as a read-only view; with `size` make the file, that long, and yield it writable.

    A descriptor instead of a path is closed at the end. The room is taken beforehand: a full disk is an OSError here,
    not a bus error later.
    """
    mode = "rb" if size is None else "w+b"
    with os.fdopen(path, mode) if isinstance(path, int) else path.open(mode) as file:
        length = os.fstat(file.fileno()).st_size if size is None else size
        if length == 0:
            yield memoryview(b"")
            return
        if size is not None:
            os.posix_fallocate(file.fileno(), 0, size)
        area = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ if size is None else mmap.ACCESS_WRITE)
        keep_small(area)
        view = memoryview(area)
        try:
            yield view
        finally:
            # While an error travels, its frames may hold slices; the mapping then goes with the last of them.
            with suppress(BufferError):
                view.release()
                area.close()


def keep_small(area: mmap.mmap) -> None:
    """Let a shared mapping of a file have few resident pages from now on, until it is closed or forgotten."""
    _keeper.add(area)


class _Keeper:
    """The mappings, and the thread that looks after them as long as there are any. Safe between threads and forks."""

    def __init__(self) -> None:
        self._areas: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()
        self._running = False

    def add(self, area: mmap.mmap) -> None:
        with self._lock:
            self._areas[id(area)] = area
            if not self._running and _STATM.exists():
                self._running = True
                threading.Thread(target=self._look_after, name="mapped pages", daemon=True).start()

    def forked(self) -> None:
        """A child has no thread: it starts one with its first mapping."""
        self._lock = threading.Lock()
        self._running = False

    def _look_after(self) -> None:
        waiting = threading.Event()
        while True:
            waiting.wait(_EVERY_SECONDS)
            with self._lock:
                areas = [area for area in self._areas.values() if not area.closed]
                if not areas:
                    self._running = False
                    return
            if resident_bytes() > RESIDENT_BYTES:
                for area in areas:
                    with suppress(ValueError, OSError):  # closed in the meantime
                        area.madvise(mmap.MADV_DONTNEED)
            del areas


def resident_bytes() -> int:
    """Bytes of this process's resident pages that are of files."""
    return int(_STATM.read_bytes().split()[2]) * mmap.PAGESIZE


_keeper = _Keeper()
os.register_at_fork(after_in_child=_keeper.forked)
