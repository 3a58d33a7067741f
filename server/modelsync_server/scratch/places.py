"""Where scratch files go: TMPDIR if it is set, else the first of the usual folders that is a disk, not memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_ASKED = ("TMPDIR", "TEMP", "TMP")
_USUAL = (Path("/tmp"), Path("/var/tmp"))  # folders of random names are made in them
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_MOUNTS = Path("/proc/self/mountinfo")


def scratch_folder() -> Path:
    """The folder in which scratch files are made.

    A /tmp in memory (tmpfs) would make a limit of memory out of a limit of disk, so it is used only if TMPDIR says so
    or nothing else can be written.
    """
    return _chosen(os.environ, _USUAL, _mounts()) or Path(tempfile.gettempdir())


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A fresh folder for scratch files, removed with all that is in it."""
    with TemporaryDirectory(prefix=prefix, dir=scratch_folder()) as folder:
        yield Path(folder)


def _chosen(environment: Mapping[str, str], usual: Sequence[Path], mounts: Mapping[Path, str]) -> Path | None:
    """The first usual folder on a disk; None if the caller is asked for another, or there is none."""
    if any(environment.get(name) for name in _ASKED):
        return None
    return next((f for f in usual if os.access(f, os.W_OK | os.X_OK) and _kind(f, mounts) not in _IN_MEMORY), None)


def _kind(folder: Path, mounts: Mapping[Path, str]) -> str:
    """The type of the file system that a folder is on; empty if it can't be known."""
    folder = folder.resolve()
    return next((mounts[place] for place in (folder, *folder.parents) if place in mounts), "")


def _mounts() -> dict[Path, str]:
    """Mount point → type of its file system, as proc(5) says."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 4 and after:
            found[Path(fields[4].replace("\\040", " "))] = after.split()[0]
    return found
