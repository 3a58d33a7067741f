"""One MQTT connection (3.1.1 or 5) over an open stream, seen from the client: subscribing, publishing, keep-alive.

It opens nothing, begins nothing anew and knows no topic's meaning. There are two copies, the daemon's and the
publisher's, which a test holds equal. It wakes nobody: all it waits for are packets and one timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from modelsync_protocol.errors import RefusedError, UnreachableError
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_protocol.mqtt import properties as known

_READ_BYTES = 64 * 1024
_MOST_IN_FLIGHT = 8
"""Publications without their acknowledgement at a time; AWS IoT allows ten, and a broker may say less."""

_MOST_ALIASES = 16
_VERSION_CODES = frozenset({0x01, 0x84})
_REFUSALS = {
    0x02: "it does not accept the client id",
    0x04: "user name or password are wrong",
    0x05: "it does not authorise this client",
    0x85: "it does not accept the client id",
    0x86: "user name or password are wrong",
    0x87: "it does not authorise this client",
    0x8A: "it has banned this client",
    0x8C: "it wants another way of authentication",
    0x9A: "it keeps no retained messages",
}
TAKEN_OVER = 0x8E
WITH_WILL = 0x04
"""A DISCONNECT's code (MQTT 5) that has the broker publish the will."""

_GOODBYES = {
    0x87: "it does not authorise this client any more",
    0x8B: "it shuts down",
    0x8D: "it has heard nothing for too long",
    TAKEN_OVER: "another client connected with the same client id",
    0x95: "a message was larger than it takes",
    0x97: "a quota is used up",
    0x98: "an administrator ended the connection",
    0x9A: "it keeps no retained messages",
}
_Result = TypeVar("_Result")


class VersionRefusedError(UnreachableError):
    """The broker does not speak the MQTT version of the CONNECT."""


class Stream(Protocol):
    """An open line."""

    async def read(self) -> bytes:
        """Some bytes; empty at the end. Raises OSError."""
        ...

    def write(self, data: bytes) -> None:
        """Send, soon."""

    async def drain(self) -> None:
        """Wait until not too much is unsent. Raises OSError."""

    def close(self) -> None:
        """Close at once; may be called again."""


