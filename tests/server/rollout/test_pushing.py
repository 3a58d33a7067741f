"""A ring's small update reaches real daemons over their open connections to the hub: the origin is not asked at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from examples.demo.stage import Process
from modelsync_daemon.api import status as device_status
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from modelsync_server.origin.origin import application
from modelsync_server.rollout import planning, pushing, reading, running, starting
from modelsync_server.rollout.rings import parse_options
from modelsync_server.store import open_store
from tests.server.rollout.conftest import MODEL, QUICK
from tests.support.addresses import loopback_address
from tests.support.shop import Shop

BODY = random.Random(29).randbytes(60_000)
SMALL, BIG = BODY[:-50] + b"x" * 50, random.Random(30).randbytes(40_000) + BODY


@dataclass
class Site:
    """A hub, a store, its origin, and daemons; `asked` are the paths that the origin was asked for."""

    hub: Hub
    client: ServiceClient
    shop: Shop
    root: Path
    origin: str
    asked: list[str]
    stack: AsyncExitStack

    async def daemon(self, device: str, ring: str, version: int | None) -> Process:
        """A daemon that runs and, with a version, serves it."""
        text = self.hub.add_device(device)
        self.hub.registry.change(Identity(device, None), {"tags": {"ring": ring}})
        config = self.root / f"{device}.toml"
        config.write_text(
            f'data = "{self.root / device}"\ntrust = "{self.shop.trust}"\nca = "{self.hub.ca_path}"\n'
            f'origin = "{self.origin}"\nconnection_string = "{text}"\n'
            "probation_seconds = 0\nstartup_spread_seconds = 0\n"
        )
        if version is not None:
            self.hub.set_desired(device, {"modelsync": {"models": {MODEL: {"version": version}}}})
        process = Process(device, self.root, {})
        await process.start("modelsyncd", "run", "--config", str(config), ready=False)
        self.stack.push_async_callback(process.stop)
        if version is not None:
            await self.until(device, version)
        for _ in range(1200):
            if (await self.client.twin(device))["connectionState"] == "Connected":
                return process
            await asyncio.sleep(0.05)
        raise AssertionError(f"{device} does not connect")

    def reported(self, device: str) -> dict[str, Any]:
        found: dict[str, Any] = self.hub.reported(device).get("modelsync", {}).get("models", {}).get(MODEL, {})
        return found

    async def until(self, device: str, version: int) -> None:
        """Wait until a device reports that it serves a version."""
        for _ in range(1200):
            if (self.reported(device).get("version"), self.reported(device).get("state")) == (version, "active"):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{device}: {self.reported(device)}\n{(self.root / f'{device}.log').read_text()[-2000:]}")

    async def start(self, version: int, *rings: str) -> planning.RolloutPlan:
        """Start a rollout that pushes, and let it open its first ring."""
        store = open_store(str(self.shop.path))
        plan = await planning.plan(store, self.client, MODEL, version, parse_options(rings, QUICK))
        self.asked.clear()
        self.hub.traffic.log.clear()
        await starting.start(self.client, plan, by="ann")
        await self.step()
        return plan

    async def step(self) -> None:
        await running.settle(self.client, open_store(str(self.shop.path)))

    def methods(self) -> list[tuple[str, int]]:
        """Whom direct methods were called on, and how the hub answered."""
        return sorted((each.path.split("/")[2], each.status) for each in self.hub.traffic.log if each.kind == "methods")


@pytest.fixture
async def site(tmp_path: Path, worker_id: str) -> AsyncIterator[Site]:
    shop = await Shop.open(tmp_path)
    for body in (BODY, SMALL, BIG):
        await shop.publish_bytes(MODEL, body)
    asked: list[str] = []

    async def count(request: web.Request, response: web.StreamResponse) -> None:
        asked.append(request.path)

    app = application(shop.path)
    app.on_response_prepare.append(count)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = HubAddress(loopback_address(worker_id), service_port=0)
    async with (
        Hub(tmp_path / "hub", address) as hub,
        ServiceClient(hub.service) as client,
        AsyncExitStack() as stack,
    ):
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield Site(hub, client, shop, tmp_path, url, asked, stack)
    await runner.cleanup()


@pytest.mark.timeout(300)
async def test_connected_daemons_of_the_ring_are_pushed_to_and_ask_the_origin_nothing(site: Site) -> None:
    await asyncio.gather(*(site.daemon(device, "first", 1) for device in ("near-1", "near-2")))
    away = await site.daemon("away", "first", 1)
    await site.daemon("later", "second", 1)
    await away.stop()
    plan = await site.start(2, "first:tags.ring = 'first'", "second:*")
    # The step that opened the ring has pushed before it asked: both have it on the disk by the hub alone.
    assert site.methods() == [("near-1", 200), ("near-2", 200)], "who is away, and the next ring, are not called"
    await asyncio.gather(*(site.until(device, 2) for device in ("near-1", "near-2")))
    assert site.asked == []
    for device in ("near-1", "near-2"):
        assert device_status(site.root / device).models[MODEL].version == 2
        assert site.reported(device)["bytes"] == plan.rings[0].worst, "what is pushed costs what was planned"
    # Who was away fetches when it is back.
    await away.start("modelsyncd", "run", "--config", str(site.root / "away.toml"), ready=False)
    await site.until("away", 2)
    assert site.asked != []
    status = await reading.status(site.client, MODEL)
    assert status.rings[0].spent == plan.rings[0].bytes == status.predicted - plan.rings[1].bytes
    assert site.reported("later")["version"] == 1


async def test_what_is_too_big_to_push_or_has_no_base_is_fetched(site: Site) -> None:
    await site.daemon("old", "first", 1)
    await site.daemon("new", "first", None)
    plan = await site.start(3, "all:*")
    assert (plan.rings[0].reachable, plan.rings[0].worst > pushing.WORTH_BYTES) == (2, True)
    assert site.methods() == []
    await asyncio.gather(site.until("old", 3), site.until("new", 3))
    assert site.asked != []
