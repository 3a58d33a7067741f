"""Writes and reads release records in a store. What is in one is modelsync_protocol.release_record's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from modelsync_protocol import canonical, names, release_record
from modelsync_protocol.errors import FormatError
from modelsync_protocol.release_record import ReleaseRecord
from modelsync_server.store import AlreadyExists, ObjectNotFound, Store


async def write_record(store: Store, metadata: Mapping[str, Any], published: datetime) -> str:
    """Put a record into the store and return its digest, for the signature; UsageError for what can't be written."""
    data = release_record.encode(ReleaseRecord(published, metadata))
    digest = canonical.digest(data)
    with suppress(AlreadyExists):
        await store.create(names.release_object(digest), data)
    return digest


async def read_record(store: Store, digest: str) -> ReleaseRecord:
    """A record by its signed digest; ObjectNotFound, FormatError."""
    return release_record.decode(await store.get(names.release_object(digest)), digest)


async def published_at(store: Store, manifest: str, record: str | None) -> tuple[datetime | None, ReleaseRecord | None]:
    """When a version was published, and its record (None: it has none, or it is not readable).

    The record's time is signed. Without one it is when the store got the manifest, None if it can't say.
    """
    if record is not None:
        with suppress(FormatError, ObjectNotFound):  # `verify` says what is missing
            found = await read_record(store, record)
            return found.published, found
    try:
        modified = (await store.stat(names.manifest_object(manifest))).modified
    except ObjectNotFound:
        return None, None
    return (None if modified is None else modified.astimezone(UTC).replace(microsecond=0)), None
