"""Publishes an artifact: cut → encode → packs and updates → manifest → signed metadata, in that order.

A crash at any point leaves garbage in the store, never a dangling reference.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from modelsync_protocol import caps, codecs, names, near_names, release_record, update
from modelsync_protocol.errors import FormatError, RefusedError, UsageError
from modelsync_protocol.index import encode_object
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.plan import NOTHING
from modelsync_protocol.release_record import ReleaseRecord
from modelsync_server.cache import stream_cache
from modelsync_server.encode.choice import clearly_best, smallest_update
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.low_rank.adapters import Adapter, read_adapter
from modelsync_server.plain.candidate import WORTH, spared_bytes
from modelsync_server.provenance.provenance import Wanted, with_provenance
from modelsync_server.publish import price
from modelsync_server.publish.advice import Advice, advise, advise_merged
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.closed import check_closed, check_hard_links
from modelsync_server.publish.newer import first_installs, newer_updates, through_views
from modelsync_server.publish.packer import Known, Progress, known_frames, pack
from modelsync_server.publish.release_records import published_at, write_record
from modelsync_server.publish.uploader import upload
from modelsync_server.requirements import requirements_of
from modelsync_server.store import AlreadyExists, ObjectNotFound, Store
from modelsync_server.store.published import has_manifest, materialised, sizes_by_version
from modelsync_server.tensors.effort import Effort
from modelsync_server.trust import Catalogue, ModelVersions, NewTarget, Repository
from modelsync_server.trust.metadata import now

DEFAULT_BASES = 5
"""Updates are made from so many of the last versions."""

_ATTEMPTS = 20

_WORTH_BYTES = 32
"""An update in a newer format has to be so much smaller to stand beside the old one: it costs a line in a parcel."""

_log = logging.getLogger(__name__)


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
    `effort`: how hard the encoder tries; it changes sizes and times, never who can read it.
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
    with ExitStack() as stack, ThreadPoolExecutor(os.cpu_count()) as pool:
        artifact = await asyncio.to_thread(stack.enter_context, snapshot(path, probe, untrusted=untrusted))
        code = check_closed(artifact)
        if provenance is not None:
            verify = partial(provenance.verify, path, artifact.manifest, artifact.stream, probe)
            metadata = with_provenance(metadata, await asyncio.to_thread(verify))
        target = Source(artifact.manifest, artifact.stream)
        for _ in range(_ATTEMPTS):
            catalogue = await repository.catalogue()
            published = catalogue.models[name].versions if name in catalogue.models else {}
            number = _number(catalogue, name, target.manifest.digest, version)
            fresh = number not in published
            # For bytes that are there, only what the caller asks for is added; signing again mends the bundle.
            advice = await _write_objects(
                store, target, _chosen(published, bases, last if fresh else 0), merged, pool, progress, effort
            )
            record = None
            said = _with_source(metadata, source, fresh or number not in catalogue.models[name].releases)
            if said is not None:
                since = await _since(store, catalogue, name, number) if not fresh else None
                record = await write_record(store, said, since or now())
            needs = None
            if fresh or requires is not None or not derive:  # else it stands as it was said
                read = requirements_of(artifact.manifest, artifact.stream) if derive else {}
                needs = {**read, **(requires or {})}
            length = len(target.manifest.encoded)
            entry = NewTarget(name, number, target.manifest.digest, length, release=record, requires=needs)
            try:
                catalogue = await repository.add_targets([entry])
            except RefusedError:
                if version is not None or number not in (await repository.catalogue()).model(name).versions:
                    raise
                continue  # another publisher took the number: go on from what it published
            made = await _describe(store, name, number, target.manifest, catalogue.model(name), advice, fresh)
            return replace(made, code=code)
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


async def _since(store: Store, catalogue: Catalogue, name: str, version: int) -> datetime | None:
    """When a version that is there was published: other metadata does not make it younger."""
    model = catalogue.model(name)
    return (await published_at(store, model.versions[version], model.releases.get(version)))[0]


def _number(catalogue: Catalogue, name: str, digest: str, wanted: int | None) -> int:
    """The version to publish as: `wanted`, else the newest if it has this digest, else the next."""
    if name not in catalogue.models:
        return 1 if wanted is None else wanted
    model = catalogue.models[name]
    newest = max(model.versions, default=0)
    if wanted is None:
        return newest if newest and model.versions[newest] == digest else model.last + 1
    if wanted in model.withdrawn or model.versions.get(wanted, digest) != digest:
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


async def _write_objects(
    store: Store,
    target: Source,
    bases: Sequence[str],
    adapter: Adapter | None,
    pool: ThreadPoolExecutor,
    progress: Progress,
    effort: Effort,
) -> list[Advice]:
    """Write packs, the manifest that refers to them, and updates; return advice on the first of the updates."""
    advice: list[Advice] = []
    digest = target.manifest.digest
    if not await has_manifest(store, digest):
        progress("packing", 0, target.manifest.size)
        tensors = await asyncio.to_thread(clearly_best, target)
        known = {} if tensors else await _known(store, bases)  # frames of tensors are nobody else's
        index, packs = await asyncio.to_thread(pack, target, known, pool, progress, effort)
        await upload(store, {names.pack_object(name): data for name, data in packs.items()}, progress)
        with suppress(AlreadyExists):
            await store.create(names.manifest_object(digest), encode_object(target.manifest, index))
        await asyncio.to_thread(stream_cache.keep, target)
    install = await price.install_bytes(store, digest)
    sizes = await sizes_by_version(store, digest)
    present = set().union(*sizes.values())
    if NOTHING.digest not in present and install > caps.MAX_ENCLOSED_BYTES:  # what is smaller comes in a parcel
        nothing = Source(NOTHING, memoryview(b""))
        alone = await asyncio.to_thread(lambda: [*first_installs(nothing, target, pool, effort)])
        data = min((_object(nothing, target, made) for made in alone), key=len, default=b"")
        if 0 < len(data) < WORTH * install:
            with suppress(AlreadyExists):
                await store.create(names.update_object(digest, NOTHING.digest, codecs.NEWEST_VERSION), data)
    for number, base in enumerate(bases, 1):
        if base == digest or base in present:
            continue
        progress(f"update {number} of {len(bases)}", 0, target.manifest.size)
        try:
            async with stream_cache.stream_of(store, base) as source:
                made = await asyncio.to_thread(updates, source, target, install, pool, adapter, effort)
                if number == 1 and effort is not Effort.FAST:
                    progress("measuring", 0, target.manifest.size)
                    smallest = min(map(len, made.values()))
                    advice = await asyncio.to_thread(advise, source, target, smallest, pool)
                    advice += advise_merged(min(made.values(), key=len), source.manifest, adapter)
        except (ObjectNotFound, FormatError) as error:
            _log.warning("no update is made from %s…: %s", base[:12], error)
            continue
        for version, data in made.items():
            if len(data) < install:
                with suppress(AlreadyExists):
                    await store.create(names.update_object(digest, base, version), data)
    return advice


async def _known(store: Store, bases: Sequence[str]) -> Known:
    """Frames of the newest version that is whole; a damaged store must not stop its repair, nor spread the damage."""
    for base in bases:
        try:
            async with materialised(store, base) as source:
                stream_cache.keep(source)
                return await known_frames(store, base)
        except (ObjectNotFound, FormatError) as error:
            _log.warning("%s… can't be built on: %s", base[:12], error)
    return {}


def updates(
    base: Source,
    target: Source,
    install: int,
    pool: ThreadPoolExecutor,
    adapter: Adapter | None = None,
    effort: Effort = Effort.DEFAULT,
) -> dict[int, bytes]:
    """The update objects by version of their format: the first, and the newest where it is really smaller.

    There is none of the first where all that changed is compressed: it would be no smaller than a first install.
    """
    plain = through_views(base, target, pool, adapter, effort)
    through = None if plain is None else _object(base, target, plain)
    if plain is not None and through is not None and len(through) < WORTH * install < spared_bytes(plain):
        return {codecs.NEWEST_VERSION: through}
    oldest = smallest_update(base, target, pool, effort=effort)
    made = {1: _object(base, target, oldest)}
    if through is not None and len(through) < WORTH * len(made[1]):
        made[codecs.NEWEST_VERSION] = through
    for better in newer_updates(base, target, oldest, pool, adapter, effort):
        data = _object(base, target, better)
        if len(data) + _WORTH_BYTES < len(made.get(codecs.NEWEST_VERSION, made[1])):
            made[codecs.NEWEST_VERSION] = data
    return made


def _object(base: Source, target: Source, encoded: Encoded) -> bytes:
    header = update.encode_header(base.manifest, target.manifest, encoded.operations, encoded.tables, encoded.views)
    return header + b"".join(encoded.payloads)
