"""One MQTT session in a device's name, to set its reported properties: what no hub's service side can do.

Source: learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub (topics, user name, token). It reads nothing else.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlencode

from modelsync_protocol.errors import LocalError, RefusedError, UnreachableError
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.iothub import sas
from modelsync_server.iothub.connection_string import ServiceConnection
from modelsync_server.iothub.identity import Identity

DEVICE_PORT = 8883
_API_VERSION = "2021-04-12"
_ANSWER_SECONDS = 30.0
_TOKEN_SECONDS = 300
_ANSWERS = "$iothub/twin/res/"
_REQUEST = "1"
_Kind = TypeVar("_Kind", mqtt.Connack, mqtt.Suback, mqtt.Publish)


async def report(
    connection: ServiceConnection, identity: Identity, key: str, patch: Mapping[str, Any], port: int = DEVICE_PORT
) -> None:
    """Merge `patch` into the reported properties, as the device would. `key`: its own, base64.

    A session that the device left at the hub stays as it is. UnreachableError, RefusedError.
    """
    host = (connection.gateway or connection.host_name).partition(":")[0]
    try:
        async with asyncio.timeout(_ANSWER_SECONDS), _connected(connection, host, port) as session:
            await session.begin(connection.host_name, identity, key)
            await session.patch(patch)
    except (OSError, TimeoutError, mqtt.MqttError) as error:
        raise UnreachableError(
            f"the hub's device side at {host}:{port} does not answer ({error!s:.120}); try again."
        ) from error


class _Session:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._decoder, self._packets = mqtt.Decoder(), list[mqtt.Packet]()

    async def begin(self, host_name: str, identity: Identity, key: str) -> None:
        token = sas.sign(key, f"{host_name}/{identity.resource}", int(time.time()) + _TOKEN_SECONDS)
        username = f"{host_name}/{identity.client_id}/?" + urlencode({"api-version": _API_VERSION})
        # Not a clean session, which would end the device's own with its subscriptions.
        await self._send(mqtt.Connect(identity.client_id, False, 60, username, token.encode()))
        if (answer := await self._receive(mqtt.Connack)).code != mqtt.ACCEPTED:
            raise RefusedError(f"the hub does not let {identity} connect (code {answer.code}); is it enabled?")
        await self._send(mqtt.Subscribe(1, ((f"{_ANSWERS}#", 0),)))
        await self._receive(mqtt.Suback)

    async def patch(self, patch: Mapping[str, Any]) -> None:
        topic = f"$iothub/twin/PATCH/properties/reported/?$rid={_REQUEST}"
        await self._send(mqtt.Publish(topic, json.dumps(patch, separators=(",", ":")).encode()))
        while True:
            answer = await self._receive(mqtt.Publish)
            status, _, query = answer.topic.removeprefix(_ANSWERS).partition("/?")
            if not answer.topic.startswith(_ANSWERS) or f"$rid={_REQUEST}" not in query.split("&"):
                if answer.packet_id is not None:
                    await self._send(mqtt.Puback(answer.packet_id))
                continue  # something that waited for the device
            if status not in ("200", "204"):
                said = answer.payload.decode("utf-8", "replace")
                kind = UnreachableError if status == "429" or status.startswith("5") else RefusedError
                raise kind(f"the hub does not take the report (status {status}): {said:.200}")
            await self._send(mqtt.Disconnect())
            return

    async def _send(self, packet: mqtt.Packet) -> None:
        self._writer.write(mqtt.encode(packet))
        await self._writer.drain()

    async def _receive(self, kind: type[_Kind]) -> _Kind:
        while True:
            while self._packets:
                packet = self._packets.pop(0)
                if isinstance(packet, kind):
                    return packet
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionError("the hub closed the connection")
            self._packets += self._decoder.feed(data)


@asynccontextmanager
async def _connected(connection: ServiceConnection, host: str, port: int) -> AsyncIterator[_Session]:
    ca_file = connection.ca_file
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise LocalError(f"the CA file {ca_file} can't be read: {error}.") from error
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        yield _Session(reader, writer)
    finally:
        writer.transport.abort()
