"""What the origin asks of a bucket: little, for a fleet asks for the same; and what it answers when that is away."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_server.origin import store_origin
from modelsync_server.origin.store_origin import StoreOrigin
from modelsync_server.store import DirectoryStore, MemoryStore

PACK = "packs/" + "ab" * 32


class Counting(MemoryStore):
    """A store in memory that counts what it is asked, takes its time, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.away: Exception | None = None

    async def get(self, path: str) -> bytes:
        self.asked[path] += 1
        await asyncio.sleep(0.05)
        if self.away:
            raise self.away
        return await super().get(path)

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        if self.away:
            raise self.away
        return await super().get_range(path, start, length)


async def _session(origin: StoreOrigin) -> tuple[web.AppRunner, aiohttp.ClientSession]:
    runner = web.AppRunner(origin.application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}")


async def test_a_fleet_that_comes_at_once_asks_the_bucket_once_and_sees_what_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_origin, "FRESH_SECONDS", 3600)
    store = Counting()
    store.objects |= {"bundles/m": b"one", PACK: b"pack"}
    runner, http = await _session(StoreOrigin(store))

    async def read(path: str) -> bytes:
        async with http.get(f"/{path}") as answer:
            return await answer.read()

    async with http:
        assert set(await asyncio.gather(*(read("bundles/m") for _ in range(40)))) == {b"one"}
        assert set(await asyncio.gather(*(read(PACK) for _ in range(40)))) == {b"pack"}
        assert store.asked == {"bundles/m": 1, PACK: 1}
        store.objects["bundles/m"] = b"two"
        monkeypatch.setattr(store_origin, "FRESH_SECONDS", 0)
        assert await read("bundles/m") == b"two" and await read(PACK) == b"pack"
        assert store.asked == {"bundles/m": 2, PACK: 1}
    await runner.cleanup()


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_origin, "KEPT_BYTES", 1000)
    store = Counting()
    origin = StoreOrigin(store)
    runner, http = await _session(origin)
    async with http:
        for number in range(30):
            store.objects[f"packs/{number}"] = b"x" * 100
            async with http.get(f"/packs/{number}") as answer:
                assert len(await answer.read()) == 100
    assert sum(map(len, origin._kept.values())) == origin._kept_bytes == 1000
    await runner.cleanup()


@pytest.mark.parametrize(("away", "status"), [(UnreachableError("away."), 503), (RefusedError("refused."), 502)])
async def test_a_bucket_that_is_away_is_told_as_such_and_the_next_answer_is_whole(away: Exception, status: int) -> None:
    store = Counting()
    large = "packs/" + "cd" * 32
    store.objects |= {PACK: b"pack", large: bytes(range(256)) * 12_000}
    runner, http = await _session(StoreOrigin(store))
    async with http:
        store.away = away
        for path in (PACK, large):
            async with http.get(f"/{path}") as answer:
                assert answer.status == status and (status == 502 or answer.headers["Retry-After"] == "5")
        store.away = None
        for path in (PACK, large):
            async with http.get(f"/{path}") as answer:
                assert await answer.read() == store.objects[path]
    await runner.cleanup()


def test_a_store_that_can_not_sign_sends_nobody_away(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--redirect-from"):
        StoreOrigin(DirectoryStore(tmp_path), store_origin.Redirect(1, timedelta(minutes=1)))
