"""Updates through plain views: candidates beside those between streams, where base or target hold packed members."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from functools import cache

from modelsync_protocol.plain import reference
from modelsync_protocol.plain.recipes import Wrapping
from modelsync_protocol.plain.section import Views
from modelsync_protocol.plain.view import View
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.plain.view_builder import Viewed, viewed

WORTH = 0.97
"""A device takes its time to pack again, so an update through views must be this much smaller than what else serves."""

Encode = Callable[[Source, Source, Executor], Encoded]
"""The smallest update between two sources."""

_zlib_is_the_reference = cache(reference.is_reference)


def update_through_views(
    base: Source, target: Source, encode: Encode, pool: Executor, least: int = 0
) -> Encoded | None:
    """Encode `target` for a device that holds `base`, by what `encode` makes of their plain views.

    None if nothing in base or target can be unpacked, or less than `least` bytes, or if this machine's zlib is not the
    devices'.
    """
    if not _zlib_is_the_reference():
        return None
    with viewed(base, target, pool, least) as found:
        if found is None:
            return None
        before, after = found[0] or Viewed(View(base.manifest.size, ()), base), found[1]
        return replace(encode(before.source, after.source, pool), views=Views(before.view, after.view))


def spared_bytes(encoded: Encoded) -> int:
    """Packed bytes of the target that an update through views spares: they would hardly get shorter otherwise."""
    members = () if encoded.views is None else encoded.views.target.members
    return sum(member.packed for member in members if member.recipe.wrapping != Wrapping.STORED)
