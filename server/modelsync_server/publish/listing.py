"""What a store holds, for people: versions with dates, sizes, update costs and metadata. Nothing is written."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from modelsync_protocol import plan
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest
from modelsync_server.publish.publisher import UpdatePrice, update_prices
from modelsync_server.publish.release_records import published_at
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import read_manifest, sizes_by_version
from modelsync_server.trust import Catalogue, ModelVersions, read_catalogue

_AT_ONCE = 8
"""Versions that are looked at together: enough to hide a blob store's round trips."""


@dataclass(frozen=True, slots=True)
class Version:
    """One live version; sizes in bytes. What the store can't read (damage) is None.

    `published` is UTC; it is signed (`published_signed`) if the version has metadata, else it is the time at which
    this copy of the store got it. `updates` are those from live versions, newest first.
    """

    version: int
    digest: str
    published: datetime | None
    published_signed: bool
    size: int | None
    files: int | None
    install_bytes: int | None
    updates: tuple[UpdatePrice, ...]
    metadata: Mapping[str, Any]
    requires: Mapping[str, str] = field(default_factory=dict)
    """What it requires of a device, by key; signed."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its live versions, oldest first, and the numbers of those that were withdrawn."""

    name: str
    versions: tuple[Version, ...]
    withdrawn: tuple[int, ...]


async def list_models(store: Store) -> tuple[Model, ...]:
    """All models, by name; reads each live version's manifest and record."""
    catalogue = await read_catalogue(store)
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(model: ModelVersions, version: int) -> Version:
        async with slots:
            return (await read_version(store, model, version))[0]

    return tuple(
        [
            Model(
                name,
                tuple(await asyncio.gather(*(one(model, version) for version in sorted(model.versions)))),
                tuple(sorted(model.withdrawn)),
            )
            for name, model in sorted(catalogue.models.items())
        ]
    )


async def read_version(store: Store, model: ModelVersions, version: int) -> tuple[Version, Manifest | None]:
    """A live version, and its manifest unless that can't be read."""
    digest = model.versions[version]
    published, record = await published_at(store, digest, model.releases.get(version))
    sizes = await sizes_by_version(store, digest)
    manifest: Manifest | None = None
    install = None
    try:
        manifest, index, object_size = await read_manifest(store, digest)
        install = plan.plan_chunks(manifest, index, object_size, []).bytes
    except (FormatError, ObjectNotFound):
        pass  # `modelsync verify` says what is damaged; the list must still show the rest
    updates = update_prices(model.versions, sizes, version)
    found = Version(
        version=version,
        digest=digest,
        published=published,
        published_signed=record is not None,
        size=None if manifest is None else manifest.size,
        files=None if manifest is None else len(manifest.files),
        install_bytes=install,
        updates=updates,
        metadata=record.metadata if record else {},
        requires=model.requires.get(version, {}),
    )
    return found, manifest


def newest(catalogue: Catalogue, name: str) -> int:
    """The newest live version of a model, or 0."""
    return max(catalogue.model(name).versions, default=0)
