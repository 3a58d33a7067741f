"""A store in an Azure Blob container, over azure-storage-blob's async client. Credentials are azure_account.py's.

Objects are created with `If-None-Match: *` and replaced with `If-Match`, so that the service itself decides races.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import ContainerClient, ExponentialRetry

from modelsync_protocol.errors import LocalError, ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_server.store.azure_account import BlobAddress, container_client
from modelsync_server.store.durable import local_error
from modelsync_server.store.port import (
    MARKER,
    AlreadyExists,
    ObjectNotFound,
    Stat,
    Tagged,
    TagMismatch,
    cache_control,
    check_object_path,
    is_object_path,
)

BLOCK_BYTES = 4 << 20
"""Larger objects go up in blocks of so many bytes, PARALLEL_BLOCKS at once; a broken line costs one block."""

PARALLEL_BLOCKS = 4
PARALLEL_OBJECTS = 6
"""Calls in flight at once, so that a publish with many objects neither queues nor floods."""

_THROTTLED_ATTEMPTS = 6
_LONGEST_PAUSE = 30.0
_CREATE_CONFLICTS = frozenset({"BlobAlreadyExists", "ConditionNotMet", "UnauthorizedBlobOverwrite"})

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How failed calls are tried again. The SDK's own default waits 15 s before its first retry.

    Waits before retry n are `first` + `base`^n seconds, give or take `jitter`; connecting and reading time out.
    """

    retries: int = 4
    first: float = 0.5
    base: float = 2.0
    jitter: float = 0.5
    connect_seconds: float = 10.0
    read_seconds: float = 60.0


