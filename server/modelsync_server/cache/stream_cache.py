"""Keeps streams of published versions on this machine's disk, so that bases need not be fetched and decoded again.

A file is named by its manifest's digest and checked chunk by chunk against the manifest in the store each time, so a
damaged or planted one is only a file to delete. It is written beside its place and renamed: publishers that run at the
same time see whole files, and one that is deleted while it is read stays readable.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

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
                with suppress(OSError):
                    (folder() / digest).unlink()
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
    place = folder()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = place / source.manifest.digest
        if path.exists() or size > shutil.disk_usage(place).free // _SPARE:
            return
        with NamedTemporaryFile(dir=place, prefix=".new-", delete=False) as file:
            try:
                file.write(source.stream)
                file.close()
                Path(file.name).replace(path)
            except BaseException:
                with suppress(OSError):
                    Path(file.name).unlink()
                raise
        _bound(place, most)
    except OSError as error:
        _log.info("a stream is not kept: %s", error)


@contextmanager
def _kept(digest: str, size: int) -> Iterator[memoryview | None]:
    """The bytes that are kept under a digest, if they are as many as they should be."""
    path = folder() / digest
    try:
        usable = limit() > 0 and size >= _LEAST_BYTES and path.stat().st_size == size
        if usable:
            os.utime(path)  # the least recently used goes first
    except OSError:
        usable = False
    if not usable:
        yield None
        return
    with mapped(path) as stream:
        yield stream


def _bound(place: Path, most: int) -> None:
    """Delete what was used longest ago, and what a killed publisher left, until the rest fits."""
    found = []
    for path in place.iterdir():
        with suppress(OSError):  # another publisher was faster
            info = path.stat()
            found.append((info.st_mtime_ns, info.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        with suppress(OSError):
            path.unlink()
        total -= size
