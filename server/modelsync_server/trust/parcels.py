"""What a model's parcels hold beside its bundle, and for which devices there are parcels. Only reads the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from modelsync_protocol import caps, codecs, index, names, offers
from modelsync_protocol.errors import FormatError
from modelsync_protocol.offers import Offer
from modelsync_protocol.plan import NOTHING
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import published_sizes, sizes_by_version
from modelsync_server.trust.metadata import State

_VERSIONS = 6
"""Devices on the newest version, and on those before it that publishing makes updates from by itself, find a parcel."""

_MAX_BASES = 64


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a parcel beside the bundle: objects by store path, and offers of newer updates (FORMAT.md §12.4)."""

    objects: Mapping[str, bytes]
    newer_offers: bytes = b""


async def contents(store: Store, state: State, model: str) -> dict[str, Contents]:
    """Parcel's store path → what is in it; no parcels for a model without a live version."""
    digests = [str(target["hashes"]["sha256"]) for _, target in sorted(state.versions(model).items(), reverse=True)]
    if not digests:
        return {}
    newest = digests[0]
    sizes = await sizes_by_version(store, newest)
    bases = _bases(digests, sizes)
    newer = await _newer_offers(store, state, model, {*bases, NOTHING.digest})
    install = await _first_install(store, state, newest)
    found: dict[str, Contents] = {}
    for readers in sizes:
        alone = newer.get(NOTHING.digest, b"") if readers > 1 else b""
        found[names.parcel_object(model, None, readers)] = Contents(install, alone)
        for base in bases:
            path = names.parcel_object(model, base, readers)
            objects = await _update(store, newest, base, {version: sizes[version] for version in range(1, readers + 1)})
            found.setdefault(path, Contents(objects, newer.get(base, b"") if readers > 1 else b""))
    return found


async def paths(store: Store, model: str, digests: Sequence[str]) -> list[str]:
    """Where a publisher put parcels when these were the manifest digests of the live versions, the newest first."""
    if not digests:
        return []
    sizes = await sizes_by_version(store, digests[0])
    return [names.parcel_object(model, base, readers) for readers in sizes for base in (None, *_bases(digests, sizes))]


def _bases(digests: Sequence[str], sizes: Mapping[int, Mapping[str, int]]) -> list[str]:
    known = {**sizes[1], **sizes[codecs.NEWEST_VERSION]}
    return list(dict.fromkeys([*digests[:_VERSIONS], *(digest for digest in digests if digest in known)]))[:_MAX_BASES]


async def _update(store: Store, target: str, base: str, sizes: Mapping[int, Mapping[str, int]]) -> dict[str, bytes]:
    """The smallest update from that base, if it is small enough for a parcel."""
    offered = [(found[base], version) for version, found in sizes.items() if base in found]
    if not offered or min(offered)[0] > caps.MAX_ENCLOSED_BYTES:
        return {}
    path = names.update_object(target, base, min(offered)[1])
    return {path: await store.get(path)}


async def _newer_offers(store: Store, state: State, model: str, bases: Set[str]) -> dict[str, bytes]:
    """By base: what updates in the newest format cost from there, for the versions that offers list."""
    listed: dict[str, dict[int, Offer]] = {}
    for version, target in sorted(state.versions(model).items(), reverse=True)[: offers.LISTED_VERSIONS]:
        newer = await published_sizes(store, str(target["hashes"]["sha256"]), codecs.NEWEST_VERSION)
        for base, size in newer.items():
            if base in bases:
                listed.setdefault(base, {})[version] = Offer(0, {offers.base_key(base): size})
    return {base: offers.encode(found) for base, found in listed.items()}


async def _first_install(store: Store, state: State, digest: str) -> dict[str, bytes]:
    """The list of models, which only a device that has nothing asks for; and the version itself if it is small."""
    enclosed = {state.path("targets", state.targets.signed.version): state.raw["targets"]}
    manifest = names.manifest_object(digest)
    try:
        if (await store.stat(manifest)).size <= caps.MAX_ENCLOSED_BYTES:
            data = await store.get(manifest)
            _, found = index.decode_object(data, digest)
            packs = {names.pack_object(name): size for name, size in found.packs}
            if len(data) + sum(packs.values()) <= caps.MAX_ENCLOSED_BYTES:
                bodies = await asyncio.gather(*map(store.get, packs))
                enclosed |= {manifest: data, **dict(zip(packs, bodies, strict=True))}
    except (ObjectNotFound, FormatError):
        pass  # `modelsync verify` says what is missing; a parcel is only a cache
    return enclosed if sum(map(len, enclosed.values())) <= 2 * caps.MAX_ENCLOSED_BYTES else {}
