"""A gateway is its children's origin: what one of them has fetched costs its line nothing a second time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from modelsync_daemon.disk.spool import Spool
from modelsync_daemon.site.gateway import Gateway
from modelsync_daemon.site.server import SiteServer
from modelsync_daemon.transfer.origin_client import Origin
from tests.support.neighbours import noise
from tests.support.pulling import Device
from tests.support.scripted_origin import Answer, Exchange, ScriptedOrigin
from tests.support.shop import Shop

KIB = 1024


@asynccontextmanager
async def gateway(root: Path, origin: str, quota: int = 1 << 30) -> AsyncIterator[tuple[str, Spool]]:
    """A gateway's URL, and what it keeps."""
    spool = Spool(root / "site", quota)
    spool.create()
    parent = Gateway(spool, lambda: origin, lambda: Origin(origin, stall_seconds=1), lambda received, sent: None)
    server = SiteServer(spool, lambda: None, lambda received, sent: None, None, parent.answer)
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}", spool
    finally:
        await parent.stop()
        await server.stop()


async def test_children_together_cost_the_gateways_line_one_download(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    old = noise(300 * KIB)
    await shop.publish_bytes("m", old)
    children = [Device(tmp_path / f"child{number}", shop.trust) for number in range(3)]
    async with ScriptedOrigin(shop.path, parcels=True) as origin:
        alone = Device(tmp_path / "alone", shop.trust)
        await alone.pull("m", origin.url)
        one = origin.body_bytes
        origin.exchanges.clear()
        async with gateway(tmp_path / "gateway", origin.url) as (url, _):
            await asyncio.gather(*(child.pull("m", url) for child in children))
            assert origin.body_bytes <= 1.1 * one
    assert all(child.files("m") == {"model.bin": old} for child in children)


async def test_children_are_served_while_the_origin_is_away(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    data = noise(200 * KIB)
    await shop.publish_bytes("m", data)
    first, second = Device(tmp_path / "first", shop.trust), Device(tmp_path / "second", shop.trust)
    async with ScriptedOrigin(shop.path) as origin, gateway(tmp_path / "gateway", origin.url) as (url, _):
        await first.pull("m", url)

        def away(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
            return Answer(503, b"", {})

        origin.fault = away
        await second.pull("m", url)
    assert second.files("m") == {"model.bin": data}


async def test_what_was_used_longest_ago_makes_room_and_never_what_a_child_fetches(tmp_path: Path) -> None:
    shop, quota = await Shop.open(tmp_path), 720 * KIB
    for name in ("a", "b", "c"):
        await shop.publish_bytes(name, noise(300 * KIB))
        if name == "a":
            (pack,) = shop.objects("packs")
    child = Device(tmp_path / "child", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        async with gateway(tmp_path / "gateway", origin.url, quota=quota) as (url, spool):
            for name in ("a", "b", "c"):
                await child.pull(name, url)
                assert spool.used_bytes <= quota * 17 // 16
            before = origin.object_bytes()
            slow, others = Device(tmp_path / "slow", shop.trust), Device(tmp_path / "others", shop.trust)

            def dripping(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
                answer.drip = 0.001 if origin.object_bytes() - before < 250 * KIB else 0.0
                return answer

            origin.fault = dripping

            async def others_pull() -> None:
                for name in ("b", "c", "b"):  # there is room for one of them beside what is being fetched
                    await others.pull(name, url)
                    others.data.remove_model(name)
                    assert spool.used_bytes <= quota * 18 // 16, "two write, each a step ahead"

            await asyncio.gather(slow.pull("a", url), others_pull())
            times = origin.objects().count(f"packs/{pack.name}")
            assert times <= 2, "once at first, and once now: nobody pushed it out meanwhile"
        assert slow.files("a") == child.files("a")


async def test_a_child_learns_what_the_origin_does_not_have(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    data = noise(100 * KIB)
    await shop.publish_bytes("m", data)
    child = Device(tmp_path / "child", shop.trust)
    async with ScriptedOrigin(shop.path) as origin, gateway(tmp_path / "gateway", origin.url) as (url, _):
        await child.pull("m", url)  # it asks for parcels and a next root, which are not there
    assert child.files("m") == {"model.bin": data}


async def test_what_the_origin_does_not_have_is_asked_for_once_for_all_children(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", noise(10 * KIB))
    absent = [f"packs/{'0' * 64}", "metadata/2.root.json", "bundles/m.new"]
    async with ScriptedOrigin(shop.path) as origin, gateway(tmp_path / "gateway", origin.url) as (url, _):
        async with aiohttp.ClientSession() as session:

            async def ask(path: str) -> int:
                async with session.get(f"{url}/{path}") as response:
                    return response.status

            for _ in range(5):
                statuses = await asyncio.gather(*(ask(path) for path in absent))
                assert statuses == [404] * len(absent)
        assert sorted(exchange.path for exchange in origin.exchanges) == sorted(absent)


async def test_many_ranges_of_an_object_cost_the_origin_one_connection_and_one_question_for_its_size(
    tmp_path: Path,
) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", noise(900 * KIB))
    (pack,) = (path for path in shop.objects("packs") if path.stat().st_size > 800 * KIB)
    whole = pack.read_bytes()
    async with ScriptedOrigin(shop.path) as origin, gateway(tmp_path / "gateway", origin.url) as (url, _):
        async with aiohttp.ClientSession() as session:
            for begin in range(0, 800 * KIB, 100 * KIB):
                headers = {"Range": f"bytes={begin}-{begin + 999}"}
                async with session.get(f"{url}/packs/{pack.name}", headers=headers) as response:
                    assert await response.read() == whole[begin : begin + 1000]
        assert [exchange.method for exchange in origin.exchanges].count("HEAD") == 1
        assert origin.connections <= 1
