"""The real azure-iot-device clients, connected to a test's hub and always shut down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from azure.iot.device.aio import IoTHubDeviceClient, IoTHubModuleClient

from modelsync_server.hub.hub import Hub

RETRY_SECONDS = 1
"""The SDK's pause before it connects again; its default of 10 makes tests slow."""


@asynccontextmanager
async def sdk_device(hub: Hub, device: str = "pi", **options: Any) -> AsyncIterator[Any]:
    """A connected device client."""
    async with _connected(IoTHubDeviceClient, hub, hub.add_device(device), options) as client:
        yield client


@asynccontextmanager
async def sdk_module(hub: Hub, device: str = "pi", module: str = "modelsync", **options: Any) -> AsyncIterator[Any]:
    """A connected module client."""
    async with _connected(IoTHubModuleClient, hub, hub.add_device(device, module), options) as client:
        yield client


@asynccontextmanager
async def _connected(kind: Any, hub: Hub, text: str, options: dict[str, Any]) -> AsyncIterator[Any]:
    options = {"connection_retry_interval": RETRY_SECONDS, **options}
    client = kind.create_from_connection_string(text, server_verification_cert=hub.ca_pem, **options)
    async with shut_down(client):
        await client.connect()
        yield client


@asynccontextmanager
async def shut_down(client: Any) -> AsyncIterator[Any]:
    """Shut the client down at the end, whatever happens."""
    try:
        yield client
    finally:
        await client.shutdown()


async def set_handler(client: Any, name: str, handler: Any) -> None:
    """Set `client.name = handler`: a blocking SUBSCRIBE, so it goes to a thread."""
    await asyncio.to_thread(setattr, client, name, handler)


def collector() -> tuple[asyncio.Queue[Any], Callable[[Any], Any]]:
    """A queue on this loop, and a coroutine handler for the SDK's own loop that fills it."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(item: Any) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, item)

    return queue, handler
