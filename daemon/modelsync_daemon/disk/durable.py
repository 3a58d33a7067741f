"""The one way to put a small file durably in place: temp, length check, fsync, rename, fsync of the folder.

It knows nothing of what is written; big artifact files are written in place by the assembler.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from modelsync_protocol.errors import LocalError


def durable_write(path: Path, data: bytes, mode: int = 0o644, *, settle: bool = True) -> None:
    """Replace `path` by `data` (bytes) so that after a power cut either the old or the new content is there.

    The folder must exist. `settle` False: it is the caller who makes the folder's names durable, with others of it.
    Raises LocalError (disk full, no permission); then the old content is untouched.
    """
    temporary = _beside(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            _write_all(descriptor, data)
            if os.fstat(descriptor).st_size != len(data):
                raise LocalError(f"{path} came out shorter than written; check the file system.")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        if settle:
            fsync_directory(path.parent)
    except OSError as error:
        raise LocalError(f"{path} can't be written ({error.strerror}); free space or fix permissions.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def durable_writes(files: Mapping[Path, bytes]) -> None:
    """As durable_write for each, in this order, with each folder made durable once. Raises LocalError."""
    for path, data in files.items():
        durable_write(path, data, settle=False)
    for folder in dict.fromkeys(path.parent for path in files):
        try:
            fsync_directory(folder)
        except OSError as error:
            raise LocalError(f"{folder} can't be written ({error.strerror}); check the disk.") from error


def durable_symlink(path: Path, target: str) -> None:
    """Make `path` a symlink to `target` (relative), atomically replacing the old. Raises LocalError."""
    temporary = _beside(path)
    try:
        temporary.symlink_to(target)
        temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise LocalError(f"{path} can't be linked ({error.strerror}); free space or fix permissions.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def durable_unlink(path: Path) -> None:
    """Remove the file `path` if it is there, and make that durable. Raises LocalError."""
    try:
        path.unlink(missing_ok=True)
        fsync_directory(path.parent)
    except OSError as error:
        raise LocalError(f"{path} can't be removed ({error.strerror}); fix its permissions.") from error


def fsync_directory(path: Path) -> None:
    """Make renames and unlinks inside the folder `path` durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


TEMPORARY_PREFIX = ".modelsync-"
"""Names that a crash may leave behind begin with this; the clean-up at start removes them."""


def _beside(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
