"""The demo's devices: daemons as processes of their own, and lighter ones that share this process.

The lighter ones are real clients of azure-iot-device. They follow their twin, fetch with the daemon's own library into
a data directory of their own, and report the daemon's own document; what they lack is the resident loop and inference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.iot.device import MethodResponse
from azure.iot.device.aio import IoTHubDeviceClient

from examples.demo.stage import Process
from modelsync_daemon import pull
from modelsync_daemon.api import status_document
from modelsync_protocol import twin
from modelsync_protocol.errors import ModelsyncError

MODEL = "digits"
_FETCHES_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class Cloud:
    """What every device is told: where the origin is, whom it trusts, and with which certificates."""

    origin: str
    origin_ca: Path
    trust: Path
    hub_ca: Path


class Daemon:
    """`modelsyncd run` as a process, with `modelsync-infer` beside it if it infers."""

    def __init__(self, device: str, folder: Path, process: Callable[[str], Process]) -> None:
        self.device, self.folder, self._process = device, folder, process

    async def start(self, connection_string: str, cloud: Cloud) -> None:
        self.folder.mkdir(parents=True)
        config = self.folder / "modelsyncd.toml"
        config.write_text(
            f'data = "{self.folder / "data"}"\ntrust = "{cloud.trust}"\nca = "{cloud.hub_ca}"\n'
            f'origin = "{cloud.origin}"\norigin_ca = "{cloud.origin_ca}"\n'
            f'connection_string = "{connection_string}"\nprobation_seconds = 1\nstartup_spread_seconds = 0\n'
        )
        daemon = self._process(f"{self.device}-daemon")
        await daemon.start("modelsyncd", "run", "--config", str(config), ready=False)

    async def infer(self) -> None:
        """Serve the model from now on: new versions are probed before they may serve."""
        infer = self._process(f"{self.device}-infer")
        await infer.start("modelsync-infer", "--data", str(self.folder / "data"), "--model", MODEL, "--port", "0")


class Client:
    """A device without a daemon; `heard` are all versions of the model that it was ever asked for."""

    def __init__(self, device: str, folder: Path, stack: AsyncExitStack) -> None:
        self.device, self.folder, self._stack = device, folder, stack
        self.heard: list[int | None] = []
        self._task: asyncio.Task[None] | None = None
        self._reported: Mapping[str, Any] = {}
        self._hint = asyncio.Event()

    async def start(self, connection_string: str, cloud: Cloud, turns: asyncio.Semaphore) -> None:
        """Connect and follow the twin until the stack is left."""
        client: Any = IoTHubDeviceClient.create_from_connection_string(
            connection_string, server_verification_cert=cloud.hub_ca.read_text()
        )
        self._stack.push_async_callback(client.shutdown)
        await client.connect()
        loop = asyncio.get_running_loop()

        async def hinted(patch: object) -> None:
            loop.call_soon_threadsafe(self._hint.set)  # a hint: the twin itself is read

        async def refuse(request: Any) -> None:
            answer = MethodResponse.create_from_method_request(request, 404, {"error": "this device has no methods."})
            await client.send_method_response(answer)

        # Setting a handler subscribes, and blocks until the hub acknowledged it.
        await asyncio.to_thread(setattr, client, "on_twin_desired_properties_patch_received", hinted)
        await asyncio.to_thread(setattr, client, "on_method_request_received", refuse)
        self._task = asyncio.create_task(self._follow(client, cloud, turns))
        self._stack.push_async_callback(_ended, self._task)

    @property
    def trouble(self) -> str:
        """Why it follows its twin no more; empty while it does."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return ""
        return f"{self.device} gave up: {self._task.exception()!r}"

    async def _follow(self, client: Any, cloud: Cloud, turns: asyncio.Semaphore) -> None:
        while True:
            self._hint.clear()
            found = await client.get_twin()
            self._reported = found["reported"]
            wish = twin.parse_desired(found["desired"]).models.get(MODEL, twin.Wish()).version
            if not self.heard or self.heard[-1] != wish:
                self.heard.append(wish)
                if wish is not None:
                    await self._take(wish, cloud, turns)
                    await self._report(client, wish)
            await self._hint.wait()

    async def _take(self, version: int, cloud: Cloud, turns: asyncio.Semaphore) -> None:
        async with turns:
            try:
                await asyncio.to_thread(
                    pull,
                    MODEL,
                    cloud.origin,
                    self.folder / "data",
                    trust=cloud.trust,
                    version=version,
                    ca=cloud.origin_ca,
                )
            except ModelsyncError:
                return  # the data directory knows why, and says so in what is reported

    async def _report(self, client: Any, desired: int) -> None:
        document = await asyncio.to_thread(status_document, self.folder / "data")
        document["models"][MODEL]["desired"] = desired
        patch = twin.difference(
            {key: value for key, value in self._reported.items() if not key.startswith("$")},
            twin.build_reported(document),
        )
        if patch:
            await client.patch_twin_reported_properties(patch)


def turns() -> asyncio.Semaphore:
    """How many of the lighter devices may fetch at the same moment: two cores are assumed."""
    return asyncio.Semaphore(_FETCHES_AT_ONCE)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
