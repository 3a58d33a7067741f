"""Checks a whole store, and prices a way through it by version numbers. Nothing is written."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from modelsync_protocol import bundle, canonical, caps, codecs, names, offers, parcel, trust
from modelsync_protocol.errors import FormatError, UsageError
from modelsync_protocol.plan import NOTHING, Plan
from modelsync_server.publish import price
from modelsync_server.publish.packer import Progress
from modelsync_server.publish.release_records import read_record
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import (
    check_update,
    materialised,
    published_sizes,
    read_manifest,
    sizes_by_version,
)
from modelsync_server.trust import Catalogue, ModelVersions, catalogue_for, read_catalogue

_BLOCK = 4 * caps.MIB


@dataclass(frozen=True, slots=True)
class Report:
    """How many versions and updates were checked, and one sentence for each that is damaged or missing."""

    versions: int
    updates: int
    problems: tuple[str, ...]


def parse_sample(text: str, versions: int) -> int:
    """How many of `versions` a sample such as `50` or `5%` has, at least one; UsageError."""
    match = re.fullmatch(r"([0-9]{1,9})(?:(\.[0-9]{1,3})?(%))?", text.strip())
    if match is None or (share := float(match[1] + (match[2] or ""))) <= 0 or (match[3] and share > 100):
        raise UsageError(f"--sample takes a number of versions, or a share such as 5%, not {text!r:.40}.")
    return min(versions, max(1, math.ceil(versions * share / 100) if match[3] else int(share)))


async def verify(
    store: Store,
    sample: str | None = None,
    seed: int | None = None,
    progress: Progress = lambda step, done, total: None,
) -> Report:
    """Check metadata and all objects; decode every signed version, apply every update to a signed version.

    `sample`: all metadata, but only so many versions (`50`), or such a share of them (`5%`), chosen by chance, anew
    each time or by `seed`; of them the same is checked, with their updates, and of packs what decodes.
    """
    progress("reading metadata", 0, 1)
    catalogue = await read_catalogue(store)
    versions = updates = 0
    chosen = None if sample is None else _chosen(catalogue, sample, random.Random(seed))
    problems = [problem async for problem in _damaged_packs(store, progress)] if chosen is None else []
    checked = catalogue.models if chosen is None else chosen
    of = sum(len(catalogue.models[name].versions if chosen is None else chosen[name]) for name in checked)
    for name, model in sorted(catalogue.models.items()):
        if chosen is not None and not chosen.get(name):
            continue
        problems += [problem async for problem in _damaged_bundle(store, model, name)]
        problems += [problem async for problem in _damaged_parcels(store, model, name)]
        for version, digest in sorted(model.versions.items()):
            if chosen is not None and version not in chosen[name]:
                continue
            versions += 1
            progress(f"version {versions} of {of}", 0, 1)
            try:
                async with materialised(store, digest) as target:
                    sizes = await sizes_by_version(store, digest)
                    for form, base in sorted((form, base) for form, found in sizes.items() for base in found):
                        updates += 1
                        try:
                            async with materialised(store, base) as source:
                                await check_update(store, source, target.manifest, form)
                        except (FormatError, ObjectNotFound) as error:
                            problems.append(f"{name} version {version}: the update from {base[:12]}…: {error}")
            except (FormatError, ObjectNotFound) as error:
                problems.append(f"{name} version {version}: {error}")
        for version, digest in sorted(model.releases.items()):
            try:
                await read_record(store, digest)
            except (FormatError, ObjectNotFound) as error:
                problems.append(f"{name} version {version}: its metadata: {error}")
    return Report(versions, updates, tuple(problems))


def _chosen(catalogue: Catalogue, sample: str, chance: random.Random) -> dict[str, set[int]]:
    every = [(name, version) for name, model in sorted(catalogue.models.items()) for version in sorted(model.versions)]
    found: dict[str, set[int]] = {}
    for name, version in chance.sample(every, parse_sample(sample, len(every)) if every else 0):
        found.setdefault(name, set()).add(version)
    return found


async def _damaged_packs(store: Store, progress: Progress) -> AsyncIterator[str]:
    """A pack is named by its content's digest; nothing else covers all of its bytes."""
    listed = await store.list("packs/")
    done, total = 0, sum(size for _, size in listed)
    for path, size in listed:
        content = hashlib.sha256()
        for start in range(0, size, _BLOCK):
            content.update(await store.get_range(path, start, min(_BLOCK, size - start)))
            done += min(_BLOCK, size - start)
            progress("packs", done, total)
        if path != names.pack_object(content.hexdigest()):
            yield f"{path} is damaged: its content has another digest."


async def _damaged_bundle(store: Store, model: ModelVersions, name: str) -> AsyncIterator[str]:
    """A bundle may be missing or old (after a crash), but what it holds must be what the store says elsewhere."""
    path = names.bundle_object(name)
    try:
        data = await store.get(path)
    except ObjectNotFound:
        return
    async for problem in _damaged_copies(store, model, name, path, data):
        yield problem


