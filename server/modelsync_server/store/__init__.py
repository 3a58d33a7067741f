"""The store: one layout (DESIGN §3) behind one port. Opens stores by URL; backends are beside."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from modelsync_protocol.errors import UsageError
from modelsync_server.store.directory import DirectoryStore
from modelsync_server.store.durable import local_error, make_folder
from modelsync_server.store.memory import MemoryStore
from modelsync_server.store.port import (
    MARKER,
    AlreadyExists,
    ObjectNotFound,
    Stat,
    Store,
    StoreConflict,
    Tagged,
    TagMismatch,
)

__all__ = [
    "MARKER",
    "AlreadyExists",
    "DirectoryStore",
    "MemoryStore",
    "ObjectNotFound",
    "Stat",
    "Store",
    "StoreConflict",
    "TagMismatch",
    "Tagged",
    "create_store",
    "device_access",
    "open_store",
]

if TYPE_CHECKING:
    from modelsync_server.store.device_secret import DeviceAccess

_AZURE = "azblob://"
_BUCKETS = ("s3://", "gs://")

ADDRESSES = "azblob://ACCOUNT/CONTAINER, s3://BUCKET or gs://BUCKET"
"""Stores that are no directories, for sentences."""


def open_store(url: str) -> Store:
    """Open an initialised store by directory path or address (`ADDRESSES`, with a prefix if need be); UsageError says
    what to do if it is none.

    A container or bucket is looked at by the first call to the store, since that needs an event loop.
    """
    if url.startswith(_AZURE):
        return _azure(url, create=False)
    if url.startswith(_BUCKETS):
        return _bucket(url, create=False)
    path = _directory(url)
    if not (path / MARKER).is_file():
        raise UsageError(f"{url} is not a modelsync store: run `modelsync init {url}` first.")
    return DirectoryStore(path)


def create_store(url: str) -> Store:
    """Open the place for a store that `init` fills; a directory or container is made if it is missing, a bucket not."""
    if url.startswith(_AZURE):
        return _azure(url, create=True)
    if url.startswith(_BUCKETS):
        return _bucket(url, create=True)
    path = _directory(url)
    try:
        make_folder(path)
    except NotADirectoryError:
        raise UsageError(f"{url} is a file: choose a directory for the store.") from None
    except OSError as error:
        raise local_error(path, error) from error
    return DirectoryStore(path)


async def device_access(url: str, lifetime: timedelta, role: str | None = None) -> DeviceAccess:
    """What opens a private store to devices, read-only: a SAS, or on S3 a key of a session (`role`: that is assumed).

    UsageError for a directory, which needs none, and for a Google bucket, which has nothing for a whole prefix.
    """
    if url.startswith("s3://"):
        from modelsync_server.store import s3_device_access
        from modelsync_server.store.bucket_address import BucketAddress

        return await s3_device_access.device_access(BucketAddress.parse(url), lifetime, role)
    if url.startswith("gs://"):
        raise UsageError(
            f"{url}: Google signs single objects only. Put `modelsync serve {url}` or Cloud CDN before it."
        )
    if not url.startswith(_AZURE):
        raise UsageError(f"{url} is no blob store: devices need no SAS for it.")
    store = _azure(url, create=False)
    from modelsync_server.store import azure_account

    return await azure_account.device_access(azure_account.BlobAddress.parse(store.url), lifetime)


def _azure(url: str, *, create: bool) -> Store:
    try:
        from modelsync_server.store.azblob import AzureBlobStore
        from modelsync_server.store.azure_account import BlobAddress
    except ImportError as error:
        raise UsageError("blob stores need azure-storage-blob: install the extra modelsync-server[azure].") from error
    return AzureBlobStore(BlobAddress.parse(url), create=create)


def _bucket(url: str, *, create: bool) -> Store:
    try:
        from modelsync_server.store.bucket import BucketStore
        from modelsync_server.store.bucket_address import BucketAddress
    except ImportError as error:
        raise UsageError("stores in buckets need obstore: install the extra modelsync-server[buckets].") from error
    return BucketStore(BucketAddress.parse(url), create=create)


def _directory(url: str) -> Path:
    if not url:
        raise UsageError("the store's path is empty: name a directory.")
    if "://" in url:
        raise UsageError(f"{url.partition('?')[0]} is not a store: name a directory, {ADDRESSES}.")
    return Path(url).expanduser().absolute()
