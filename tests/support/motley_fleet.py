"""A made-up fleet of forty devices of all kinds, for pictures and for tests of the operator's page.

Each reports what a daemon would, or worse: every error, every state, nonsense, hostile text, modules, silence. Run as a
program it serves the page over them: `python -m tests.support.motley_fleet [--port N]`.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

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
from modelsync_server.signin.access import Access
from modelsync_server.store import open_store
from tests.server.rollout.conftest import MODEL, stocked_shop
from tests.support.puppet_fleet import Puppets, obedient
from tests.support.shop import Shop

Stock = tuple[Shop, dict[int, str], dict[tuple[int | None, int], int]]
HOSTILE = "<script>document.title='taken'</script><img src=//elsewhere.example/x>\u202e" + "x" * 500
ERRORS = (
    ("waiting", "offline", "the origin does not answer: connection refused."),
    ("waiting", "disk", "the disk is full: 3.1 MB are missing."),
    ("waiting", "budget", "912 kB do not fit into what is left of this day's budget."),
    ("waiting", "access", "the origin refuses the SAS, which ended on 2026-11-20."),
    ("quarantined", "probe", "output 'score' differs by 0.31 from the recorded 0.12 (tolerance 0.001)."),
    ("rolled back", "serving", "the error rate rose from 0.00 to 0.43 within 40 requests."),
)


@dataclass(frozen=True, slots=True)
class Motley:
    """The fleet and the page over it. `url` ends without a slash."""

    hub: Hub
    client: ServiceClient
    shop: Shop
    digests: dict[int, str]
    access: Access
    dashboard: Dashboard
    url: str

    @property
    def link(self) -> str:
        """By which its operator, ada, signs in."""
        return f"{self.url}/signin?token={self.access.link_token}"

    def report(self, device: str, model: dict[str, Any] | None = None, module: str | None = None, **more: Any) -> None:
        """Have a device report a model, or anything else of the section."""
        section = more | ({} if model is None else {"models": {MODEL: model}})
        self.hub.registry.report(Identity(device, module), {"modelsync": section})


@asynccontextmanager
async def motley(
    root: Path, host: str, stock: Stock | None = None, *, port: int = 0, fresh: float = 5.0, live: float = 2.0
) -> AsyncIterator[Motley]:
    """The fleet, a rollout of version 3 in its second ring, and the page. `stock`: a store that is copied."""
    shop, digests, prices = stock or await stocked_shop(root)
    if stock is not None:
        shutil.copytree(shop.root, root, dirs_exist_ok=True)
        shop = Shop(root)
    async with Hub(root / "hub", HubAddress(host, service_port=0)) as hub, ServiceClient(hub.service) as client:
        puppets = Puppets(hub, MODEL, digests, prices, obedient)
        puppets.add([f"depot-{number:02}" for number in range(4)], 2, wish=True, ring="canary")
        puppets.add([f"truck-{number:02}" for number in range(26)], 2, wish=True, site="north")
        puppets.add([f"bus-{number:02}" for number in range(6)], 1, wish=True, site="south")
        store = open_store(str(shop.path))
        rings = parse_options(["canary:tags.ring='canary'", "rest:40%,100%"], Gate(active=0.9, soak=0.0))
        plan = await planning.plan(store, client, MODEL, 3, rings, price_per_gb=4000.0, currency="EUR")
        await starting.start(client, plan, by="ada")
        await running.settle(client, store)
        puppets.answer()  # the canary's
        await running.settle(client, store)
        access, answers = Access(loopback=True, operator="ada"), Answers(fresh)
        views = Views(client, AsyncStore(str(shop.path), None), answers, price_per_gb=4000.0, modules=("modelsync",))
        made = Dashboard(client, views, answers, access, Audit(root / "audit.jsonl"), live_seconds=live)
        runner = web.AppRunner(made.application(), access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        fleet = Motley(hub, client, shop, digests, access, made, f"http://127.0.0.1:{runner.addresses[0][1]}")
        _misbehave(fleet, prices[2, 3])
        yield fleet
        await runner.cleanup()


def _misbehave(fleet: Motley, size: int) -> None:
    hub, digests = fleet.hub, fleet.digests
    now = datetime.now(UTC)

    def ago(**span: float) -> str:
        return (now - timedelta(**span)).strftime("%Y-%m-%dT%H:%M:%SZ")

    active = {"version": 3, "digest": digests[3], "state": "active", "desired": 3, "bytes": size, "generation": 3}
    for number in range(8):
        fleet.report(f"truck-{number:02}", active | {"since": ago(minutes=5 + number)})
    for number, (state, code, text) in enumerate(ERRORS * 2):
        told = {"state": state, "desired": 3, "since": ago(hours=number + 1), "error": {"code": code, "text": text}}
        fleet.report(f"truck-{number + 8:02}", told)
    fleet.report(
        "truck-20", {"state": "fetching", "desired": 3, "progress": {"done": 40, "total": 90}, "since": ago(hours=7)}
    )
    fleet.report(
        "truck-21", {"state": "fetching", "desired": 3, "progress": {"done": 10, "total": 90}, "since": ago(minutes=1)}
    )
    fleet.report("truck-22", {"hold": True})
    hub.set_desired("truck-22", {"modelsync": {"models": {MODEL: {"version": 1}}, "policy": {"hold": True}}})
    fleet.report("truck-23", {"state": ["<script>"], "version": HOSTILE})
    fleet.report("truck-24", {"state": HOSTILE, "error": {"code": HOSTILE, "text": HOSTILE}})
    hub.registry.report(
        Identity("truck-24", None), {"modelsync": {"models": {"/<b>": {"version": 1, "state": "active"}}}}
    )
    fleet.report("truck-25", {"since": (now + timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%SZ")})
    ledger = {"day": {"received": 880_000, "sent": 40_000}, "month": {"received": 9_100_000, "sent": 700_000}}
    for number in range(20):
        fleet.report(f"truck-{number:02}", None, ledger=ledger)
    limits = {"bytes_per_day": 1_000_000, "bytes_per_month": 20_000_000}
    hub.set_desired("truck-10", {"modelsync": {"policy": limits, "origin": "https://models.example.com"}})
    hub.set_desired("bus-01", {"modelsync": {"models": {MODEL: "newest"}, "policy": {"windows": "at night"}}})
    fleet.report("bus-01", None, problems={"policy/windows": HOSTILE, f"models/{MODEL}": "is not an object."})
    fleet.report("bus-02", None, daemon={"version": "0.1.0", "unconfined": ["landlock", "seccomp"]})
    for device in ("attic-1", "attic-2"):  # registered, never set up
        hub.add_device(device)
    hub.set_desired("attic-2", {"modelsync": {"models": {MODEL: {"version": 3}}}})
    for number in range(2):
        hub.add_device(f"gate-{number}", "modelsync")
        hub.set_desired(f"gate-{number}", {"modelsync": {"models": {MODEL: {"version": 2}}}}, "modelsync")
        serving = active | {"version": 2, "digest": digests[2], "desired": 2, "since": ago(days=3)}
        fleet.report(f"gate-{number}", serving, "modelsync", daemon={"version": "0.1.0"}, ledger=ledger)


async def main() -> None:
    """Serve it until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8090)
    port = parser.parse_args().port
    with tempfile.TemporaryDirectory() as scratch:
        async with motley(Path(scratch), "127.0.0.77", port=port) as fleet:
            sys.stdout.write(f"{fleet.url}/ to look, {fleet.link} to act\n")
            sys.stdout.flush()
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
