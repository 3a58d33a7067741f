"""A publisher's side of collecting garbage: after signing, was something that it found there taken away meanwhile?"""

from __future__ import annotations

import asyncio
import json

from modelsync_protocol import names
from modelsync_protocol.errors import FormatError
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import read_manifest

MARK = "gc/pending.json"
"""What a collector is about to delete; there only while it does (retention/collecting.py)."""

_LOOKS = 120
_PAUSE = 0.5
"""How often and at what distance (seconds) a mark is looked at that names something of ours."""


async def is_whole(store: Store, digest: str) -> bool:
    """Whether a signed version's manifest and packs are there to stay, no matter what a collector is just doing."""
    for _ in range(_LOOKS):
        needed = await _needed(store, digest)
        if needed is None:
            return False
        try:
            marked = set(json.loads(await store.get(MARK))["objects"])
        except (ObjectNotFound, ValueError, KeyError, TypeError):
            marked = set()
        if not marked & needed:
            return await _are_there(store, needed)
        await asyncio.sleep(_PAUSE)
    return await _are_there(store, needed or set())


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
