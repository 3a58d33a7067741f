"""Keeps payloads out of memory: they are appended to scratch files, and what is handed back is a view of the file.

A file has no name, and goes when the last payload in it is forgotten. So nobody has to say when a candidate has lost.
"""

from __future__ import annotations

import mmap
import os
import threading
from tempfile import TemporaryFile

from modelsync_protocol.errors import LocalError
from modelsync_server.scratch.mapped_file import keep_small
from modelsync_server.scratch.places import scratch_folder

Payload = bytes | memoryview
"""Bytes in memory, or a read-only view of a scratch file."""

_FILE_BYTES = 16 << 20
_LEAST_BYTES = 4096
"""Smaller payloads stay in memory: the view would be no smaller by much."""


class _Spool:
    """One file at a time is filled. Safe between threads; a forked child begins a file of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view: memoryview | None = None
        self._used = 0

    def keep(self, payload: Payload) -> Payload:
        if isinstance(payload, memoryview) or not _LEAST_BYTES <= len(payload) <= _FILE_BYTES:
            return payload
        with self._lock:
            if self._view is None or self._used + len(payload) > _FILE_BYTES:
                self._view, self._used = room(_FILE_BYTES), 0
            place = self._view[self._used : self._used + len(payload)]
            self._used += len(payload)
        place[:] = payload
        return place.toreadonly()

    def forked(self) -> None:
        self._lock, self._view = threading.Lock(), None


def keep(payload: Payload) -> Payload:
    """The same bytes, in a scratch file unless they are few. LocalError if there is no room for it."""
    return _spool.keep(payload)


def room(size: int) -> memoryview:
    """`size` bytes of zeros to be written, in a scratch file that goes with the last view of it; LocalError."""
    if not size:
        return memoryview(bytearray())
    folder = scratch_folder()
    try:
        with TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            area = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise LocalError(
            f"there is no room for scratch files ({error.strerror}); free some in {folder} or set TMPDIR."
        ) from error
    keep_small(area)
    return memoryview(area)


_spool = _Spool()
os.register_at_fork(after_in_child=_spool.forked)