class TcpStream:
    """The Stream of asyncio's pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        return await self._reader.read(_READ_BYTES)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    def close(self) -> None:
        self._writer.transport.abort()

    @property
    def socket(self) -> Any:
        """The socket underneath."""
        return self._writer.get_extra_info("socket")


class MqttClient:
    """One connection, from CONNECT to its end. `on_message` is called on this loop and must not raise.

    Calls raise UnreachableError (the line is lost; nothing more will work) or RefusedError (the broker says no).
    """

    def __init__(
        self,
        stream: Stream,
        connect: mqtt.Connect,
        on_message: Callable[[mqtt.Publish], None],
        call_seconds: float,
        what: str = "the broker",
    ) -> None:
        """`call_seconds`: the longest wait for an answer, after which the line is lost; `what` is at the other end."""
        self._what = what
        self._stream, self._connect, self._on_message = stream, connect, on_message
        self._call_seconds = call_seconds
        self._version = connect.version
        self._decoder = mqtt.Decoder(version=connect.version)
        loop = self._loop = asyncio.get_running_loop()
        self._connack: asyncio.Future[mqtt.Connack] = loop.create_future()
        self._waiting: dict[int, asyncio.Future[tuple[int, ...]]] = {}
        self._pings: list[asyncio.Future[None]] = []
        self._packet_id = 0
        self._aliases: dict[str, int] = {}
        self._most_aliases = 0
        self._keep_alive = float(connect.keep_alive)
        self._sent = self._heard = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight = asyncio.Semaphore(_MOST_IN_FLIGHT)
        self._reader: asyncio.Task[None] | None = None
        self.lost: asyncio.Future[str] = loop.create_future()
        """Done when the line is lost, with the reason: a piece of a sentence."""
        self.ending = 0
        """The code of the broker's DISCONNECT (MQTT 5), else 0."""
        self.max_packet = mqtt.MAX_PACKET_BYTES
        """The largest packet that the broker takes, bytes."""

    @property
    def version(self) -> int:
        """4 (which is 3.1.1) or 5."""
        return self._version

    async def begin(self) -> mqtt.Connack:
        """CONNECT. Raises VersionRefusedError too."""
        self._reader = asyncio.ensure_future(self._read())
        self._send(self._connect)
        answer = await self._within(self._connack)
        if answer.code in _VERSION_CODES:
            raise VersionRefusedError(f"{self._what} does not speak MQTT {'5' if self._version == 5 else '3.1.1'}.")
        if answer.code:
            said = _REFUSALS.get(answer.code)
            text = said or f"it answers with code {answer.code}{_reason(answer.properties)}"
            kind = RefusedError if said else UnreachableError
            raise kind(f"{self._what} refuses the connection: {text}.")
        told = answer.properties or known.NONE
        self._keep_alive = float(_number(told, known.SERVER_KEEP_ALIVE, int(self._keep_alive)))
        self._most_aliases = min(_MOST_ALIASES, _number(told, known.TOPIC_ALIAS_MAXIMUM, 0))
        self.max_packet = min(self.max_packet, _number(told, known.MAXIMUM_PACKET_SIZE, self.max_packet))
        self._in_flight = asyncio.Semaphore(min(_MOST_IN_FLIGHT, _number(told, known.RECEIVE_MAXIMUM, 65535)))
        self._arm()
        return answer

    async def subscribe(self, *filters: tuple[str, int]) -> None:
        """Subscribe to topic filters with a QoS each (0 or 1)."""
        number, answer = self._expect()
        self._send(mqtt.Subscribe(number, filters))
        for (name, _), code in zip(filters, await self._within(answer), strict=False):
            if code >= mqtt.SUBSCRIPTION_REFUSED:
                raise RefusedError(f"{self._what} does not let this client subscribe to {name}: check its access list.")

    async def unsubscribe(self, *filters: str) -> None:
        """End subscriptions."""
        number, answer = self._expect()
        self._send(mqtt.Unsubscribe(number, filters))
        await self._within(answer)

    async def publish(
        self, topic: str, payload: bytes = b"", qos: int = 1, retain: bool = False, expiry: int | None = None
    ) -> None:
        """Publish; with QoS 1 return when the broker has it. `expiry`: seconds of the message (MQTT 5)."""
        packet = mqtt.Publish(topic, payload, qos, self._next_id() if qos else None, retain=retain)
        size = len(mqtt.encode(packet, self._version)) + 16
        if size > self.max_packet:
            raise RefusedError(
                f"a message for {topic} has {len(payload)} bytes, and {self._what} takes packets of {self.max_packet}: "
                "raise its limit."
            )
        if qos == 0:
            self._send(self._shortened(packet, expiry))
            await self._drain()
            return
        async with self._in_flight:
            number, answer = self._expect()
            self._send(self._shortened(replace(packet, packet_id=number), expiry))
            await self._drain()
            (code,) = await self._within(answer)
        if code >= mqtt.SUBSCRIPTION_REFUSED:
            why = "check its access list" if code == 0x87 else f"code {code}"
            raise RefusedError(f"{self._what} does not take what this client publishes to {topic}: {why}.")

    async def ping(self) -> None:
        """Return when the broker has answered: all that it had to send before has come."""
        pong: asyncio.Future[None] = self._loop.create_future()
        self._pings.append(pong)
        self._send(mqtt.Pingreq())
        await self._within(pong)

    def end(self, code: int = 0) -> None:
        """Say goodbye (`code` of MQTT 5) and close."""
        if not self.lost.done():
            self._send(mqtt.Disconnect(code))
        self._fail("it was closed here")

    # The stream

    async def _read(self) -> None:
        try:
            while data := await self._stream.read():
                self._heard = self._loop.time()
                for packet in self._decoder.feed(data):
                    if self.lost.done():
                        return
                    self._receive(packet)
            self._fail(f"{self._what} closed it")
        except (OSError, mqtt.MqttError) as error:
            self._fail(str(error).rstrip(".") or type(error).__name__)

    def _receive(self, packet: mqtt.Packet) -> None:
        if isinstance(packet, mqtt.Publish):
            if packet.packet_id is not None:
                self._send(mqtt.Puback(packet.packet_id))
            self._on_message(packet)
        elif isinstance(packet, mqtt.Connack):
            if not self._connack.done():
                self._connack.set_result(packet)
        elif isinstance(packet, mqtt.Pingresp):
            if self._pings and not (pong := self._pings.pop(0)).done():
                pong.set_result(None)
        elif isinstance(packet, mqtt.Puback):
            self._settle(packet.packet_id, (packet.code,))
        elif isinstance(packet, mqtt.Suback | mqtt.Unsuback):
            self._settle(packet.packet_id, packet.codes)
        elif isinstance(packet, mqtt.Disconnect):
            self.ending = packet.code
            said = _GOODBYES.get(packet.code) or f"code {packet.code}{_reason(packet.properties)}"
            self._fail(f"{self._what} ended it: {said}")

    def _settle(self, number: int, codes: tuple[int, ...]) -> None:
        answer = self._waiting.pop(number, None)
        if answer is not None and not answer.done():
            answer.set_result(codes)

    def _send(self, packet: mqtt.Packet) -> None:
        if self.lost.done():
            raise UnreachableError(f"the connection to {self._what} is lost: {self.lost.result()}.")
        self._sent = self._loop.time()
        self._stream.write(mqtt.encode(packet, self._version))

    async def _drain(self) -> None:
        try:
            await self._within(self._stream.drain())
        except OSError as error:
            self._fail(str(error))
            raise UnreachableError(f"the connection to {self._what} is lost: {error}.") from error

    def _shortened(self, packet: mqtt.Publish, expiry: int | None) -> mqtt.Publish:
        """With what MQTT 5 saves: the second time a topic is two bytes."""
        if self._version != 5:
            return packet
        properties: dict[int, int | str | bytes] = {} if expiry is None else {known.MESSAGE_EXPIRY: expiry}
        alias = self._aliases.get(packet.topic)
        topic = packet.topic
        if alias is not None:
            properties[known.TOPIC_ALIAS], topic = alias, ""
        elif len(self._aliases) < self._most_aliases:
            properties[known.TOPIC_ALIAS] = self._aliases[packet.topic] = len(self._aliases) + 1
        return replace(packet, topic=topic, properties=properties or None)

    def _next_id(self) -> int:
        number = self._packet_id
        while True:
            number = number % 65535 + 1
            if number not in self._waiting:
                return number

    def _expect(self) -> tuple[int, asyncio.Future[tuple[int, ...]]]:
        self._packet_id = self._next_id()
        answer: asyncio.Future[tuple[int, ...]] = self._loop.create_future()
        self._waiting[self._packet_id] = answer
        return self._packet_id, answer

    async def _within(self, awaitable: Awaitable[_Result]) -> _Result:
        try:
            async with asyncio.timeout(self._call_seconds):
                return await awaitable
        except TimeoutError as error:
            self._fail(f"no answer in {self._call_seconds:.0f} s")
            raise UnreachableError(f"{self._what} gives no answer in {self._call_seconds:.0f} s.") from error

    # Time and end

    def _arm(self) -> None:
        if self._keep_alive:
            self._timer = self._loop.call_at(self._sent + self._keep_alive, self._tick)

    def _tick(self) -> None:
        if self.lost.done():
            return
        if self._loop.time() >= self._sent + self._keep_alive:
            asked = self._loop.time()
            self._send(mqtt.Pingreq())
            self._pings.append(self._loop.create_future())
            self._loop.call_later(self._call_seconds, self._check_alive, asked)
        self._arm()

    def _check_alive(self, asked: float) -> None:
        if self._heard < asked:
            self._fail(f"no answer to a keep-alive in {self._call_seconds:.0f} s")

    def _fail(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._timer is not None:
            self._timer.cancel()
        waiters: list[asyncio.Future[Any]] = [self._connack, *self._waiting.values(), *self._pings]
        for waiting in waiters:
            if not waiting.done():
                waiting.set_exception(UnreachableError(f"the connection to {self._what} is lost: {reason}."))
                waiting.exception()  # nobody need be waiting
        self._stream.close()
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()

    async def closed(self) -> None:
        """Close without a word, and wait until nothing of it runs any more."""
        self._fail("it was closed here")
        if self._reader is not None:
            await asyncio.wait({self._reader})  # which keeps the caller's own cancellation apart from the task's


def _number(properties: known.Properties, which: int, otherwise: int) -> int:
    value = properties.get(which, otherwise)
    return value if isinstance(value, int) else otherwise


def _reason(properties: known.Properties | None) -> str:
    said = (properties or known.NONE).get(known.REASON_STRING)
    return f" ({said!s:.120})" if said else ""
