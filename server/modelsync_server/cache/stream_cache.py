"""Keeps streams of published versions on this machine's disk, so that bases need not be fetched and decoded again.

A file is named by its manifest's digest and checked chunk by chunk against the manifest in the store each time, so a
damaged or planted one is only a file to delete. It is written beside its place and renamed: publishers that run at the
same time see whole files, and one that is deleted while it is read stays readable.

A folder or file that another user could write is not used: he could change a stream after it was checked, or lead what
is deleted here elsewhere by a link. So all goes through the folder's descriptor, and no link is followed.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError
from modelsync_server.encode.encoder import Source
from modelsync_server.scratch.mapped_file import mapped
from modelsync_server.store import Store
from modelsync_server.store.published import check_chunks, materialised, read_manifest

LIMIT_VARIABLE = "MODELSYNC_CACHE_BYTES"
"""Environment: so many bytes of streams are kept; 0 keeps and uses none."""

_DEFAULT_BYTES = 4096 * caps.MIB
_LEAST_BYTES = 4 * caps.MIB
"""Smaller streams are decoded faster than they are worth a file."""

_SPARE = 4
"""No stream is kept that takes more than one in so many of the disk's free bytes."""

_FOLDER = "streams-1"
_NAME = re.compile(r"[0-9a-f]{64}|\.new-[0-9a-f]{16}")
"""What we keep there, and what is being written; nothing else in the folder is ours to count or delete."""

_log = logging.getLogger(__name__)


def folder() -> Path:
    """Where streams are kept: below XDG_CACHE_HOME, else ~/.cache."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(chosen) if Path(chosen).is_absolute() else Path("~/.cache").expanduser()
    return base / "modelsync" / _FOLDER


def limit() -> int:
    """Bytes that all streams together may take; what can't be read as a number counts as 0."""
    said = os.environ.get(LIMIT_VARIABLE)
    if said is None:
        return _DEFAULT_BYTES
    return int(said) if said.isdecimal() else 0


@asynccontextmanager
async def stream_of(store: Store, digest: str) -> AsyncIterator[Source]:
    """Yield a published version with its stream, from the cache or else decoded; checked either way.

    Valid inside the context. Raises ObjectNotFound and FormatError as `published.materialised` does.
    """
    manifest, _, _ = await read_manifest(store, digest)
    with _kept(digest, manifest.size) as stream:
        if stream is not None:
            source = Source(manifest, stream)
            try:
                check_chunks(source)
            except FormatError as error:
                _log.warning("a kept stream is damaged and deleted: %s", error)
                with suppress(OSError), _opened() as place:
                    os.unlink(digest, dir_fd=place)
            else:
                yield source
                return
    async with materialised(store, digest) as source:
        keep(source)
        yield source


def keep(source: Source) -> None:
    """Keep a stream, if there is room; older ones go. Never raises for what a disk can do."""
    most, size = limit(), len(source.stream)
    if not _LEAST_BYTES <= size <= most // 2:
        return
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened() as place:
            room = os.statvfs(place)
            if source.manifest.digest in _names(place) or size > room.f_bavail * room.f_frsize // _SPARE:
                return
            _write(place, source)
            _bound(place, most)
    except OSError as error:
        _log.info("a stream is not kept: %s", error)


def _write(place: int, source: Source) -> None:
    part = f".new-{secrets.token_hex(8)}"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=place)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(source.stream)
        os.rename(part, source.manifest.digest, src_dir_fd=place, dst_dir_fd=place)
    except BaseException:
        with suppress(OSError):
            os.unlink(part, dir_fd=place)
        raise


@contextmanager
def _opened() -> Iterator[int]:
    """The folder's descriptor; OSError unless it is there and nobody else can write it."""
    descriptor = os.open(folder(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not _is_ours(os.fstat(descriptor)):
            raise PermissionError(f"{folder()} can be written by others: chmod 700, or set XDG_CACHE_HOME")
        yield descriptor
    finally:
        os.close(descriptor)


def _names(place: int) -> list[str]:
    with os.scandir(place) as entries:
        return [entry.name for entry in entries]


def _is_ours(info: os.stat_result) -> bool:
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@contextmanager
def _kept(digest: str, size: int) -> Iterator[memoryview | None]:
    """The bytes that are kept under a digest, if they are as many as they should be."""
    found = None
    if limit() > 0 and size >= _LEAST_BYTES:
        with suppress(OSError):
            found = _open_file(digest, size)
    if found is None:
        yield None
        return
    with mapped(found) as stream:
        yield stream


def _open_file(digest: str, size: int) -> int | None:
    """A descriptor of a kept file, which is the most recently used from now on; None if it is not to be used."""
    with _opened() as place:
        found = os.open(digest, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    try:
        info = os.fstat(found)
        if stat.S_ISREG(info.st_mode) and info.st_size == size and _is_ours(info):
            os.utime(found)  # the least recently used goes first
            return found
    except OSError:
        pass
    os.close(found)
    return None


def _bound(place: int, most: int) -> None:
    """Delete what was used longest ago, and what a killed publisher left, until the rest fits."""
    found = []
    for name in filter(_NAME.fullmatch, _names(place)):
        with suppress(OSError):  # another publisher was faster
            info = os.stat(name, dir_fd=place, follow_symlinks=False)
            found.append((info.st_mtime_ns, info.st_size, name))
    total = sum(size for _, size, _ in found)
    for _, size, name in sorted(found):
        if total <= most:
            return
        with suppress(OSError):
            os.unlink(name, dir_fd=place)
        total -= size
