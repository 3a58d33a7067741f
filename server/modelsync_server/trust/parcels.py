"""What a model's parcels hold beside its bundle, and for which devices there are parcels. Only reads the store."""

from __future__ import annotations

import asyncio

from modelsync_protocol import caps, index, names, trust
from modelsync_protocol.errors import FormatError
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import published_updates
from modelsync_server.trust.metadata import State

_VERSIONS = 6
"""Devices on the newest version, and on those before it that publishing makes updates from by itself, find a parcel."""

_MAX_BASES = 64


async def contents(store: Store, state: State, model: str) -> dict[str, dict[str, bytes]]:
    """Parcel's store path → the objects in it, by store path; no parcels for a model without a live version."""
    digests = [str(target["hashes"]["sha256"]) for _, target in sorted(state.versions(model).items(), reverse=True)]
    if not digests:
        return {}
    newest = digests[0]
    updates = await published_updates(store, newest)
    known = {base for base, _ in updates}
    bases = list(dict.fromkeys([*digests[:_VERSIONS], *(digest for digest in digests if digest in known)]))[:_MAX_BASES]
    found = {names.parcel_object(model, None): await _first_install(store, state, newest)}
    for base in bases:
        enclosed = {}
        offered = [(size, version) for (other, version), size in updates.items() if other == base]
        if base != newest and offered and min(offered)[0] <= caps.MAX_ENCLOSED_BYTES:
            path = names.update_object(newest, base, min(offered)[1])
            enclosed[path] = await store.get(path)
        found.setdefault(names.parcel_object(model, base), enclosed)
    return found


async def _first_install(store: Store, state: State, digest: str) -> dict[str, bytes]:
    """The list of models, which only a device that has nothing asks for; and the version itself if it is small."""
    enclosed = {trust.metadata_object("targets", state.targets.signed.version): state.raw["targets"]}
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
