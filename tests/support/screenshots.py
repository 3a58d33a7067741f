"""Makes the pictures of docs/dashboard.md: `python -m tests.support.screenshots`.

A local hub, a fleet that reports as devices do, a rollout under way, the page, and Debian's chromium.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from aiohttp import web
from playwright.async_api import async_playwright

from modelsync_server.dashboard.access import Access
from modelsync_server.dashboard.acts import Audit
from modelsync_server.dashboard.answers import Answers
from modelsync_server.dashboard.app import Dashboard
from modelsync_server.dashboard.views import Views
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from modelsync_server.library.async_store import AsyncStore
from modelsync_server.rollout import planning, running, starting
from modelsync_server.rollout.gate import Gate
from modelsync_server.rollout.rings import parse_options
from modelsync_server.store import open_store
from tests.server.dashboard.test_browser import ARGUMENTS
from tests.server.rollout.conftest import MODEL, stocked_shop
from tests.support.figures import ROOT
from tests.support.puppet_fleet import Puppets, obedient

_SAID = (("disk", "the disk is full: 3.1 MB are missing."), ("offline", "the origin does not answer."))
FOLDER = ROOT / "docs" / "fleet"
PICTURES = (
    ("fleet", "/", "light", 1100),
    ("devices", f"/devices?model={MODEL}&error=disk", "light", 1100),
    ("rollout-dark", f"/rollout/{MODEL}", "dark", 1100),
    ("telephone", "/", "dark", 390),
)


async def main() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        shop, digests, prices = await stocked_shop(root)
        address = HubAddress("127.0.0.77", service_port=0)
        async with Hub(root / "hub", address) as hub, ServiceClient(hub.service) as client:
            puppets = Puppets(hub, MODEL, digests, prices, obedient)
            puppets.add([f"depot-{number:02}" for number in range(12)], 2, wish=True, ring="canary")
            puppets.add([f"truck-{number:03}" for number in range(180)], 2, wish=True)
            puppets.add([f"truck-{number:03}" for number in range(180, 240)], 1, wish=True)
            store = open_store(str(shop.path))
            rings = parse_options(["canary:tags.ring='canary'", "rest:25%,100%"], Gate(active=0.9, soak=0.0))
            plan = await planning.plan(store, client, MODEL, 3, rings, price_per_gb=4000.0, currency="EUR")
            await starting.start(client, plan, by="ada")
            await running.settle(client, store)
            puppets.answer()  # the canary's
            await running.settle(client, store)
            for number in range(70):
                found = {"version": 3, "state": "active", "digest": digests[3], "bytes": prices[2, 3]}
                hub.registry.report(Identity(f"truck-{number:03}", None), {"modelsync": {"models": {MODEL: found}}})
            for number in range(180, 190):
                code, text = _SAID[number % 2]
                stuck = {"version": 1, "state": "waiting", "error": {"code": code, "text": text}}
                hub.registry.report(Identity(f"truck-{number:03}", None), {"modelsync": {"models": {MODEL: stuck}}})
            access, answers = Access(loopback=True, operator="ada"), Answers(5.0)
            views = Views(client, AsyncStore(str(shop.path), None), answers, price_per_gb=4000.0)
            runner = web.AppRunner(
                Dashboard(client, views, answers, access, Audit(None)).application(), access_log=None
            )
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            await _take(f"http://127.0.0.1:{runner.addresses[0][1]}", access.link_token)
            await runner.cleanup()


async def _take(url: str, token: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for name, path, scheme, width in PICTURES:
            context = await browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 560})  # type: ignore[arg-type]
            tab = await context.new_page()
            await tab.goto(f"{url}/signin?token={token}")
            await tab.goto(url + path)
            await tab.screenshot(path=FOLDER / f"{name}.png")
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
