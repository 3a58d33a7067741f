"""What an install or an update costs, from the store alone, with the same plan as the device's. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping

from modelsync_protocol import codecs, offers, plan
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.offers import Offer
from modelsync_protocol.plan import Plan
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import published_sizes, read_manifest, sizes_by_version


async def price(store: Store, target: str, held: Manifest | None, formats: int = codecs.NEWEST_VERSION) -> Plan:
    """The plan of a device that holds `held` (or nothing) for the manifest digest `target`.

    `formats` is the newest version of the update's format that the device reads.

    Its steps are left empty where an update object serves: size and requests are all that matters here.
    """
    if held is not None and held.digest == target:
        return plan.plan_held(target)
    choice = plan.choose_update([(held or plan.NOTHING).digest], await offer(store, target, formats))
    if choice is not None:
        return plan.plan_update(target, choice.base, choice.bytes, 0, None, choice.version)
    manifest, index, size = await read_manifest(store, target)
    return plan.plan_chunks(manifest, index, size, [held] if held else [])


async def offer(store: Store, digest: str, formats: int = codecs.NEWEST_VERSION) -> Offer:
    """What a version costs a device that reads the update's format up to `formats`."""
    sizes = await sizes_by_version(store, digest)
    newer = sizes[codecs.NEWEST_VERSION] if formats >= codecs.NEWEST_VERSION else {}
    return Offer(await install_bytes(store, digest), sizes_by_prefix(sizes[1]), sizes_by_prefix(newer))


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
