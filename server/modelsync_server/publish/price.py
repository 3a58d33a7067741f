"""What an install or an update costs, from the store alone, with the same plan as the device's. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping

from modelsync_protocol import offers, plan, update
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.offers import Offer
from modelsync_protocol.plan import Plan
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import published_updates, read_manifest


async def price(store: Store, target: str, held: Manifest | None) -> Plan:
    """The plan of a device that holds `held` (or nothing) for the manifest digest `target`.

    Its steps are left empty where an update object serves: size and requests are all that matters here.
    """
    if held is not None and held.digest == target:
        return plan.plan_held(target)
    sizes = await published_updates(store, target)
    offer = Offer(await install_bytes(store, target), sizes_by_prefix(sizes))
    choice = plan.choose_update([(held or plan.NOTHING).digest], offer, (1, update.VIEWS))
    if choice is not None:
        return plan.plan_update(target, choice.base, choice.bytes, 0, None, choice.version)
    manifest, index, size = await read_manifest(store, target)
    return plan.plan_chunks(manifest, index, size, [held] if held else [])


async def install_bytes(store: Store, digest: str) -> int:
    """Bytes of a first install of a published manifest from its packs, which every device can do."""
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
        listed[version] = Offer(total, sizes_by_prefix(await published_updates(store, digest)))
    return offers.encode(listed)


def sizes_by_prefix(sizes: Mapping[tuple[str, int], int]) -> dict[str, int]:
    """Key the sizes of updates (by base's digest and format version) as offers do."""
    return {offers.base_key(base, version): size for (base, version), size in sizes.items()}
