"""Which update object to fetch: what the bundle and the parcel offer, and what the origin is asked where they don't.

It fetches nothing but sizes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from modelsync_daemon.disk.datadir import Installed
from modelsync_daemon.transfer.download import ObjectSource
from modelsync_daemon.trust.resolved import Resolved
from modelsync_protocol import caps, codecs, names, offers, plan
from modelsync_protocol.errors import FormatError
from modelsync_protocol.offers import Offer
from modelsync_protocol.plan import UpdateChoice

_WORTH_ASKING_BYTES = 16 * caps.KIB
"""For an update this large it is asked whether there is one in a newer format, if no parcel said so: 300 bytes."""

_log = logging.getLogger(__name__)


async def choose_update(
    resolved: Resolved, name: str, held: Sequence[Installed], origin: ObjectSource, formats: int = codecs.NEWEST_VERSION
) -> UpdateChoice | None:
    """The smallest update of model `name` from what is held; None if a first install is cheaper or there is none.

    `formats` is the newest version of the update's format that may be chosen.

    For a version that the offers do not list, the origin is asked for updates from this model's own versions.
    """
    digests = [item.digest for item in held]
    fresh = all(item.name != name for item in held)
    if fresh:
        digests.append(plan.NOTHING.digest)
    listed = _decoded(resolved.offers)
    if resolved.version not in listed:
        own = [item.digest for item in held if item.name == name]
        return plan.choose_update(digests, await _asked(resolved.digest, own, origin, formats))
    offer = listed[resolved.version]
    if formats < codecs.NEWEST_VERSION:
        return plan.choose_update(digests, offer)
    section = origin.newer_offers()
    if section is not None:
        newer = _decoded(section).get(resolved.version)
        return plan.choose_update(digests, replace(offer, newer=newer.updates if newer is not None else {}))
    choice = plan.choose_update(digests, offer)
    # Without one of version 1 there may be one of a newer version all the same: from this model's newest, or nothing.
    base, most = (digests[-1 if fresh else 0], offer.install_bytes) if choice is None else (choice.base, choice.bytes)
    if most > _WORTH_ASKING_BYTES:
        size = await origin.size(names.update_object(resolved.digest, base, codecs.NEWEST_VERSION))
        if size is not None and size < most:
            return UpdateChoice(base, size, codecs.NEWEST_VERSION)
    return choice


def _decoded(section: bytes) -> dict[int, Offer]:
    try:
        return offers.decode(section)
    except FormatError as error:
        _log.warning("the offers are damaged: %s", error)
        return {}


async def _asked(target: str, bases: Sequence[str], origin: ObjectSource, formats: int) -> Offer:
    sizes: dict[int, dict[str, int]] = {version: {} for version in range(formats, 0, -1)}
    for base in bases:
        for version, found in sizes.items():
            size = await origin.size(names.update_object(target, base, version))
            if size is not None:
                found[offers.base_key(base)] = size
                break
    return Offer(caps.MAX_ARTIFACT_BYTES, sizes[1], sizes.get(codecs.NEWEST_VERSION, {}))
