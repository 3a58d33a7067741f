"""A real daemon that follows a hub, on a data directory wherever the test wants it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from examples.demo.stage import Process
from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.addresses import loopback_address
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop


class Followed:
    """A running `modelsyncd run`."""

    def __init__(self, shop: Shop, hub: Hub, origin: ScriptedOrigin, daemon: Process) -> None:
        self.shop, self.hub, self.origin, self.daemon = shop, hub, origin, daemon

    def want(self, **versions: int) -> None:
        """Set the twin's wishes."""
        models = {name: {"version": version} for name, version in versions.items()}
        self.hub.set_desired("pi", {"modelsync": {"origin": self.origin.url, "models": models}})

    def reported(self, name: str) -> dict[str, Any]:
        """What the twin says of a model."""
        found: dict[str, Any] = self.hub.reported("pi").get("modelsync", {}).get("models", {}).get(name, {})
        return found

    async def active(self, seconds: float = 90.0, **versions: int) -> None:
        """Wait until these versions are reported as active."""
        for _ in range(int(seconds * 10)):
            found = {name: self.reported(name) for name in versions}
            if all(found[n].get("version") == v and found[n].get("state") == "active" for n, v in versions.items()):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{versions} did not become active in {seconds} s; reported: {json.dumps(found)}")


@asynccontextmanager
async def followed(
    tmp_path: Path, data: Path, settings: str = "", environment: Mapping[str, str] | None = None
) -> AsyncIterator[Followed]:
    """A publisher, an origin, a hub and a daemon on `data`; `settings` are more lines of its file."""
    shop = await Shop.open(tmp_path)
    async with (
        Hub(tmp_path / "hub", HubAddress(loopback_address(), service_port=0)) as hub,
        ScriptedOrigin(shop.path) as origin,
    ):
        config = tmp_path / "modelsyncd.toml"
        config.write_text(
            f'data = "{data}"\ntrust = "{shop.trust}"\nca = "{hub.ca_path}"\n'
            f'connection_string = "{hub.add_device("pi")}"\n'
            f"probation_seconds = 0\nstartup_spread_seconds = 0\n{settings}"
        )
        daemon = Process("modelsyncd", tmp_path, dict(environment or {}))
        await daemon.start("modelsyncd", "run", "--config", str(config), ready=False)
        try:
            yield Followed(shop, hub, origin, daemon)
        finally:
            await daemon.stop()
