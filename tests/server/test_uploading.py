"""Uploads run side by side within a bound, tell how far they are, and end before an error is raised."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelsync_protocol.errors import UnreachableError
from modelsync_server.publish.uploader import PARALLEL_UPLOADS, upload
from modelsync_server.scratch.parts import Parts
from modelsync_server.store import MemoryStore


class SlowStore(MemoryStore):
    """Counts how many creations are under way at once."""

    def __init__(self, failing: str = "") -> None:
        super().__init__()
        self.now = self.most = 0
        self._failing = failing

    async def create(self, path: str, source: bytes | Path) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.005)
            if path == self._failing:
                raise UnreachableError("down.")
            await super().create(path, source)
        finally:
            self.now -= 1


OBJECTS = {f"packs/{number:02}": bytes(number) for number in range(12)}
PARTS = {path: Parts([data]) for path, data in OBJECTS.items()}


async def test_uploads_are_parallel_and_bounded_and_tell_how_far_they_are() -> None:
    store, told = SlowStore(), []
    store.objects["packs/03"] = bytes(3)
    await upload(
        store,
        {path: Parts([data]) for path, data in OBJECTS.items()},
        lambda step, done, total: told.append((step, done, total)),
    )
    assert store.objects == OBJECTS and store.most == PARALLEL_UPLOADS
    assert told[0] == ("uploading", 0, 66) and told[-1] == ("uploading", 66, 66)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


async def test_after_an_error_nothing_is_still_under_way() -> None:
    store = SlowStore("packs/02")
    with pytest.raises(UnreachableError):
        await upload(store, PARTS, lambda step, done, total: None)
    assert store.now == 0 and len(store.objects) == len(OBJECTS) - 1
