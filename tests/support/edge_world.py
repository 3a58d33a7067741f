"""IoT Edge on one machine for tests: the hub as a process with routes and workload API, a sensor, and the scorer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from azure.iot.device import Message as SdkMessage
from azure.iot.device.aio import IoTHubModuleClient

from modelsync_server.hub.hub import add_device
from modelsync_server.hub.messages import Messages
from modelsync_server.hub.routes import EDGE_HUB
from modelsync_server.hub.state import State
from modelsync_server.iothub.connection_string import parse_service
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from tests.support.addresses import loopback_address
from tests.support.datadir import DataDir
from tests.support.waiting import PATIENCE_SECONDS, until

DEVICE = "pi"
SCORER = Identity(DEVICE, "scoring")
ROUTES = {
    "in": 'FROM /messages/modules/sensor/outputs/readings INTO BrokeredEndpoint("/modules/scoring/inputs/readings")',
    "up": "FROM /messages/modules/scoring/outputs/answers INTO $upstream",
    "errors": "FROM /messages/modules/scoring/outputs/errors INTO $upstream",
}


class EdgeWorld:
    """The processes; `data` is what the scorer serves from."""

    def __init__(self, root: Path, host: str) -> None:
        self.root, self.host = root, host
        self.data = DataDir(root / "device")
        self.state = root / "hub"
        self.log = root / "scorer.log"
        self.url = ""
        self._socket = root / "workload.sock"
        self._hub: asyncio.subprocess.Process | None = None
        self._scorer: asyncio.subprocess.Process | None = None
        self._service = ""

    async def start_hub(self) -> None:
        """Start the hub on what its directory holds; return when it is ready."""
        command = [sys.executable, "-m", "modelsync_server.hub", "hub", "--state", str(self.state)]
        command += ["--host", self.host, "--service-port", "0", "--workload", f"{SCORER}={self._socket}"]
        self._hub = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert self._hub.stdout is not None
        self._service = json.loads(await self._hub.stdout.readline())["service"]

    async def kill_hub(self) -> None:
        """Kill -9."""
        assert self._hub is not None
        self._hub.kill()
        await self._hub.wait()
        self._hub = None

    async def set_routes(self, routes: dict[str, str]) -> None:
        """Set the device's routes, as a deployment would."""
        self._connection_string(EDGE_HUB)
        async with ServiceClient(parse_service(self._service)) as service:
            await service.set_desired(DEVICE, {"schemaVersion": "1.1", "routes": routes}, EDGE_HUB)

    async def start_scorer(self, *options: str) -> None:
        """Start `modelsync-infer --edge` with what IoT Edge would set; return when its HTTP side is ready."""
        lines = self._socket.with_name(self._socket.name + ".env").read_text().splitlines()
        environment = dict(line.split("=", 1) for line in lines)
        command = ["--data", str(self.data.root), "--model", self.data.model, "--edge", *options]
        with self.log.open("ab") as log:
            self._scorer = await asyncio.create_subprocess_exec(
                Path(sys.executable).with_name("modelsync-infer"),
                *command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
            )
        assert self._scorer.stdout is not None
        self.url = json.loads(await self._scorer.stdout.readline())["url"]

    async def stop_scorer(self) -> int:
        """SIGTERM; the exit code."""
        assert self._scorer is not None
        scorer, self._scorer = self._scorer, None
        scorer.terminate()
        return await asyncio.wait_for(scorer.wait(), PATIENCE_SECONDS)

    @asynccontextmanager
    async def sensor(self) -> AsyncIterator[Callable[..., Any]]:
        """A module that sends to its output `readings`; `await send(body, message_id=…, **properties)`."""
        client: Any = IoTHubModuleClient.create_from_connection_string(
            self._connection_string("sensor"),
            server_verification_cert=(self.state / "ca.pem").read_text(),
            connection_retry_interval=1,
        )

        async def send(body: Any, *, message_id: str | None = None, **properties: str) -> None:
            kind: Any = SdkMessage
            message = kind(body if isinstance(body, bytes | str) else json.dumps(body), message_id=message_id)
            message.custom_properties.update(properties)
            await asyncio.wait_for(client.send_message_to_output(message, "readings"), PATIENCE_SECONDS)

        try:
            await client.connect()
            yield send
        finally:
            await client.shutdown()

    def upstream(self) -> list[dict[str, Any]]:
        """What reached the cloud, as `modelsync hub messages` prints it."""
        with Messages(self.state) as opened:
            return [item.document() for item in opened.upstream()]

    async def arrived(self, count: int) -> list[dict[str, Any]]:
        """Wait until at least `count` messages reached the cloud; all of them."""
        await self.until(lambda: len(self.upstream()) >= count, f"{count} messages in the cloud")
        return self.upstream()

    async def metrics(self) -> dict[str, float]:
        """The module's own metrics, by name and by the value of `queue`."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as response:
            text = await response.text()
        lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith("modelsync_edge_"))
        return {
            name.partition("{")[0].removeprefix("modelsync_edge_")
            + ("_" + name.partition('queue="')[2][:-2] if "queue=" in name else ""): float(value)
            for name, _, value in lines
        }

    async def counted(self, **expected: float) -> None:
        """Wait until the module's own metrics have these values."""
        seen: dict[str, float] = {}

        async def counted() -> bool:
            nonlocal seen
            seen = await self.metrics()
            return all(seen[name] == value for name, value in expected.items())

        try:
            await until(counted, str(expected))
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen}") from None

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until `condition()` holds; fails with the scorer's log."""
        try:
            await until(condition, what)
        except AssertionError as error:
            log = self.log.read_text() if self.log.exists() else ""
            raise AssertionError(f"{error}; {len(self.upstream())} messages in the cloud\n{log[-3000:]}") from None

    def _connection_string(self, module: str) -> str:
        with State(self.state) as opened:
            return add_device(opened, Identity(DEVICE, module), self.host)

    async def close(self) -> None:
        """End what runs."""
        if self._scorer is not None and self._scorer.returncode is None:
            await self.stop_scorer()
        if self._hub is not None:
            await self.kill_hub()


@asynccontextmanager
async def edge_world(root: Path, worker_id: str) -> AsyncIterator[EdgeWorld]:
    """A running hub with ROUTES; no scorer yet."""
    world = EdgeWorld(root, loopback_address(worker_id))
    try:
        await world.start_hub()
        await world.set_routes(ROUTES)
        yield world
    finally:
        await world.close()
