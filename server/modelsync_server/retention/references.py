"""What live versions refer to, and what of a store nothing refers to. O(objects in the store). Reads only."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelsync_protocol import names
from modelsync_server.store import Store
from modelsync_server.store.published import read_manifest
from modelsync_server.trust import Catalogue

Progress = Callable[[str, int, int], None]
"""`progress(stage, done, total)`: what is being done, and bytes of objects."""

_AT_ONCE = 16
_NAME = re.compile(r"metadata/([0-9]+)\.(.+)\.json")


@dataclass(frozen=True, slots=True)
class Inventory:
    """`sizes` of the objects under manifests/, packs/, updates/ and releases/, in bytes; `needs`: by live manifest
    digest the manifest and packs without which it is not whole, with their sizes."""

    sizes: Mapping[str, int]
    needs: Mapping[str, Mapping[str, int]]


async def inventory(
    store: Store, catalogue: Catalogue, progress: Progress = lambda stage, done, total: None
) -> Inventory:
    """List the store, and read the manifest of each live version; FormatError or ObjectNotFound for a damaged one.

    What a damaged version needs is not known, and so nothing may be collected beside it.
    """
    sizes: dict[str, int] = {}
    progress("listing", 0, 1)
    for folder in ("manifests/", "packs/", "updates/", "releases/"):
        sizes |= dict(await store.list(folder))
    slots = asyncio.Semaphore(_AT_ONCE)
    live = sorted({digest for model in catalogue.models.values() for digest in model.versions.values()})
    read, total = 0, sum(sizes.get(names.manifest_object(digest), 0) for digest in live)

    async def one(digest: str) -> dict[str, int]:
        nonlocal read
        async with slots:
            _, index, size = await read_manifest(store, digest)
        read += size
        progress("reading manifests", read, total)
        packs = {names.pack_object(pack): length for pack, length in index.packs}
        return {names.manifest_object(digest): size, **packs}

    return Inventory(sizes, dict(zip(live, await asyncio.gather(*map(one, live)), strict=True)))


def kept(found: Inventory, catalogue: Catalogue, live: set[str]) -> set[str]:
    """Paths in `found` that stay when the manifest digests `live` do: they, their packs, updates to them, records.

    An update from a base that is no live version stays: devices may run what was withdrawn, and must get away from it.
    """
    needed = {path for digest in live for path in found.needs[digest]}
    records = {
        names.release_object(record) for model in catalogue.models.values() for record in model.releases.values()
    }
    updates = {path for path in found.sizes if path.startswith("updates/") and path.split("/")[1] in live}
    return (needed | updates | records) & found.sizes.keys()


async def old_metadata(store: Store, catalogue: Catalogue) -> dict[str, int]:
    """Files of signed metadata that newer ones have replaced, with their sizes. A publisher's that is still at it has a
    higher number than what is in use; lists of models stay, since a bundle that is older than the newest names one."""
    current = {match[2]: int(match[1]) for path in catalogue.metadata_objects if (match := _NAME.fullmatch(path))}
    found = {}
    for path, size in await store.list("metadata/"):
        match = _NAME.fullmatch(path)
        if match is None or match[2].rpartition(".")[2] in ("root", "targets"):
            continue
        if int(match[1]) < current.get(match[2], 0):
            found[path] = size
    return found
