"""The operator's page over 100,000 devices at the local hub, in a real browser: what a view asks, when it is painted.

    python -m bench.dashboard [--devices N] [--json]

The hub is a process of its own (`modelsync hub`), its state a database that is made first; the page runs here, with
each answer of the hub timed; Debian's chromium paints. Needs chromium and the development environment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web
from playwright.async_api import Browser, Page, async_playwright

from modelsync_server.dashboard.acts import Audit
from modelsync_server.dashboard.answers import Answers
from modelsync_server.dashboard.app import Dashboard
from modelsync_server.dashboard.views import Views
from modelsync_server.hub.registry import Registry
from modelsync_server.hub.state import State
from modelsync_server.iothub.connection_string import parse_service
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from modelsync_server.signin.access import Access

MODELS = ("anomaly", "vision")
HOST = "127.0.0.78"
ERRORS = ("offline", "disk", "budget", "probe")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_PAINTED = """(id) => new Promise((done) => {
  const look = () => document.getElementById(id)
    ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.timeOrigin + performance.now())))
    : requestAnimationFrame(look);
  look();
})"""


class TimedHub(ServiceClient):
    """The page's hub, with each answer noted: its end (seconds since 1970), how long it took, rows."""

    def note(self) -> None:
        """Begin anew."""
        self.answers: list[tuple[float, float, int]] = []

    async def _once(
        self, method: str, path: str, query: str, body: Any, headers: dict[str, str], seconds: float
    ) -> Any:
        """The local hub reads all twins for a count: on a busy machine longer than a client usually waits."""
        return await super()._once(method, path, query, body, headers, 900.0)

    async def query_page(
        self, text: str, *, page: int = 100, token: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        began = time.time()
        found = await super().query_page(text, page=page, token=token)
        self.answers.append((time.time(), time.time() - began, len(found[0])))
        return found


def populate(directory: Path, devices: int) -> None:
    """A hub's state with so many devices that report two models. Deterministic."""
    chance = random.Random(16)
    with State(directory) as state:
        registry = Registry(state)
        with state.transaction():
            for number in range(devices):
                identity = Identity(f"car-{number:06}", None)
                state.add(identity)
                models: dict[str, Any] = {}
                wishes: dict[str, Any] = {}
                for name in MODELS:
                    version = chance.choices((1, 2, 3, 4), (0.02, 0.05, 0.23, 0.7))[0]
                    models[name] = {"version": version, "state": "active", "since": "2026-11-28T08:00:00Z",
                                    "desired": 4, "bytes": 40_000}  # fmt: skip
                    if version < 4 and chance.random() < 0.2:
                        error = {"code": chance.choice(ERRORS), "text": "what it says of it, in a sentence"}
                        models[name] |= {"state": "waiting", "error": error}
                    wishes[name] = {"version": 4}
                ledger = {"day": {"received": 50_000, "sent": 4_000}, "month": {"received": 900_000, "sent": 70_000}}
                section = {"models": models, "ledger": ledger, "daemon": {"version": "0.1.0", "formats": [1, 2]}}
                registry.change(identity, {"properties": {"desired": {"modelsync": {"models": wishes}}}})
                registry.report(identity, {"modelsync": section})


@contextlib.asynccontextmanager
async def hub(directory: Path) -> AsyncIterator[TimedHub]:
    """`modelsync hub` over a state, and a client."""
    program = Path(sys.executable).parent / "modelsync"
    process = await asyncio.create_subprocess_exec(
        program, "hub", "--state", directory, "--host", HOST, "--service-port", "0", "--json",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ready = json.loads(await process.stdout.readline())
        async with TimedHub(parse_service(ready["service"])) as client:
            client.note()
            yield client
    finally:
        process.terminate()
        await process.wait()


async def measure(client: TimedHub, devices: int) -> dict[str, Any]:
    """Look at the pages as an operator would."""
    access, answers = Access(loopback=True), Answers(3600.0)
    made = Dashboard(client, Views(client, None, answers, modules=()), answers, access, Audit(None))
    runner = web.AppRunner(made.application(), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    found: dict[str, Any] = {"devices": devices, "models": len(MODELS)}
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        found["fleet"] = await _cold(browser, client, url + "/", "stuck")
        found["fleet_again"] = await _warm(browser, client, url + "/")
        filtered = f"{url}/devices?model={MODELS[0]}&error=disk"
        found["devices"] = await _cold(browser, client, filtered, "o-device")
        found["devices_again"] = await _warm(browser, client, filtered)
        found["thousand_again"] = await _warm(browser, client, f"{url}/devices?page=1000", first=True)
        found["device"] = await _cold(browser, client, f"{url}/device/car-{devices // 2:06}", "m-1-1")
        await browser.close()
    await runner.cleanup()
    found["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


async def _cold(browser: Browser, client: TimedHub, url: str, mark: str) -> dict[str, float]:
    """Nothing is kept: from the hub's last answer to the paint of what it answered, and what was asked."""
    client.note()
    tab = await browser.new_page()
    began = time.time()
    await tab.goto(url, wait_until="commit")
    first = await _contentful(tab)
    painted = await tab.evaluate(_PAINTED, mark) / 1000
    last = max(end for end, _, _ in client.answers) if client.answers else painted
    await tab.close()
    return {
        "first_paint_s": round(first, 3),
        "answers_s": round(last - began, 2),
        "paint_after_answers_s": round(painted - last, 3),
        "queries": len(client.answers),
        "slowest_query_s": round(max(took for _, took, _ in client.answers), 2),
        "rows": sum(rows for _, _, rows in client.answers),
    }


async def _warm(browser: Browser, client: TimedHub, url: str, *, first: bool = False) -> dict[str, float]:
    """What is kept is shown: first contentful paint, bytes of the page, and that nothing is asked."""
    tab = await browser.new_page()
    if first:
        await tab.goto(url)
        await tab.wait_for_selector("#o-device")
    client.note()
    response = await tab.goto(url)
    assert response is not None
    paint = await _contentful(tab)
    size = len(await response.body())
    await tab.close()
    return {"paint_s": round(paint, 3), "bytes": size, "queries": len(client.answers)}


async def _contentful(tab: Page) -> float:
    """Seconds from the navigation to the first contentful paint."""
    text = """() => new Promise((done) => new PerformanceObserver((list) => done(list.getEntries()[0].startTime))
      .observe({type: 'paint', buffered: true}))"""
    await tab.wait_for_load_state("domcontentloaded")
    return float(await tab.evaluate(text)) / 1000


async def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "hub"
        populate(directory, arguments.devices)
        async with hub(directory) as client:
            found = await measure(client, arguments.devices)
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, values in found.items():
        told = ", ".join(f"{key} {value}" for key, value in values.items()) if isinstance(values, dict) else values
        sys.stdout.write(f"{name}: {told}\n")


if __name__ == "__main__":
    asyncio.run(main())
