"""The update through plain views: one candidate more, where base or target hold compressed members."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace

from modelsync_protocol.codecs import zstd
from modelsync_protocol.plain import section
from modelsync_protocol.plain.section import Views
from modelsync_protocol.plain.view import View
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.plain.view_builder import Viewed, viewed


def update_through_views(base: Source, target: Source, pool: Executor) -> Encoded | None:
    """Encode `target` for a device that holds `base`, between their plain views; None if nothing in them is packed."""
    with viewed(base, target, pool) as found:
        if found is None:
            return None
        before, after = found[0] or Viewed(View(base.manifest.size, ()), base), found[1]
        encoded = smallest_update(before.source, after.source, pool)
        return replace(encoded, views=Views(before.view, after.view))


def section_bytes(views: Views) -> int:
    """About what the views add to an update's header."""
    out = bytearray()
    section.write(out, views)
    return zstd.estimate(bytes(out), b"")
