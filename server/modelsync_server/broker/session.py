"""An operator's connection to a broker: what it retains, and how one document there is changed. It knows no twin."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from modelsync_protocol.errors import LocalError, UnreachableError
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_protocol.mqtt.properties import MAXIMUM_PACKET_SIZE
from modelsync_server.broker.address import BrokerAddress
from modelsync_server.broker.mqtt_client import MqttClient, TcpStream, VersionRefusedError
from modelsync_server.iothub.service_client import ConflictError

_CALL_SECONDS = 30.0
_KEEP_ALIVE_SECONDS = 60
_SETTLE_SECONDS = 0.3
"""How long a reading waits if nothing came: some brokers send retained messages behind their answers."""

_ATTEMPTS = 12
_AGAIN_SECONDS = 0.05
"""Writers that met wait a random part of this, times their attempt."""

_Heard = TypeVar("_Heard")


class Session:
    """`async with connected(address) as session`. Calls raise UnreachableError or RefusedError."""

    def __init__(self) -> None:
        self.client: MqttClient
        self._listeners: list[Callable[[mqtt.Publish], None]] = []

    def on_message(self, packet: mqtt.Publish) -> None:
        """Hand a message on to whoever listens."""
        for listener in list(self._listeners):
            listener(packet)

    @contextlib.asynccontextmanager
    async def listening(self, *filters: str, qos: int = 1) -> AsyncIterator[asyncio.Queue[mqtt.Publish]]:
        """Messages of these filters, those that are retained first, until the block ends."""
        heard: asyncio.Queue[mqtt.Publish] = asyncio.Queue()
        self._listeners.append(heard.put_nowait)
        try:
            await self.client.subscribe(*((name, qos) for name in filters))
            yield heard
            await self.client.unsubscribe(*filters)
        finally:
            self._listeners.remove(heard.put_nowait)

    async def settled(self, heard: asyncio.Queue[mqtt.Publish]) -> list[mqtt.Publish]:
        """What a broker retained for a subscription just made."""
        await self.client.ping()
        if heard.empty():
            await asyncio.sleep(_SETTLE_SECONDS)
        return _drained(heard)

    async def retained(self, *filters: str) -> dict[str, bytes]:
        """Topic to payload of all that the broker retains below these filters."""
        async with self.listening(*filters) as heard:
            return {packet.topic: packet.payload for packet in await self.settled(heard) if packet.payload}

    async def change(self, topic: str, change: Callable[[bytes], bytes], holds: Callable[[bytes], bool]) -> None:
        """Replace a retained message by what `change` makes of it; `holds` tells whether the change is in a message.

        A broker has no compare-and-set. Its order of messages stands in for it: whose message came between what was
        read and our own is not lost, for the change is made anew on it, and so it is when another one, made without
        knowing ours, follows it at once. ConflictError if that never ends.
        """
        async with self.listening(topic) as heard:
            before = b""
            for attempt in range(_ATTEMPTS):
                for packet in await self.settled(heard) if attempt == 0 else _drained(heard):
                    before = packet.payload
                if attempt == 0 or not holds(before):
                    after = change(before)
                    await self.client.publish(topic, after, retain=True)
                    others = await self._until(heard, after)
                    before = others[-1] if others else after
                if holds(before):
                    await asyncio.sleep(_SETTLE_SECONDS)
                    for packet in _drained(heard):
                        before = packet.payload
                    if holds(before):
                        return
                await asyncio.sleep(random.uniform(0, _AGAIN_SECONDS * (attempt + 1)))
        raise ConflictError(f"others change {topic} all the time; try again.")

    async def _until(self, heard: asyncio.Queue[mqtt.Publish], own: bytes) -> list[bytes]:
        """What others published before the broker gave back our own message."""
        others: list[bytes] = []
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                while (packet := await heard.get()).payload != own:
                    others.append(packet.payload)
        except TimeoutError as error:
            raise UnreachableError(
                "the broker took the message and does not give it back: it was set, and nobody knows whether it stays; "
                "check that its access list lets you read what you write."
            ) from error
        return others


def _drained(heard: asyncio.Queue[mqtt.Publish]) -> list[mqtt.Publish]:
    return [heard.get_nowait() for _ in range(heard.qsize())]


@contextlib.asynccontextmanager
async def connected(address: BrokerAddress) -> AsyncIterator[Session]:
    """A session of a client id of its own. UnreachableError, RefusedError, LocalError for files."""
    session = Session()
    versions, last = [5, 4], 4
    while True:
        version = versions.pop(0)
        client = await _open(address, session, version)
        try:
            await client.begin()
            break
        except UnreachableError as error:
            await client.closed()
            if version == last or not (isinstance(error, VersionRefusedError) or "closed it" in str(error)):
                raise
        except BaseException:
            await client.closed()
            raise
    session.client = client
    try:
        yield session
        client.end()
        await asyncio.sleep(0)
    finally:
        await client.closed()


async def _open(address: BrokerAddress, session: Session, version: int) -> MqttClient:
    context = None
    if address.tls:
        try:
            context = ssl.create_default_context(cafile=address.ca)
            if address.cert is not None:
                context.load_cert_chain(address.cert, address.key)
        except (OSError, ssl.SSLError) as error:
            raise LocalError(f"the files ca, cert or key of the broker's URL can't be used: {error}.") from error
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except (OSError, ssl.SSLError, TimeoutError) as error:
        said = getattr(error, "verify_message", "") or str(error) or "no answer"
        raise UnreachableError(f"the broker at {address} can't be reached: {said:.200}; try again.") from error
    connect = mqtt.Connect(
        f"modelsync-{secrets.token_hex(6)}",
        keep_alive=_KEEP_ALIVE_SECONDS,
        username=address.user,
        password=None if address.password is None else address.password.encode(),
        version=version,
        properties={MAXIMUM_PACKET_SIZE: mqtt.MAX_PACKET_BYTES} if version == 5 else None,
    )
    return MqttClient(TcpStream(reader, writer), connect, session.on_message, _CALL_SECONDS)
