"""A store in a bucket: of S3, of what speaks it, or of Google Cloud Storage, over obstore. Addresses are elsewhere.

Small objects are created with `If-None-Match: *` (Google: generation 0) and replaced with `If-Match` (a generation), so
that the service decides races; that it really does is proved before the first write (conditional_writes.py).
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from modelsync_protocol.errors import LocalError, ModelsyncError, UsageError
from modelsync_server.store import conditional_writes
from modelsync_server.store.bucket_address import GS, BucketAddress
from modelsync_server.store.bucket_clients import RETRIES, clients
from modelsync_server.store.bucket_errors import code_of, status_of, translated
from modelsync_server.store.durable import local_error
from modelsync_server.store.port import (
    MARKER,
    AlreadyExists,
    Stat,
    Tagged,
    TagMismatch,
    cache_control,
    check_object_path,
    is_object_path,
)

SINGLE_BYTES = 64 << 20
"""Up to here (each pack, all metadata) an object goes up in one conditional request; a larger one in parts."""

PART_BYTES = 8 << 20
PARALLEL_PARTS = 4
PARALLEL_OBJECTS = 8
"""Calls in flight at once, so that a publish with many objects neither queues nor floods."""

_THROTTLED_ATTEMPTS = 6
_ABORT_SECONDS = 10.0
"""How long an interrupted upload may take to remove its parts."""

_T = TypeVar("_T")


class BucketStore:
    """The store port over one bucket, or a prefix in it. It needs no closing.

    `create`: `init` fills it, otherwise the first call checks that the place is a store. The bucket itself is made by
    its owner. `retry` replaces the library's retry settings.
    """

    def __init__(self, address: BucketAddress, *, create: bool = False, retry: dict[str, Any] | None = None) -> None:
        self.address = address
        self._create = create
        self._retry = RETRIES if retry is None else retry
        made = clients(address, self._retry)
        self._reader, self._writer, self._heavy = made.reading, made.writing, made.heavy
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(PARALLEL_OBJECTS)
        self._checked = self._proved = False
        self._proving = asyncio.Lock()

    @property
    def url(self) -> str:
        return str(self.address)

    async def get(self, path: str) -> bytes:
        return (await self.get_tagged(path)).data

    async def get_tagged(self, path: str) -> Tagged:
        name = self._name(path)

        async def attempt() -> Tagged:
            found = await obstore.get_async(self._reader, name)
            return Tagged(bytes(await found.bytes_async()), self._tag(found.meta))

        return await self._call(path, attempt)

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        if length <= 0:
            await self.stat(path)
            return b""
        name = self._name(path)

        async def attempt() -> bytes:
            try:
                return bytes(await obstore.get_range_async(self._reader, name, start=start, length=length))
            except BaseError as error:
                if status_of(error) == 416:
                    return b""
                raise

        return await self._call(path, attempt)

    async def stat(self, path: str) -> Stat:
        name = self._name(path)

        async def attempt() -> Stat:
            found = await obstore.head_async(self._reader, name)
            return Stat(int(found["size"]), self._tag(found), found["last_modified"])

        return await self._call(path, attempt)

    async def create(self, path: str, source: bytes | Path) -> None:
        name = self._name(path)
        await self._proof()
        with _opened(source) as data:

            async def attempt() -> None:
                if len(data) > SINGLE_BYTES:
                    await self._create_in_parts(name, path, data)
                    return
                client = self._heavy if len(data) > PART_BYTES else self._writer
                try:
                    await obstore.put_async(client, name, data, mode="create", attributes=_attributes(path))
                except AlreadyExistsError:
                    raise AlreadyExists(path) from None

            await self._call(path, attempt)

    async def replace(self, path: str, data: bytes, if_etag: str) -> str:
        name = self._name(path)
        await self._proof()
        return await self._replace(path, name, data, if_etag)

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        before = self.address.prefix
        folder = (before + prefix).rpartition("/")[0]  # the library takes whole folders only

        async def attempt() -> list[tuple[str, int]]:
            found: list[tuple[str, int]] = []
            async for batch in obstore.list(self._reader, prefix=folder or None, chunk_size=1000):
                for item in batch:
                    path = item["path"].removeprefix(before)
                    if path.startswith(prefix) and is_object_path(path):
                        found.append((path, int(item["size"])))
            return sorted(found)

        return await self._call(prefix, attempt)

    async def delete(self, path: str) -> None:
        name = self._name(path)

        async def attempt() -> None:
            try:
                await obstore.delete_async(self._writer, name)
            except FileNotFoundError as error:
                if code_of(error) == "NoSuchBucket":
                    raise

        await self._call(path, attempt)

    async def signed_url(self, path: str, lifetime: timedelta) -> str:
        """A URL by which anybody may read this one object until `lifetime` is over; signing it asks nobody."""
        name = self._name(path)
        return await self._call(path, lambda: obstore.sign_async(self._reader, "GET", name, lifetime))

    def _name(self, path: str) -> str:
        return self.address.prefix + check_object_path(path)

    def _tag(self, found: Any) -> str:
        """What `replace` compares: Google counts generations, S3 has tags only."""
        return str((found.get("version") if self.address.scheme == GS else found.get("e_tag")) or "")

    async def _replace(self, path: str, name: str, data: bytes, if_etag: str) -> str:
        generation = self.address.scheme == GS
        if not if_etag or (generation and not if_etag.isdecimal()):
            raise TagMismatch(path)  # no content ever had it

        async def attempt() -> str:
            try:
                mode: Any = {"version": if_etag} if generation else {"e_tag": if_etag}
                answer = await obstore.put_async(self._writer, name, data, mode=mode, attributes=_attributes(path))
            except (PreconditionError, AlreadyExistsError) as error:
                if code_of(error) == "NoSuchBucket":
                    raise
                raise TagMismatch(path) from None
            except FileNotFoundError as error:
                if code_of(error) == "NoSuchBucket":
                    raise
                raise TagMismatch(path) from None
            return self._tag(answer)

        return await self._call(path, attempt)

    async def _create_in_parts(self, name: str, path: str, data: memoryview) -> None:
        """Upload in parts, whose end has no condition in the library: so it is asked before. Interrupted, it removes
        its parts (a killed process can't: docs/integrations/stores.md has the bucket's rule for that)."""
        try:
            await obstore.head_async(self._reader, name)
        except FileNotFoundError:
            pass
        else:
            raise AlreadyExists(path)
        given_up = False

        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, len(data), PART_BYTES):
                if given_up:
                    raise _GivenUp  # only so does the library abort the upload
                yield bytes(data[start : start + PART_BYTES])
            if given_up:
                raise _GivenUp

        uploading = asyncio.ensure_future(
            obstore.put_async(
                self._heavy,
                name,
                parts(),
                attributes=_attributes(path),
                chunk_size=PART_BYTES,
                max_concurrency=PARALLEL_PARTS,
            )
        )
        try:
            await asyncio.shield(uploading)
        except asyncio.CancelledError:
            given_up = True
            await asyncio.wait([uploading], timeout=_ABORT_SECONDS)
            if not uploading.done():
                uploading.cancel()
            raise

    async def _proof(self) -> None:
        """Before the first write: prove that the service keeps to conditions."""
        self._enter()
        async with self._proving:
            if self._proved:
                return
            name = self.address.prefix + conditional_writes.NAME

            async def create(data: bytes) -> None:
                async def attempt() -> None:
                    try:
                        await obstore.put_async(self._writer, name, data, mode="create")
                    except AlreadyExistsError:
                        raise AlreadyExists(conditional_writes.NAME) from None

                await self._call(conditional_writes.NAME, attempt)

            async def read() -> Tagged:
                async def attempt() -> Tagged:
                    found = await obstore.get_async(self._reader, name)
                    return Tagged(bytes(await found.bytes_async()), self._tag(found.meta))

                return await self._call(conditional_writes.NAME, attempt)

            async def replace(data: bytes, tag: str) -> str:
                return await self._replace(conditional_writes.NAME, name, data, tag)

            stale = "1" if self.address.scheme == GS else '"00000000000000000000000000000000"'
            await conditional_writes.prove(self.url, create, read, replace, stale)
            self._proved = True

    async def _call(self, path: str, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Run `attempt` in a free slot, again while the service throttles, in our errors' words."""
        self._enter()
        async with self._slots:
            if not self._checked:
                await self._patiently(MARKER, self._check)
                self._checked = True
            return await self._patiently(path, attempt)

    def _enter(self) -> None:
        """What waits belongs to one event loop; a store may see several, one after the other."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._slots, self._proving = loop, asyncio.Semaphore(PARALLEL_OBJECTS), asyncio.Lock()

    async def _check(self) -> None:
        if self._create:
            return
        try:
            await obstore.get_async(self._reader, self.address.prefix + MARKER)
        except FileNotFoundError as error:
            if code_of(error) == "NoSuchBucket":
                raise
            raise UsageError(f"{self.url} is not a modelsync store: run `modelsync init {self.url}` first.") from None

    async def _patiently(self, path: str, attempt: Callable[[], Awaitable[_T]]) -> _T:
        for number in range(_THROTTLED_ATTEMPTS):
            try:
                return await attempt()
            except ModelsyncError:
                raise
            except (BaseError, FileNotFoundError, PermissionError, ValueError) as error:
                # The library retries 5xx and broken lines itself, but not 429.
                if status_of(error) != 429 or number == _THROTTLED_ATTEMPTS - 1:
                    raise translated(self.address, path, error) from None
                await asyncio.sleep(min(self._retry["backoff"]["init_backoff"].total_seconds() * 2**number, 30.0))
        raise AssertionError("the loop above returns or raises")


class _GivenUp(Exception):
    """An upload is to end here."""


class _opened:  # a context manager, used as a function
    """The bytes to upload as one view; a file is mapped, so that it costs no memory. LocalError."""

    def __init__(self, source: bytes | Path) -> None:
        self._source = source
        self._area: mmap.mmap | None = None
        self._view = memoryview(b"")

    def __enter__(self) -> memoryview:
        if isinstance(self._source, bytes):
            self._view = memoryview(self._source)
            return self._view
        try:
            with self._source.open("rb") as file:
                if self._source.stat().st_size:
                    self._area = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    self._view = memoryview(self._area)
        except OSError as error:
            raise local_error(self._source, error) from error
        except ValueError as error:
            raise LocalError(f"{self._source} can't be read as a file.") from error
        return self._view

    def __exit__(self, *_: object) -> None:
        """Nothing is closed: the library may hold the view for longer, and the mapping goes with the last of it."""


def _attributes(path: str) -> Any:
    return {"Content-Type": "application/octet-stream", "Cache-Control": cache_control(path)}
