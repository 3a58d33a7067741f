"""Publishes an artifact: cut → encode → packs and updates → manifest → signed metadata, in that order.

A crash at any point leaves garbage in the store, never a dangling reference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from modelsync_protocol import codecs, names, near_names, release_record
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.release_record import ReleaseRecord
from modelsync_server.engine.port import Engine
from modelsync_server.low_rank.adapters import read_adapter
from modelsync_server.provenance.provenance import Wanted, with_provenance
from modelsync_server.publish import price
from modelsync_server.publish.advice import Advice
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.closed import check_closed, check_hard_links
from modelsync_server.publish.objects import Work, finished, write_objects
from modelsync_server.publish.packer import Progress
from modelsync_server.publish.release_records import published_at, write_record
from modelsync_server.requirements import requirements_of
from modelsync_server.store import Store
from modelsync_server.store.collected import is_whole
from modelsync_server.store.published import sizes_by_version
from modelsync_server.tensors.effort import Effort
from modelsync_server.trust import ModelVersions, NewTarget, Repository
from modelsync_server.trust.metadata import now

DEFAULT_BASES = 5
"""Updates are made from so many of the last versions."""

_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class UpdatePrice:
    """What a device on version `base` (the JSON's `from`) will fetch."""

    base: int
    bytes: int
    requests: int
    older_bytes: int | None = None
    """What a device fetches that reads version 1 of the update's format only; None: the same."""


@dataclass(frozen=True, slots=True)
class Release:
    """A published version; sizes in bytes. `digest` is its manifest's, by which devices know it."""

    name: str
    version: int
    digest: str
    size: int
    files: int
    chunks: int
    install_bytes: int
    updates: tuple[UpdatePrice, ...]
    advice: tuple[Advice, ...]
    """What would have made the update from the last version cheaper."""
    fresh: bool
    """False: these bytes were the newest version already, and nothing was published."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What is signed of it beside its bytes; empty if nothing is."""
    code: tuple[str, ...] = ()
    """What it would execute when it is loaded or run, a sentence each; `modelsync inspect` says the same."""
    requires: Mapping[str, str] = field(default_factory=dict)
    """What it requires of a device, by key (docs/integrations/requirements.md)."""
    work: Work = field(default_factory=Work)
    """How its objects came about."""

    @property
    def manifest(self) -> str:
        """`digest`, by the name that it has in `--json`."""
        return self.digest


async def publish(
    store: Store,
    keys: str | None,
    name: str,
    path: Path,
    *,
    version: int | None = None,
    probe: Path | None = None,
    bases: Sequence[int] = (),
    last: int = DEFAULT_BASES,
    metadata: Mapping[str, Any] | None = None,
    untrusted: bool = False,
    adapter: Path | None = None,
    provenance: Wanted | None = None,
    requires: Mapping[str, str] | None = None,
    derive: bool = True,
    source: Mapping[str, str] | None = None,
    engine: Engine | None = None,
    effort: Effort = Effort.DEFAULT,
    progress: Progress = lambda step, done, total: None,
) -> Release:
    """Publish the artifact at `path` as a new version of `name`; the same bytes again are no new version.

    `bases` are versions to make updates from beside the `last` newest. `metadata` is signed with the version; of
    a version that is there it replaces what was said before. `untrusted`: nobody vouches for who made the artifact,
    so a confined process reads it first, within bounds. `adapter`: the file of what was merged into the last
    version to make this one, which makes the updates smaller. `provenance`: what is verified first, and signed with the
    version. `requires`: what it requires of a device beside what the model itself says, or instead of it; without
    `derive` the model is not asked. `source`: where the artifact was fetched from, signed with a new version.
    `engine`: whose workers encode, instead of this process; it is not closed here.
    `effort`: how hard the encoder tries, which changes sizes and times only.
    Raises UsageError for input that can't be published, RefusedError for a version that exists with other bytes or keys
    that are missing.
    """
    names.check_model_name(name)
    if version is not None:
        names.check_version(version)
    check_metadata(metadata, source)

    async def offers(model: str, versions: Mapping[int, str]) -> bytes | None:
        return await price.offers_section(store, versions) if model == name else None

    merged = None if adapter is None else await asyncio.to_thread(read_adapter, adapter)
    repository = await Repository.open(store, keys, offers)
    progress("reading", 0, 1)
    check_hard_links(path)
    with ExitStack() as stack:
        artifact = await asyncio.to_thread(stack.enter_context, snapshot(path, probe, untrusted=untrusted))
        code = check_closed(artifact)
        if provenance is not None:
            verify = partial(provenance.verify, path, artifact.manifest, artifact.stream, probe)
            metadata = with_provenance(metadata, await asyncio.to_thread(verify))
        new = False
        for _ in range(_ATTEMPTS):
            known = await repository.model(name)
            published = known.versions if known is not None else {}
            number = _number(known, name, artifact.manifest.digest, version)
            fresh = number not in published
            # For bytes that are there, only what the caller asks for is added; signing again mends the bundle.
            chosen = _chosen(published, bases, last if fresh else 0)
            advice, work = await write_objects(store, artifact, chosen, merged, engine, progress, effort)
            record = None
            said = _with_source(metadata, source, fresh or known is None or number not in known.releases)
            if said is not None:
                since = await _since(store, known, number) if known is not None and not fresh else None
                record = await write_record(store, said, since or now())
            needs = None
            if fresh or requires is not None or not derive:  # else it stands as it was said
                read = requirements_of(artifact.manifest, artifact.stream) if derive else {}
                needs = {**read, **(requires or {})}
            length = len(artifact.manifest.encoded)
            entry = NewTarget(name, number, artifact.manifest.digest, length, release=record, requires=needs)
            try:
                catalogue = await repository.add_targets([entry])
            except RefusedError:
                taken = await repository.model(name)
                if version is not None or taken is None or number not in taken.versions:
                    raise
                continue  # another publisher took the number: go on from what it published
            new = new or fresh
            said_in = () if record is None else (names.release_object(record),)
            if not await is_whole(store, artifact.manifest.digest, said_in):
                # What it found here was collected while it signed: it writes that again.
                await store.delete(names.manifest_object(artifact.manifest.digest))
                continue
            await finished(store, artifact.manifest, engine)
            made = await _describe(store, name, number, artifact.manifest, catalogue.model(name), advice, new)
            return replace(made, code=code, work=work)
        raise RefusedError(f"other publishers kept publishing {name!r}; try again when they have finished.")


def check_metadata(metadata: Mapping[str, Any] | None, source: Mapping[str, str] | None) -> None:
    """UsageError for metadata that can't be signed, so that it is refused before any work."""
    if metadata is not None and source is not None and release_record.SOURCE in metadata:
        raise UsageError(
            f"the metadata's key {release_record.SOURCE!r} says where it was fetched from: call yours something else."
        )
    if metadata is not None:
        release_record.encode(ReleaseRecord(now(), metadata))


def _with_source(
    metadata: Mapping[str, Any] | None, source: Mapping[str, str] | None, new: bool
) -> Mapping[str, Any] | None:
    """Metadata to be signed. The same bytes from elsewhere don't replace what is signed unless something is said."""
    if source is None or (metadata is None and not new):
        return metadata
    return {**(metadata or {}), release_record.SOURCE: dict(source)}


def effort_named(word: str) -> Effort:
    """The level of that name; UsageError if there is none."""
    try:
        return Effort(word)
    except ValueError:
        levels = ", ".join(level.value for level in Effort)
        raise UsageError(f"there is no effort {word!r}; the levels are {levels}.") from None


def update_prices(
    versions: Mapping[int, str], sizes: Mapping[int, Mapping[str, int]], version: int
) -> tuple[UpdatePrice, ...]:
    """What updates to `version` cost, by base, newest first; `sizes` as of published.sizes_by_version."""
    older, newest = sizes[1], sizes[codecs.NEWEST_VERSION]
    return tuple(
        UpdatePrice(base, newest.get(digest, older.get(digest, 0)), 1, older.get(digest) if digest in newest else None)
        for base, digest in sorted(versions.items(), reverse=True)
        if base != version and (digest in older or digest in newest)
    )


async def _describe(
    store: Store,
    name: str,
    version: int,
    manifest: Manifest,
    model: ModelVersions,
    advice: Sequence[Advice],
    fresh: bool,
) -> Release:
    sizes = await sizes_by_version(store, manifest.digest)
    prices = update_prices(model.versions, sizes, version)
    install = (await price.price(store, manifest.digest, None)).bytes
    _, record = await published_at(store, manifest.digest, model.releases.get(version))
    return Release(
        name,
        version,
        manifest.digest,
        manifest.size,
        len(manifest.files),
        manifest.chunk_count,
        install,
        prices,
        tuple(advice),
        fresh,
        record.metadata if record else {},
        requires=model.requires.get(version, {}),
    )


async def _since(store: Store, model: ModelVersions, version: int) -> datetime | None:
    """When a version that is there was published: other metadata does not make it younger."""
    return (await published_at(store, model.versions[version], model.releases.get(version)))[0]


def _number(model: ModelVersions | None, name: str, digest: str, wanted: int | None) -> int:
    """The version to publish as: `wanted`, else the newest if it has this digest, else the next."""
    if model is None:
        return 1 if wanted is None else wanted
    newest = max(model.versions, default=0)
    if wanted is None:
        return newest if newest and model.versions[newest] == digest else model.last + 1
    taken = wanted <= model.pruned and wanted not in model.versions
    if taken or wanted in model.withdrawn or model.versions.get(wanted, digest) != digest:
        raise RefusedError(
            f"version {wanted} of {name!r} is taken; leave --version away, or give more than {model.last}."
        )
    return wanted


def _chosen(published: Mapping[int, str], wanted: Sequence[int], last: int) -> list[str]:
    """Manifest digests to make updates from, the `last` newest and the `wanted` ones, newest first, each once."""
    unknown = [number for number in wanted if number not in published]
    if unknown:
        meant = near_names.near_version(unknown[0], published)
        raise UsageError(
            f"version {unknown[0]} is not published{meant}, so no update can be made from it; see `modelsync list`."
        )
    numbers = [*sorted(published, reverse=True)[:last], *wanted]
    return list(dict.fromkeys(published[number] for number in numbers))
