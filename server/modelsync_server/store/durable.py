"""Durable writing of one local file, the only place that renames into place. Knows nothing of stores."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from modelsync_protocol.errors import LocalError

TEMP_PREFIX = ".tmp-"
"""A name that begins so is a leftover of a crash: never read, never listed, harmless to delete."""

_BLOCK = 1 << 20
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


_unfinished: set[Path] = set()
_unfinished_lock = threading.Lock()
_ending = False


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new name beside `path`; what has it is removed when the block ends, unless it was renamed meanwhile."""
    temp = path.with_name(TEMP_PREFIX + secrets.token_hex(8))
    with _unfinished_lock:
        if _ending:
            raise LocalError(f"cannot write {path}: this process is being ended.")
        _unfinished.add(temp)
    try:
        yield temp
    finally:
        with contextlib.suppress(OSError):  # the medium may be gone
            temp.unlink(missing_ok=True)
        _unfinished.discard(temp)


def abandon() -> None:
    """Remove what is being written by other threads, and let nobody begin: the process ends at once after that."""
    global _ending
    with _unfinished_lock:
        _ending = True
        for temp in tuple(_unfinished):
            with contextlib.suppress(OSError):
                temp.unlink(missing_ok=True)


def write(path: Path, source: bytes | Path, *, create_only: bool = False, mode: int = 0o644) -> None:
    """Write `source` (content, or a file to copy) to `path`: a crash leaves the old file or the new one.

    Temp file, length check, fsync, link or rename, fsync of the directory. With `create_only` an existing
    `path` raises FileExistsError and stays. Missing folders are made. LocalError if this machine can't
    (disk full, permission).
    """
    try:
        make_folder(path.parent)
        with _temporary(path) as temp:
            _write_temp(temp, source, mode)
            if create_only:
                _link(temp, path)
            else:
                temp.replace(path)
            sync_folder(path.parent)
    except FileExistsError:
        if create_only and path.exists():
            raise
        raise LocalError(f"cannot write {path}: a file stands where a folder should be.") from None
    except OSError as error:
        raise local_error(path, error) from error


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file to write what becomes `path` when the block ends; after an error in it, `path` is as it was.

    Durable as `write` is. LocalError if this machine can't begin or end it; the block's own errors pass.
    """
    with _temporary(path) as temp:
        try:
            make_folder(path.parent)
            descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            raise local_error(path, error) from error
        with os.fdopen(descriptor, "wb") as file:
            yield file
            try:
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise local_error(path, error) from error
        try:
            temp.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            raise local_error(path, error) from error


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make `folder` and its missing parents, each synced into its parent; OSError if that fails."""
    if folder.is_dir():
        return
    make_folder(folder.parent, mode)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes and threads; the file stays behind, empty."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise local_error(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def local_error(path: Path, error: OSError) -> LocalError:
    """The sentence for an OSError at `path`."""
    advice = {
        errno.ENOSPC: "the disk is full; free some space and try again",
        errno.EDQUOT: "the disk quota is used up; free some space and try again",
        errno.EACCES: "permission is missing; change the owner or run as another user",
        errno.EPERM: "permission is missing; change the owner or run as another user",
        errno.EROFS: "the file system is read-only; remount it or choose another place",
    }.get(error.errno or 0, f"{error.strerror or error}; check the disk")
    return LocalError(f"cannot use {path}: {advice}.")


def _write_temp(temp: Path, source: bytes | Path, mode: int) -> None:
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        expected = _copy(source, file)
        file.flush()
        if os.fstat(file.fileno()).st_size != expected:
            raise OSError(errno.EIO, "the file is shorter than what was written")
        os.fsync(file.fileno())


def _copy(source: bytes | Path, file: BinaryIO) -> int:
    if isinstance(source, bytes):
        file.write(source)
        return len(source)
    with source.open("rb") as origin:
        expected = os.fstat(origin.fileno()).st_size
        while block := origin.read(_BLOCK):
            file.write(block)
    return expected


def _link(temp: Path, path: Path) -> None:
    """Give `temp` its name unless that is taken: a hard link, which fails if the name exists."""
    try:
        os.link(temp, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # No hard links here (FAT, some shares): every writer comes this way, so a lock is enough.
        with lock(path.parent / ".lock"):
            if path.exists():
                raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
            temp.rename(path)
