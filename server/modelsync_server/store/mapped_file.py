"""Maps a scratch file into memory as a view that outlives mistakes: closing it never hides another error."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def mapped(path: Path, *, size: int | None = None) -> Iterator[memoryview]:
    """Yield the bytes of a file as a read-only view; with `size` make the file, that long, and yield it writable.

    The room is taken beforehand: a full disk is an OSError here, not a bus error later.
    """
    with path.open("rb" if size is None else "w+b") as file:
        length = os.fstat(file.fileno()).st_size if size is None else size
        if length == 0:
            yield memoryview(b"")
            return
        if size is not None:
            os.posix_fallocate(file.fileno(), 0, size)
        area = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ if size is None else mmap.ACCESS_WRITE)
        view = memoryview(area)
        try:
            yield view
        finally:
            # While an error travels, its frames may hold slices; the mapping then goes with the last of them.
            with suppress(BufferError):
                view.release()
                area.close()
