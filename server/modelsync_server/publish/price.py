"""What an install or an update costs, from the store alone, with the same plan as the device's. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping

from modelsync_protocol import offers, plan
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.offers import Offer
from modelsync_protocol.plan import Plan
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import published_sizes, read_manifest


async def price(store: Store, target: str, held: Manifest | None) -> Plan:
    """The plan of a device that holds `held` (or nothing) for the manifest digest `target`.

    Its steps are left empty where an update object serves: size and requests are all that matters here.
    """
    if held is not None and held.digest == target:
        return plan.plan_held(target)
    if held is not None:
        sizes = await published_sizes(store, target)
        choice = plan.choose_update([held.digest], Offer(await install_bytes(store, target), sizes_by_prefix(sizes)))
        if choice is not None:
            return plan.plan_update(target, choice.base, choice.bytes, 0, None)
    manifest, index, size = await read_manifest(store, target)
    return plan.plan_chunks(manifest, index, size, [held] if held else [])


async def install_bytes(store: Store, digest: str) -> int:
    """Bytes of a first install of a published manifest."""
    manifest, index, size = await read_manifest(store, digest)
    return plan.plan_chunks(manifest, index, size, []).bytes


async def offers_section(store: Store, versions: Mapping[int, str]) -> bytes:
    """The offers of a model's newest versions, for its bundle; a version whose objects are not readable is left out."""
    listed: dict[int, Offer] = {}
    for version in sorted(versions, reverse=True)[: offers.LISTED_VERSIONS]:
        digest = versions[version]
        try:
            total = await install_bytes(store, digest)
        except (ObjectNotFound, FormatError):
            continue
        listed[version] = Offer(total, sizes_by_prefix(await published_sizes(store, digest)))
    return offers.encode(listed)


def sizes_by_prefix(sizes: Mapping[str, int]) -> dict[str, int]:
    """Key update sizes as offers do."""
    return {offers.base_key(base): size for base, size in sizes.items()}
