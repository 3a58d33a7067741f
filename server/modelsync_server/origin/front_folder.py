"""The temporary folder of a front: who has it holds a lock in it, so what a killed one left is known and removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "modelsync-front-"
_LOCK = "lock"


@contextmanager
def made() -> Iterator[Path]:
    """An empty folder but for its lock, removed at the end; first, those are whose processes have been killed."""
    _remove_left(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / ".lock").rename(folder / _LOCK)  # nobody sees one that isn't held yet
            yield folder
        finally:
            os.close(lock)


def _remove_left(parent: Path) -> None:
    """Remove our own folders whose lock nobody holds; what others own, or what has no lock, is not ours to judge."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
