"""Neighbours share one line: of those that want an object one fetches it, and the others take it from that one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelsync_daemon.site.leases import Leases
from tests.support.neighbours import Site, all_pull, noise
from tests.support.scripted_origin import Answer, Exchange, Fault, ScriptedOrigin
from tests.support.shop import Shop

KIB = 1024


def slow(seconds: float) -> Fault:
    """A fault that sends each answer of packs and updates in pieces of 1 KiB with `seconds` between them."""

    def fault(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
        answer.drip = seconds if exchange.path.startswith(("packs/", "updates/")) else 0.0
        return answer

    return fault


@pytest.mark.parametrize("parcels", [True, False])
async def test_a_first_install_crosses_the_uplink_once(tmp_path: Path, parcels: bool) -> None:
    shop = await Shop.open(tmp_path)
    data = noise(600 * KIB)
    await shop.publish_bytes("m", data)
    async with ScriptedOrigin(shop.path, parcels=parcels) as origin:
        async with Site(tmp_path / "alone", shop.trust, 1) as (alone,):
            await alone.pull("m", origin.url)
        one = origin.body_bytes
        origin.exchanges.clear()
        origin.fault = slow(0.001)
        async with Site(tmp_path / "site", shop.trust, 4) as neighbours:
            await all_pull(neighbours, "m", origin.url)
        assert origin.body_bytes <= 1.1 * one
    for neighbour in neighbours:
        assert neighbour.device.files("m") == {"model.bin": data}
        assert neighbour.device.listener.wasted == 0
    assert sum(n.device.listener.received for n in neighbours) <= 1.2 * one + 12 * KIB


async def test_an_update_crosses_the_uplink_once_and_is_served_as_it_grows(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    old = noise(300 * KIB)
    await shop.publish_bytes("m", old)
    async with ScriptedOrigin(shop.path, parcels=True) as origin, Site(tmp_path / "site", shop.trust, 4) as neighbours:
        await all_pull(neighbours, "m", origin.url)
        new = noise(200 * KIB) + old[200 * KIB :]
        await shop.publish_bytes("m", new)
        origin.exchanges.clear()
        origin.fault = slow(0.008)  # 1.6 s for the update
        pulling = asyncio.ensure_future(all_pull(neighbours, "m", origin.url))
        early = 0
        while not pulling.done():
            await asyncio.sleep(0.01)
            taken = sorted(neighbour.device.listener.site_received for neighbour in neighbours)[1:]
            if origin.object_bytes() < 150 * KIB:
                early = max(early, min(taken))
        done = await pulling
        assert {prepared.plan.kind for prepared in done} == {"update"}
        assert origin.object_bytes() <= 1.05 * done[0].plan.bytes
        assert early > 50 * KIB, "nobody waits for the whole before the first byte"
    assert all(neighbour.device.files("m") == {"model.bin": new} for neighbour in neighbours)


async def test_a_late_one_takes_what_the_others_have(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    data = noise(300 * KIB)
    await shop.publish_bytes("m", data)
    async with ScriptedOrigin(shop.path) as origin, Site(tmp_path / "site", shop.trust, 3) as neighbours:
        await neighbours[0].pull("m", origin.url)
        origin.exchanges.clear()
        for neighbour in neighbours[1:]:
            await neighbour.pull("m", origin.url)
            assert neighbour.device.files("m") == {"model.bin": data}
        assert origin.object_bytes() == 0


async def test_who_was_restarted_still_gives_what_it_has(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    data = noise(300 * KIB)
    await shop.publish_bytes("m", data)
    async with ScriptedOrigin(shop.path) as origin, Site(tmp_path / "site", shop.trust, 2) as (first, second):
        await first.pull("m", origin.url)
        await first.server.stop()
        for neighbour in (first, second):
            neighbour.server.leases = Leases()
        await first.__aenter__()
        origin.exchanges.clear()
        await second.pull("m", origin.url)
        assert second.device.files("m") == {"model.bin": data}
        assert [path for path in origin.objects() if path.startswith("packs/")] == []
