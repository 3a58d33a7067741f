"""A bare MQTT connection to a hub, for tests that look at single packets: bytes out, packets in."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub.hub import HUB_NAME, Hub
from modelsync_server.iothub import sas
from modelsync_server.iothub.identity import Identity

PATIENCE = 10.0
"""Seconds that a test waits for what must come."""


class Wire:
    """One TLS connection; not yet an MQTT session."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = mqtt.Decoder()
        self._packets: list[mqtt.Packet] = []

    async def send(self, packet: mqtt.Packet | bytes) -> None:
        self._writer.write(packet if isinstance(packet, bytes) else mqtt.encode(packet))
        await self._writer.drain()

    async def receive(self) -> mqtt.Packet:
        """The next packet; AssertionError if the hub closes instead, TimeoutError if nothing comes."""
        async with asyncio.timeout(PATIENCE):
            while not self._packets:
                data = await self._reader.read(65536)
                assert data, "the hub closed the connection"
                self._packets.extend(self._decoder.feed(data))
        return self._packets.pop(0)

    async def ask(self, packet: mqtt.Packet | bytes) -> mqtt.Packet:
        await self.send(packet)
        return await self.receive()

    async def closed(self) -> list[mqtt.Packet]:
        """Wait until the hub has closed; return what it sent before that."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    data = await self._reader.read(65536)
                except OSError:
                    data = b""
                if not data:
                    rest, self._packets = self._packets, []
                    return rest
                self._packets.extend(self._decoder.feed(data))

    def abort(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def wire(hub: Hub) -> AsyncIterator[Wire]:
    """A TLS connection to the hub's device side, verified against its CA."""
    context = ssl.create_default_context(cafile=str(hub.ca_path))
    reader, writer = await asyncio.open_connection(hub.address.host, hub.address.device_port, ssl=context)
    connection = Wire(reader, writer)
    try:
        yield connection
    finally:
        connection.abort()


def connect_packet(
    hub: Hub,
    identity: Identity,
    *,
    key: str | None = None,
    expiry: int | None = None,
    resource: str | None = None,
    clean_session: bool = False,
    keep_alive: int = 60,
) -> mqtt.Connect:
    """The CONNECT of a registered identity, or a wrong one as the arguments say."""
    registered = hub.state.find(identity)
    assert key is not None or registered is not None
    token = sas.sign(
        key or (registered.primary_key if registered else ""),
        resource or f"{HUB_NAME}/{identity.resource}",
        expiry or int(time.time()) + 3600,
    )
    username = f"{HUB_NAME}/{identity.client_id}/?api-version=2019-10-01&DeviceClientType=test"
    return mqtt.Connect(identity.client_id, clean_session, keep_alive, username, token.encode())
