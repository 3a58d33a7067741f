"""A device under an Azure-like roof for tests: a hub behind a counting relay, and the daemon as a process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from modelsync_daemon.disk.datadir import DataDir
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.iothub.service_client import MethodResult, ServiceClient
from tests.support.addresses import loopback_address
from tests.support.relay import Relay
from tests.support.waiting import until

NAME = "anomaly"
HIDDEN_PORT = 28883


class Cloud:
    """The hub, the relay before it, and one device named `pi`."""

    def __init__(self, root: Path, hub: Hub, relay: Relay) -> None:
        self.root, self.hub, self.relay = root, hub, relay
        self.data = DataDir(root / "device")
        self.log = root / "daemon.log"
        self.daemon: asyncio.subprocess.Process | None = None

    async def start(self, trust: Path, *settings: str, environment: Mapping[str, str] | None = None) -> None:
        """Start the daemon with the connection string, or with the `settings` lines that replace it."""
        config = self.root / "modelsyncd.toml"
        identity = settings or (f'connection_string = "{self.hub.add_device("pi")}"',)
        lines = [f'data = "{self.data.root}"', f'trust = "{trust}"', f'ca = "{self.hub.ca_path}"']
        config.write_text("\n".join([*lines, "probation_seconds = 0", *identity]) + "\n")
        with self.log.open("ab") as log:
            self.daemon = await asyncio.create_subprocess_exec(
                Path(sys.executable).with_name("modelsyncd"),
                *("run", "--verbose", "--config", str(config)),
                stderr=log,
                env={**os.environ, **(environment or {})},
            )

    async def stop(self) -> None:
        """End the daemon and wait."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None and daemon.returncode is None:
            daemon.terminate()
            await daemon.wait()

    def wish(self, version: int, origin: str | None = None) -> None:
        """Set the desired version, as an operator would."""
        section: dict[str, Any] = {"models": {NAME: {"version": version}}}
        if origin is not None:
            section["origin"] = origin
        self.hub.set_desired("pi", {"modelsync": section})

    def model(self) -> dict[str, Any]:
        """What the hub shows of the model."""
        found: dict[str, Any] = self.hub.reported("pi").get("modelsync", {}).get("models", {}).get(NAME, {})
        return found

    async def invoke(self, method: str, payload: Any = None) -> MethodResult:
        """Call a direct method over REST."""
        async with ServiceClient(self.hub.service) as service:
            return await service.invoke("pi", method, payload)

    async def until(self, condition: Callable[[], object], what: str = "it") -> None:
        """Wait until `condition()` holds; fails with the daemon's log."""

        def holds() -> object:
            assert self.daemon is None or self.daemon.returncode is None, "the daemon ended"
            return condition()

        try:
            await until(holds, what)
        except AssertionError as error:
            log = self.log.read_text() if self.log.exists() else ""
            raise AssertionError(f"{error}: {self.model()}\n{log[-3000:]}") from error

    async def serves(self, version: int) -> None:
        """Wait until the hub shows `version` as active."""
        await self.until(lambda: (self.model().get("version"), self.model().get("state")) == (version, "active"))


@asynccontextmanager
async def cloud(root: Path, worker_id: str) -> AsyncIterator[Cloud]:
    """A hub on an address of its own, with a relay on the port that devices know."""
    host = loopback_address(worker_id)
    async with (
        Hub(root / "hub", HubAddress(host, HIDDEN_PORT, service_port=0)) as hub,
        Relay(host, HIDDEN_PORT, host, 8883) as relay,
    ):
        made = Cloud(root, hub, relay)
        try:
            yield made
        finally:
            await made.stop()
