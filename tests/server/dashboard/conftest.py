"""A fleet on a running hub, a rollout of it under way, and the page over both."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from modelsync_server.dashboard.acts import Audit
from modelsync_server.dashboard.answers import Answers
from modelsync_server.dashboard.app import Dashboard
from modelsync_server.dashboard.views import Views
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from modelsync_server.library.async_store import AsyncStore
from modelsync_server.rollout import planning, starting
from modelsync_server.rollout.gate import Gate
from modelsync_server.rollout.rings import parse_options
from modelsync_server.signin.access import Access
from modelsync_server.store import open_store
from tests.server.rollout.conftest import MODEL, World, stocked_shop
from tests.support.addresses import loopback_address
from tests.support.motley_fleet import HOSTILE, Stock
from tests.support.puppet_fleet import Puppets, obedient
from tests.support.shop import Shop


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """A store with three versions, made once; tests get copies."""
    return asyncio.run(stocked_shop(tmp_path_factory.mktemp("stock")))


@pytest.fixture
async def world(stock: Stock, tmp_path: Path, worker_id: str) -> AsyncIterator[World]:
    shop, digests, prices = stock
    shutil.copytree(shop.root, tmp_path, dirs_exist_ok=True)
    async with (
        Hub(tmp_path / "hub", HubAddress(loopback_address(worker_id), service_port=0)) as hub,
        ServiceClient(hub.service) as client,
    ):
        yield World(hub, client, Shop(tmp_path), Puppets(hub, MODEL, digests, prices, obedient))


@dataclass
class Page:
    """A served page. `url` ends without a slash; `audit` is its log."""

    world: World
    dashboard: Dashboard
    answers: Answers
    access: Access
    audit: Path
    url: str

    @property
    def link(self) -> str:
        """By which its operator, ada, signs in."""
        return f"{self.url}/signin?token={self.access.link_token}"

    def rule(self, **changes: Any) -> Access:
        """Other rules of who may look and act, from now on."""
        self.access = self.dashboard._access = replace(self.access, **changes)
        return self.access


@pytest.fixture
async def page(world: World, tmp_path: Path) -> AsyncIterator[Page]:
    world.puppets.add(["c0", "c1"], 2, wish=True, ring="canary")
    world.puppets.add(["r0", "r1", "r2"], 1, wish=True)
    bad = {"version": 1, "state": "waiting", "error": {"code": "disk", "text": HOSTILE}}
    world.hub.registry.report(
        Identity("r2", None), {"modelsync": {"models": {MODEL: bad}, "problems": {"policy/windows": HOSTILE}}}
    )
    rings = parse_options(["canary:tags.ring='canary'", "rest:100%"], Gate())
    plan = await planning.plan(
        open_store(world.store), world.client, MODEL, 3, rings, price_per_gb=100.0, currency="EUR"
    )
    await starting.start(world.client, plan, by="ann")
    access, answers, audit = Access(loopback=True, operator="ada"), Answers(0.2), tmp_path / "audit.jsonl"
    views = Views(world.client, AsyncStore(world.store, None), answers, price_per_gb=100.0)
    made = Dashboard(world.client, views, answers, access, Audit(audit), live_seconds=0.3, patience=20.0)
    runner = web.AppRunner(made.application(), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Page(world, made, answers, access, audit, f"http://127.0.0.1:{runner.addresses[0][1]}")
    await runner.cleanup()


@pytest.fixture
async def client(page: Page) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(page.url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield session


async def text(client: aiohttp.ClientSession, path: str, status: int = 200, **options: Any) -> str:
    """What a page answers, with the status that is expected."""
    async with client.get(path, **options) as response:
        found = await response.text()
        assert response.status == status, found
        return found


async def tables(client: aiohttp.ClientSession, path: str, **query: str) -> dict[str, list[dict[str, Any]]]:
    """A page's tables."""
    async with client.get(path, params={**query, "format": "json"}) as response:
        found: dict[str, list[dict[str, Any]]] = await response.json()
        assert response.status == 200, found
        return found


def token_of(page: str) -> str:
    """The token that a page's forms carry."""
    found = re.search(r'name="token" value="([0-9a-f]+)"', page)
    assert found is not None, "nobody who acts"
    return found[1]