async def _damaged_copies(
    store: Store, model: ModelVersions, name: str, path: str, encoded: bytes
) -> AsyncIterator[str]:
    """What is wrong in a bundle that came from the object at `path`."""
    try:
        found = bundle.decode(encoded)
        listed = offers.decode(found.offers)
        snapshot, role, timestamp = map(_metadata_version, (found.snapshot, found.role, found.timestamp))
        chain = name if found.own else None
        copies = {
            trust.metadata_object(trust.chain_role("snapshot", chain), snapshot): found.snapshot,
            trust.metadata_object(trust.role_name(name), role): found.role,
        }
        current = await store.get(trust.timestamp_object(chain))
        is_older = _metadata_version(current) > timestamp
        if not is_older:
            copies[trust.timestamp_object(chain)] = found.timestamp
        for copied, data in copies.items():
            try:
                if await store.get(copied) != data:
                    yield f"{path}: its copy of {copied} is another."
            except ObjectNotFound:
                if not is_older:  # else it has been replaced since, and collected
                    raise
        for role_name, number in (
            ("root", found.root_version),
            (trust.chain_role("targets", chain), found.targets_version),
        ):
            await store.stat(trust.metadata_object(role_name, number))
    except (ObjectNotFound, FormatError) as error:
        yield f"{path}: {error}"
        return
    for version, offer in listed.items():
        if version not in model.versions:
            if version not in model.withdrawn and version > model.pruned:
                yield f"{path}: it offers version {version}, which is not signed."
            continue
        digest = model.versions[version]
        try:
            install = await price.install_bytes(store, digest)
        except (FormatError, ObjectNotFound):
            continue  # said where the version itself is checked
        sizes = price.sizes_by_prefix(await published_sizes(store, digest))
        if offer.install_bytes != install or any(sizes.get(base) != size for base, size in offer.updates.items()):
            yield f"{path}: it offers version {version} for another price; publish its newest files again."


async def _damaged_parcels(store: Store, model: ModelVersions, name: str) -> AsyncIterator[str]:
    """A parcel too may be missing or old, but what is in it must be what the store says elsewhere."""
    for path, _ in await store.list(f"{names.bundle_object(name)}."):
        if path == trust.timestamp_object(name):
            continue  # read with the metadata
        try:
            found = parcel.decode(await store.get(path))
        except FormatError as error:
            yield f"{path}: {error}"
            continue
        async for problem in _damaged_copies(store, model, name, path, found.bundle):
            yield problem
        base, _, form = path.removeprefix(f"{names.bundle_object(name)}.").partition(".v")
        if form and found.newer_offers:
            async for problem in _wrong_offers(store, model, path, base, found.newer_offers):
                yield problem
        for key, data in found.objects.items():
            if data is found.newer_offers:
                continue
            prefix = parcel.prefix(key, name if _is_own(found.bundle) else None)
            candidates = [
                candidate
                for candidate, _ in await store.list(prefix)
                if not prefix.startswith("updates/") or candidate.rpartition("/")[2].startswith(base)
            ]
            if not prefix or data not in [await store.get(candidate) for candidate in candidates]:
                yield f"{path}: its copy of {prefix or 'something'}… is another."


async def _wrong_offers(store: Store, model: ModelVersions, path: str, base: str, section: bytes) -> AsyncIterator[str]:
    """What a parcel says of updates in a newer format must be what the store holds."""
    try:
        listed = offers.decode(section)
    except FormatError as error:
        yield f"{path}: {error}"
        return
    base = offers.base_key(NOTHING.digest) if base == "new" else base
    for version, offer in listed.items():
        sizes = await published_sizes(store, model.versions.get(version, ""), codecs.NEWEST_VERSION)
        if price.sizes_by_prefix(sizes).get(base) != offer.updates.get(base):
            yield f"{path}: it offers an update to version {version} for another price; run `modelsync refresh`."


def _is_own(encoded: bytes) -> bool:
    try:
        return bundle.decode(encoded).own
    except FormatError:
        return False  # said of the bundle itself


def _metadata_version(data: bytes) -> int:
    match canonical.decode(data, what="a bundle's metadata", limit=caps.MAX_BUNDLE_BYTES):
        case {"signed": {"version": int(version)}}:
            return version
    raise FormatError("a bundle holds metadata without a version.")


async def price_of(store: Store, name: str, base: int | None, to: int) -> Plan:
    """The plan from version `base` (None: nothing held) of a model to version `to`; UsageError for unknown ones."""
    catalogue = await catalogue_for(store, name)
    target = catalogue.digest(name, to)
    held = None
    if base is not None:
        held, _, _ = await read_manifest(store, catalogue.digest(name, base))
    return await price.price(store, target, held)
