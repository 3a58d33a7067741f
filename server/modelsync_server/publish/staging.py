"""What lies in the store under `work/<target's digest>/` while a version is published, and goes when that is done.

- `begun`: a publication of these bytes began. It stands first and goes last, so where it is found, one was interrupted.
- a task's key: what that task put into the store, so that whoever publishes these bytes next does not do it again.
- `stream`, `manifest`, `adapter-<digest>`: the inputs of workers that don't see the publisher's disk.

Devices and origins know nothing of it; it may be deleted at any time, and costs only that work is done once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from modelsync_protocol import caps
from modelsync_protocol.errors import RefusedError
from modelsync_server.store import AlreadyExists, ObjectNotFound, Store

PREFIX = "work/"
BEGUN = "begun"
STREAM, MANIFEST = "stream", "manifest"
KEPT = timedelta(days=14)
"""What an interrupted publication left is kept so long for those who publish the same bytes again."""

_WINDOW_BYTES = 8 * caps.MIB


def object_of(target: str, name: str) -> str:
    """Store path of what is kept for a target."""
    return f"{PREFIX}{target}/{name}"


def adapter_name(digest: str) -> str:
    """The name of an adapter's file among what is staged."""
    return f"adapter-{digest}"


async def adapter(store: Store, target: str, digest: str, staged: str | None, scratch: Path) -> Path:
    """The adapter's file: as it was staged on this machine, or fetched from the store into `scratch`, and checked."""
    name = adapter_name(digest)
    if staged is not None:
        return Path(staged) / name
    data = await store.get(object_of(target, name))
    if hashlib.sha256(data).hexdigest() != digest:
        raise RefusedError(f"{object_of(target, name)} is not what was staged; publish again.")
    path = scratch / name
    path.write_bytes(data)
    return path


async def put(store: Store, path: str, source: bytes | Path) -> None:
    """Create an object of which whoever made it first made the same."""
    with suppress(AlreadyExists):
        await store.create(path, source)


async def read_into(store: Store, path: str, area: memoryview) -> None:
    """Fill `area` with an object's content, window by window; RefusedError if it is shorter."""
    position = 0
    async for block in blocks(store, path, len(area)):
        area[position : position + len(block)] = block
        position += len(block)
    if position != len(area):
        raise RefusedError(f"{path} is cut short; publish again.")


async def blocks(store: Store, path: str, size: int) -> AsyncIterator[bytes]:
    """The first `size` bytes of an object, in windows."""
    position = 0
    while position < size:
        block = await store.get_range(path, position, min(_WINDOW_BYTES, size - position))
        if not block:
            return
        position += len(block)
        yield block


async def size_and_digest(store: Store, path: str) -> tuple[int, str]:
    """An object's bytes and their SHA-256, read in windows. Raises ObjectNotFound."""
    size = (await store.stat(path)).size
    digest = hashlib.sha256()
    read = 0
    async for block in blocks(store, path, size):
        digest.update(block)
        read += len(block)
    return read, digest.hexdigest()


async def begin(store: Store, target: str, now: datetime) -> set[str]:
    """Say that a publication of `target` begins; names of what an interrupted one left, BEGUN among them.

    What others left longer ago than KEPT is deleted.
    """
    found: dict[str, set[str]] = {}
    for path, _ in await store.list(PREFIX):
        digest, _, name = path.removeprefix(PREFIX).partition("/")
        found.setdefault(digest, set()).add(name)
    for digest in found.keys() - {target}:
        with suppress(ObjectNotFound):
            modified = (await store.stat(object_of(digest, BEGUN))).modified
            if modified is not None and now - modified > KEPT:
                await end(store, digest)
    if BEGUN not in found.get(target, ()):
        await put(store, object_of(target, BEGUN), b"")
    return found.get(target, set())


async def end(store: Store, target: str) -> None:
    """Delete all that is kept for a target, BEGUN last."""
    paths = [path for path, _ in await store.list(object_of(target, ""))]
    begun = object_of(target, BEGUN)
    for path in [*(path for path in paths if path != begun), begun]:
        await store.delete(path)