class AzureBlobStore:
    """The store port over one container, or a prefix in it.

    The client is made on the first call in an event loop and closed when that loop's asynchronous generators are
    (asyncio.run does this at its end), so a store needs no closing. `create`: make the container if it is missing;
    otherwise the first call checks that the place is a store.
    """

    def __init__(self, address: BlobAddress, *, create: bool = False, patience: Patience | None = None) -> None:
        self.address = address
        self._create = create
        self._patience = patience or Patience()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Future[ContainerClient] | None = None
        self._slots = asyncio.Semaphore(PARALLEL_OBJECTS)
        self._keeper: AsyncGenerator[ContainerClient, None] | None = None

    @property
    def url(self) -> str:
        return str(self.address)

    async def get(self, path: str) -> bytes:
        return (await self.get_tagged(path)).data

    async def get_tagged(self, path: str) -> Tagged:
        name = self._name(path)

        async def attempt(container: ContainerClient) -> Tagged:
            stream = await container.download_blob(name, max_concurrency=PARALLEL_BLOCKS)
            return Tagged(await stream.readall(), str(stream.properties.etag))

        return await self._call(path, attempt)

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        name = self._name(path)

        async def attempt(container: ContainerClient) -> bytes:
            try:
                return await (await container.download_blob(name, offset=start, length=length)).readall()
            except HttpResponseError as error:
                if error.status_code == 416:
                    return b""
                raise

        return await self._call(path, attempt)

    async def stat(self, path: str) -> Stat:
        name = self._name(path)

        async def attempt(container: ContainerClient) -> Stat:
            found = await container.get_blob_client(name).get_blob_properties()
            return Stat(int(found.size), str(found.etag), found.last_modified)

        return await self._call(path, attempt)

    async def create(self, path: str, source: bytes | Path) -> None:
        name = self._name(path)

        async def attempt(container: ContainerClient) -> None:
            try:
                if isinstance(source, bytes):
                    await self._upload(container, name, path, source)
                else:
                    await self._upload_file(container, name, path, source)
            except HttpResponseError as error:
                if _code(error) in _CREATE_CONFLICTS:
                    raise AlreadyExists(path) from None
                raise

        await self._call(path, attempt)

    async def replace(self, path: str, data: bytes, if_etag: str) -> str:
        name = self._name(path)

        async def attempt(container: ContainerClient) -> str:
            try:
                answer = await container.get_blob_client(name).upload_blob(
                    data,
                    overwrite=True,
                    etag=if_etag,
                    match_condition=MatchConditions.IfNotModified,
                    content_settings=_settings(path),
                )
            except ResourceNotFoundError as error:
                if _code(error) == "ContainerNotFound":
                    raise
                raise TagMismatch(path) from None
            except HttpResponseError as error:
                if error.status_code == 412:
                    raise TagMismatch(path) from None
                raise
            return str(answer["etag"])

        return await self._call(path, attempt)

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        before = self.address.prefix

        async def attempt(container: ContainerClient) -> list[tuple[str, int]]:
            found = container.list_blobs(name_starts_with=before + prefix)
            listed = [(str(item.name).removeprefix(before), int(item.size)) async for item in found]
            return sorted((path, size) for path, size in listed if is_object_path(path))

        return await self._call(prefix, attempt)

    async def delete(self, path: str) -> None:
        name = self._name(path)

        async def attempt(container: ContainerClient) -> None:
            try:
                await container.delete_blob(name)
            except ResourceNotFoundError as error:
                if _code(error) == "ContainerNotFound":
                    raise

        await self._call(path, attempt)

    def _name(self, path: str) -> str:
        return self.address.prefix + check_object_path(path)

    async def _upload(self, container: ContainerClient, name: str, path: str, source: object) -> None:
        await container.get_blob_client(name).upload_blob(
            source,  # type: ignore[arg-type]  # bytes or a file
            overwrite=False,
            max_concurrency=PARALLEL_BLOCKS,
            content_settings=_settings(path),
        )

    async def _upload_file(self, container: ContainerClient, name: str, path: str, source: Path) -> None:
        try:
            file = await asyncio.to_thread(source.open, "rb")
        except OSError as error:
            raise local_error(source, error) from error
        with file:
            if os.fstat(file.fileno()).st_size <= BLOCK_BYTES:
                await self._upload(container, name, path, await asyncio.to_thread(file.read))
            else:
                await self._upload(container, name, path, file)

    async def _call(self, path: str, attempt: Callable[[ContainerClient], Awaitable[_T]]) -> _T:
        """Run `attempt` in a free slot, again while the service throttles, in our errors' words."""
        container = await self._client()
        async with self._slots:
            return await self._patiently(path, container, attempt)

    async def _patiently(
        self, path: str, container: ContainerClient, attempt: Callable[[ContainerClient], Awaitable[_T]]
    ) -> _T:
        for number in range(_THROTTLED_ATTEMPTS):
            try:
                return await attempt(container)
            except ModelsyncError:
                raise
            except HttpResponseError as error:
                # The SDK retries 408 and 5xx itself, but not 429.
                if error.status_code != 429 or number == _THROTTLED_ATTEMPTS - 1:
                    raise self._translated(path, error) from error
                await asyncio.sleep(_retry_after(error, self._patience.first * 2**number))
            except AzureError as error:
                raise self._translated(path, error) from error
            except OSError as error:
                raise LocalError(f"{path} can't be uploaded ({error.strerror or error}); check the disk.") from error
        raise AssertionError("the loop above returns or raises")

    def _translated(self, path: str, error: AzureError) -> ModelsyncError:
        """Our error for the SDK's. Its own text may hold a URL with a signature, so none of it is passed on."""
        if isinstance(error, ClientAuthenticationError) and (error.status_code is None or error.status_code == 400):
            return RefusedError(
                f"{self.url}: no identity of this machine gives a token for it: sign in (az login), give the machine a "
                "managed or workload identity, or set AZURE_STORAGE_CONNECTION_STRING."
            )
        if not isinstance(error, HttpResponseError) or error.status_code is None:
            return UnreachableError(f"{self.address.host} can't be reached ({type(error).__name__}); check the line.")
        code, status = _code(error) or error.reason or "", error.status_code
        if code in ("ContainerNotFound", "ContainerDisabled"):
            return UsageError(f"{self.url}: the container does not exist; check the name, or restore it.")
        if status == 404:
            return ObjectNotFound(path)
        if status in (401, 403):
            return RefusedError(
                f"{self.url} refuses these credentials ({status} {code}): they are wrong, have expired, or lack the "
                "role Storage Blob Data Contributor; renew them."
            )
        if status in (409, 412):
            return UnreachableError(f"{self.url} is busy with {path} ({status} {code}); try again.")
        if status < 500 and status != 429:
            return RefusedError(f"{self.url} does not take {path} ({status} {code}); check the container's settings.")
        return UnreachableError(f"{self.url} is overloaded or down ({status} {code}); try again later.")

    async def _client(self) -> ContainerClient:
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._opening is None:
            self._loop, self._slots = loop, asyncio.Semaphore(PARALLEL_OBJECTS)
            self._opening = asyncio.ensure_future(self._open())
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except ModelsyncError:
            if self._opening is opening:
                self._opening = None
            raise

    async def _open(self) -> ContainerClient:
        wait = self._patience
        retry = ExponentialRetry(
            initial_backoff=wait.first,  # type: ignore[arg-type]  # annotated int, used as a number
            increment_base=wait.base,  # type: ignore[arg-type]
            random_jitter_range=wait.jitter,  # type: ignore[arg-type]
            retry_total=wait.retries,
        )
        container = container_client(
            self.address,
            retry_policy=retry,
            connection_timeout=wait.connect_seconds,
            read_timeout=wait.read_seconds,
            max_single_put_size=BLOCK_BYTES,
            max_block_size=BLOCK_BYTES,
        )
        self._keeper = _kept(container)
        await anext(self._keeper)
        await self._patiently(MARKER, container, self._prepare)
        return container

    async def _prepare(self, container: ContainerClient) -> None:
        """Make the container, or see that it holds a store."""
        if self._create:
            try:
                # Asking first: a SAS for one container may write to it, but not make it.
                await container.get_container_properties()
            except HttpResponseError:
                try:
                    await container.create_container()
                except HttpResponseError as error:
                    if _code(error) != "ContainerAlreadyExists" and error.status_code != 403:
                        raise
            return
        try:
            await container.get_blob_client(self.address.prefix + MARKER).get_blob_properties()
        except ResourceNotFoundError:
            raise UsageError(f"{self.url} is not a modelsync store: run `modelsync init {self.url}` first.") from None


async def _kept(container: ContainerClient) -> AsyncGenerator[ContainerClient, None]:
    async with container:
        yield container


def _settings(path: str) -> ContentSettings:
    """What a CDN in front may keep, as docs/origin.md asks."""
    return ContentSettings(content_type="application/octet-stream", cache_control=cache_control(path))


def _retry_after(error: HttpResponseError, otherwise: float) -> float:
    text = str(getattr(error.response, "headers", {}).get("Retry-After", ""))
    return min(float(text) if text.isdecimal() else otherwise, _LONGEST_PAUSE)


def _code(error: HttpResponseError) -> str:
    """The service's own word for what went wrong, such as ContainerNotFound; empty if it gave none."""
    return str(getattr(error, "error_code", None) or "")
