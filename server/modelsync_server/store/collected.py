"""A publisher's side of collecting garbage: after signing, was something that it found there taken away meanwhile?

What a collector is about to delete stands in its mark. A publisher that finds its own there takes it out by replacing
the mark; the collector claims the next few in the same way. So either of them has an object, however long that takes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection

from modelsync_protocol import names
from modelsync_protocol.errors import FormatError
from modelsync_server.store import ObjectNotFound, Store, StoreConflict
from modelsync_server.store.published import read_manifest

MARK = "gc/pending.json"
"""`objects`: what a collector is about to delete; `going`: those of them that it deletes right now (it has none before
0.2, and then nothing can be taken out). There only while it works (retention/collecting.py)."""

_LOOKS = 120
_PAUSE = 0.5
"""How often and at what distance (seconds) a mark is looked at that keeps something of ours."""


async def is_whole(store: Store, digest: str, also: Collection[str] = ()) -> bool:
    """Whether a signed version's manifest and packs, and the paths in `also`, are there to stay, no matter what a
    collector is just doing. What it has not begun to delete stays, updates to the version too."""
    for look in range(_LOOKS):
        if look:
            await asyncio.sleep(_PAUSE)
        packs = await _needed(store, digest)
        if packs is None:
            return False
        needed = packs | set(also)
        if await _taken_out(store, needed, f"updates/{digest}/"):
            break
    return await _are_there(store, needed)


async def _taken_out(store: Store, needed: set[str], updates: str) -> bool:
    """Whether no collector will delete any of these, now that what can be taken out of its mark is."""
    try:
        found = await store.get_tagged(MARK)
        mark = json.loads(found.data)
        marked, going = list(mark["objects"]), mark.get("going")
        claimed = set(marked if going is None else going)
        ours = {path for path in marked if path in needed or path.startswith(updates)}
    except (ObjectNotFound, ValueError, KeyError, TypeError, AttributeError):
        return True
    if going is not None and ours - claimed:
        left = [path for path in marked if path not in ours or path in claimed]
        try:
            await store.replace(MARK, json.dumps({**mark, "objects": left}).encode(), found.etag)
        except StoreConflict:
            return False
    return not ours & claimed & needed


async def _needed(store: Store, digest: str) -> set[str] | None:
    try:
        _, index, _ = await read_manifest(store, digest)
    except (ObjectNotFound, FormatError):
        return None
    return {names.manifest_object(digest), *(names.pack_object(pack) for pack, _ in index.packs)}


async def _are_there(store: Store, paths: set[str]) -> bool:
    try:
        await asyncio.gather(*map(store.stat, paths))
    except ObjectNotFound:
        return False
    return True
