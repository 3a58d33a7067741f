"""The daemon as a process, with a real hub, origin, worker and SDK: follows, survives kill -9, stops, stays small."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.disk.datadir import DataDir
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.hub.workload import Workload, WorkloadAddress
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from tests.support.addresses import loopback_address
from tests.support.lonely import lonely_settings
from tests.support.shop import Shop
from tests.support.waiting import PATIENCE_SECONDS, until

NAME = "anomaly"
DAEMON = "from modelsync_daemon.cli import main; main()"
SERVER = "from modelsync_server.cli import main; main()"


class World:
    """A hub in this process; origin and daemon as processes."""

    def __init__(self, root: Path, hub: Hub, shop: Shop) -> None:
        self.root, self.hub, self.shop = root, hub, shop
        self.data = root / "data"
        self.origin = ""
        self.daemon: asyncio.subprocess.Process | None = None
        self._children: list[asyncio.subprocess.Process] = []

    async def start(
        self, *command: str, stdout: int | None = None, environment: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Run a command of ours as a process."""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", *command, stdout=stdout, env={**os.environ, **(environment or {})}
        )
        self._children.append(child)
        return child

    async def serve(self) -> None:
        """Start the origin."""
        child = await self.start(SERVER, "serve", str(self.shop.path), stdout=asyncio.subprocess.PIPE)
        assert child.stdout is not None
        self.origin = json.loads(await child.stdout.readline())["url"]

    async def run(self, **environment: str) -> asyncio.subprocess.Process:
        """Start the daemon."""
        config = self.root / "modelsyncd.toml"
        config.write_text(
            f'data = "data"\ntrust = "{self.shop.trust}"\nca = "{self.hub.ca_path}"\n'
            f'connection_string = "{self.hub.add_device("pi")}"\nprobation_seconds = 0\n'
            f"{lonely_settings()}"
        )
        self.daemon = await self.start(DAEMON, "run", "--config", str(config), environment=environment)
        return self.daemon

    def wish(self, version: int) -> None:
        """Set the twin."""
        section = {"origin": self.origin, "models": {NAME: {"version": version}}}
        self.hub.set_desired("pi", {"modelsync": section})

    def reported(self) -> dict[str, Any]:
        """What the hub shows of the model."""
        model: dict[str, Any] = self.hub.reported("pi").get("modelsync", {}).get("models", {}).get(NAME, {})
        return model

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for `condition()`; fails if the daemon ended."""

        def holds() -> object:
            assert self.daemon is None or self.daemon.returncode is None, "the daemon ended"
            return condition()

        await until(holds)

    async def serves(self, version: int) -> None:
        """Wait until the hub shows `version` as active."""
        await self.until(lambda: (self.reported().get("version"), self.reported().get("state")) == (version, "active"))

    async def close(self) -> None:
        """End every process."""
        for child in self._children:
            if child.returncode is None:
                child.kill()
            await child.wait()


@pytest.fixture
async def world(tmp_path: Path, worker_id: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(
            Hub(tmp_path / "hub", HubAddress(loopback_address(worker_id), service_port=0))
        )
        shop = await Shop.open(tmp_path)
        made = World(tmp_path, hub, shop)
        stack.push_async_callback(made.close)
        await shop.publish_bytes(NAME, random.randbytes(300_000))
        await made.serve()
        yield made


async def test_a_twin_is_followed_through_kills_and_rolled_back(world: World) -> None:
    daemon = await world.run()
    world.wish(1)
    await world.serves(1)
    await world.shop.publish_bytes(NAME, random.randbytes(300_000))
    world.wish(2)
    await world.until(lambda: world.reported().get("state") != "active" or world.reported()["version"] == 2)
    daemon.kill()
    await daemon.wait()
    world.daemon = None
    daemon = await world.run()
    await world.serves(2)
    async with ServiceClient(world.hub.service) as service:
        # What the twin shows may date from before the kill; the method waits for the new daemon's connection.
        answer = await service.invoke("pi", "rollback", {"model": NAME}, connect_seconds=30)
        assert (answer.status, answer.payload["version"]) == (200, 1)
        status = await service.invoke("pi", "status")
        assert status.payload["models"][NAME]["state"] == "rolled back" and status.payload["models"][NAME]["hold"]
    await world.until(lambda: world.reported().get("hold"))
    pointer = DataDir(world.data).read_pointer(NAME)
    assert pointer is not None and pointer.version == 1

    status_text = await _output("status", "--data", str(world.data), "--json")
    document = json.loads(status_text)
    assert document["daemon"]["connected"] and document["daemon"]["pid"] == daemon.pid
    assert document["ledger"]["day"]["received"] > 600_000, "origin's and hub's bytes are counted"

    daemon.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await daemon.wait() == 0
    assert not (world.data / "daemon.sock").exists()


async def test_the_same_daemon_runs_as_an_edge_module(world: World, tmp_path: Path) -> None:
    listen = WorkloadAddress(tmp_path / "workload.sock")
    identity = Identity("gateway", "modelsync")
    async with Workload(world.hub.state, identity, world.hub.address.host, listen) as workload:
        environment = {
            **workload.environment,
            "MODELSYNC_DATA": str(world.data),
            "MODELSYNC_TRUST": str(world.shop.trust),
        }
        world.daemon = await world.start(DAEMON, "run", environment=environment)
        section = {"origin": world.origin, "models": {NAME: {"version": 1}}}
        world.hub.set_desired("gateway", {"modelsync": section}, "modelsync")

        def shown() -> dict[str, Any]:
            reported = world.hub.reported("gateway", "modelsync")
            model: dict[str, Any] = reported.get("modelsync", {}).get("models", {}).get(NAME, {})
            return model

        await world.until(lambda: shown().get("state") == "active")
        assert shown()["version"] == 1
        world.daemon.terminate()
        assert await world.daemon.wait() == 0
        world.daemon = None


async def test_the_idle_daemon_is_small(world: World) -> None:
    daemon = await world.run()
    world.wish(1)
    await world.serves(1)
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    assert resident <= 60 * 1024, f"{resident} KiB"
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "zstandard" not in maps and "numpy" not in maps


async def test_the_worker_dies_with_its_daemon(world: World) -> None:
    world.hub.add_device("pi")
    world.hub.set_desired("pi", {"modelsync": {"policy": {"rate_limit": 20_000}}})
    world.wish(1)
    daemon = await world.run()
    await world.until(lambda: _children(daemon.pid))
    workers = _children(daemon.pid)
    daemon.kill()
    await daemon.wait()
    world.daemon = None
    await world.until(lambda: not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers))
    DataDir(world.data).lock().close()


async def test_a_second_daemon_is_refused_and_systemd_is_told(world: World, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.setblocking(False)
        daemon = await world.run(NOTIFY_SOCKET=str(tmp_path / "n"), WATCHDOG_USEC="200000")
        told: list[bytes] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"READY=1\n" not in told or b"WATCHDOG=1\n" not in told:
                told.append(await asyncio.get_running_loop().sock_recv(systemd, 4096))
    world.daemon = None
    second = await world.run()
    assert await second.wait() == 5
    assert daemon.returncode is None


async def _output(*arguments: str) -> str:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from modelsync_daemon.cli import main; main()",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    text, _ = await child.communicate()
    assert child.returncode == 0
    return text.decode()


def _children(pid: int | None) -> list[int]:
    text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(number) for number in text.split()]
