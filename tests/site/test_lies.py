"""A neighbour that lies costs little time and gets no byte accepted, whatever its kind of lie."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from modelsync_daemon.transfer import neighbours as client
from modelsync_protocol import site
from tests.support.liars import LIES, Liar, Lie, dripping, flipped, silent, stalled
from tests.support.neighbours import Site, all_pull, noise
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

KIB = 1024
NAMES = [lie.__name__ for lie in LIES]
GARBLED = {"garbage", "flipped", "headless", "another"}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long, so that tests don't."""
    for name in ("_FIRST_WAIT_SECONDS", "_LONGEST_WAIT_SECONDS", "_LEAST_WAIT_SECONDS"):
        monkeypatch.setattr(client, name, 0.3)
    monkeypatch.setattr("modelsync_daemon.transfer.site_body._MOST_LOST_SECONDS", 0.5)


async def _play(tmp_path: Path, lie: Lie, *, parcels: bool) -> float:
    """A first install and an update beside a liar; the longest that one of them took."""
    shop = await Shop.open(tmp_path)
    old = noise(200 * KIB)
    new = old[: 100 * KIB] + noise(100 * KIB)
    longest = 0.0
    async with ScriptedOrigin(shop.path, parcels=parcels) as origin, Liar(shop.path, lie) as liar:
        async with Site(tmp_path / "site", shop.trust, 1, [liar.address]) as (device,):
            wasted = 0
            for data in (old, new):
                await shop.publish_bytes("m", data)
                begin = time.monotonic()
                await device.pull("m", origin.url)
                longest = max(longest, time.monotonic() - begin)
                assert device.device.files("m") == {"model.bin": data}
                assert device.device.listener.site_received < 1_500_000
                wasted += device.device.listener.wasted
            assert device.device.leftovers() == []
        assert liar.asked, "it was believed to have it"
        if lie.__name__ in GARBLED:
            assert wasted > 0, "what it sent in vain is counted"
    return longest


@pytest.mark.parametrize("lie", LIES, ids=NAMES)
async def test_no_lie_gets_a_byte_accepted(tmp_path: Path, lie: Lie, hasty: None) -> None:
    await _play(tmp_path, lie, parcels=False)


async def test_a_false_parcel_is_not_believed(tmp_path: Path, hasty: None) -> None:
    await _play(tmp_path, flipped, parcels=True)


@pytest.mark.long
@pytest.mark.parametrize("lie", [silent, stalled, dripping], ids=["silent", "stalled", "dripping"])
async def test_no_lie_delays_a_device_for_long(tmp_path: Path, lie: Lie) -> None:
    assert await _play(tmp_path, lie, parcels=False) < 10 + 5


async def test_a_liar_among_honest_ones_spoils_nothing(tmp_path: Path, hasty: None) -> None:
    shop = await Shop.open(tmp_path)
    data = noise(300 * KIB)
    await shop.publish_bytes("m", data)
    for lie in (LIES[0], silent):
        async with (
            ScriptedOrigin(shop.path) as origin,
            Liar(shop.path, lie) as liar,
            Site(tmp_path / lie.__name__, shop.trust, 3, [liar.address]) as devices,
        ):
            await all_pull(devices, "m", origin.url)
            assert all(device.device.files("m") == {"model.bin": data} for device in devices)


async def test_a_stale_neighbour_does_not_hide_a_new_version(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", noise(50 * KIB))
    async with ScriptedOrigin(shop.path, parcels=True) as origin, Site(tmp_path / "site", shop.trust, 2) as devices:
        await devices[0].pull("m", origin.url)
        new = noise(50 * KIB)
        await shop.publish_bytes("m", new)
        await devices[1].pull("m", origin.url, 2)
        assert devices[1].device.listener.site_received > 0
        assert devices[1].device.files("m") == {"model.bin": new}


async def test_a_flood_of_questions_keeps_nobody_out(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    data = noise(200 * KIB)
    await shop.publish_bytes("m", data)
    async with ScriptedOrigin(shop.path) as origin, Site(tmp_path / "site", shop.trust, 2) as devices:
        await devices[0].pull("m", origin.url)
        origin.exchanges.clear()

        async def flood(session: aiohttp.ClientSession) -> int:
            refused = 0
            for number in range(700):
                query = site.Question(site.Verb.DONE, f"{number:016x}", 9, frozenset()).query()
                url = f"http://{devices[0].access.me}/{site.LEASE_PATH}"
                async with session.get(url, params=query, headers={site.NAME_HEADER: "test"}) as response:
                    refused += response.status == 429
            return refused

        async with aiohttp.ClientSession() as session:
            refused = await asyncio.gather(*(flood(session) for _ in range(2)))
        assert sum(refused) > 500
        assert len(devices[0].server.leases) <= 600, "a table that nobody can fill"
        await devices[1].pull("m", origin.url)
        assert devices[1].device.files("m") == {"model.bin": data}
