"""Updates through plain views: candidates beside those between streams, where base or target hold packed members."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache

from modelsync_protocol import update
from modelsync_protocol.plain import reference
from modelsync_protocol.plain.recipes import Wrapping
from modelsync_protocol.plain.section import Views
from modelsync_protocol.plain.view import View
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.encoder import Source
from modelsync_server.plain.view_builder import Viewed, viewed

WORTH = 0.97
"""A device takes its time to pack again, so an update through views must be this much smaller than what else serves."""


_zlib_is_the_reference = cache(reference.is_reference)


@dataclass(frozen=True, slots=True)
class ViewedUpdate:
    """An update object, and how many packed bytes of the target it spares: they would hardly get shorter otherwise."""

    data: bytes
    packed: int


def updated_through_views(base: Source, target: Source, pool: Executor) -> ViewedUpdate | None:
    """The update object for a device that holds `base`.

    None if nothing in base or target can be unpacked, or if this machine's zlib is not the devices'.
    """
    if not _zlib_is_the_reference():
        return None
    with viewed(base, target, pool) as found:
        if found is None:
            return None
        before, after = found[0] or Viewed(View(base.manifest.size, ()), base), found[1]
        encoded = smallest_update(before.source, after.source, pool)
        views = Views(before.view, after.view)
    header = update.encode_header(base.manifest, target.manifest, encoded.operations, encoded.tables, views)
    packed = sum(m.packed for m in views.target.members if m.recipe.wrapping != Wrapping.STORED)
    return ViewedUpdate(header + b"".join(encoded.payloads), packed)
