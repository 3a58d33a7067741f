"""The device side's sockets: MQTT over TLS, timeouts, and the hook for faults. What packets mean: devices.py."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modelsync_protocol.errors import LocalError
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub.devices import Admission, ConnectRefused, Devices
from modelsync_server.iothub.identity import Identity

Outgoing = Callable[[Identity, mqtt.Publish], Iterable[float]]
"""Decides what becomes of a message to a device: one delay (seconds) per copy to send; none loses it."""

_READ_BYTES = 64 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost the hub."""

    connect_seconds: float = 15.0
    """TLS handshake, and then again from there to a complete CONNECT."""
    unsent_bytes: int = 4 * 1024 * 1024
    """Bytes waiting for a device that does not read, before it is dropped."""
    close_seconds: float = 2.0
    """How long a closing connection may take to flush and say goodbye."""
    connections: int = 10_000


def faithful(identity: Identity, packet: mqtt.Publish) -> Iterable[float]:
    """The default: every message once and at once."""
    return (0.0,)


class DeviceSide:
    """An MQTT listener on one address."""

    def __init__(
        self,
        devices: Devices,
        context: ssl.SSLContext,
        clock: Callable[[], float],
        outgoing: Outgoing = faithful,
        limits: Limits | None = None,
    ) -> None:
        self.devices = devices
        self.clock = clock
        self.outgoing = outgoing
        self.limits = limits or Limits()
        self._context = context
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, asyncio.Task[None]] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port. Raises OSError."""
        self._server = await asyncio.start_server(
            self._accept,
            host,
            port,
            ssl=self._context,
            ssl_handshake_timeout=self.limits.connect_seconds,
            ssl_shutdown_timeout=self.limits.close_seconds,
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.drop("the hub stops")
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=self.limits.close_seconds)

    def drop_all(self, reason: str = "asked to") -> None:
        """Cut every device off without a word, as a failing network does."""
        for connection in list(self._connections):
            connection.drop(reason)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self.limits.connections:
            writer.transport.abort()
            return
        connection = _Connection(self, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        try:
            await connection.run()
        finally:
            del self._connections[connection]


class _Connection:
    """One socket from its TLS handshake to its end; a `Link` for the rules."""

    def __init__(self, side: DeviceSide, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._side = side
        self._reader = reader
        self._writer = writer
        self._decoder = mqtt.Decoder(mqtt.MAX_CONNECT_BYTES)
        self._admission: Admission | None = None
        self._deadline = 0.0
        self._dropped = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + self._side.limits.connect_seconds
        try:
            while not self._dropped:
                deadline = self._next_deadline(loop.time())
                async with asyncio.timeout_at(deadline):
                    data = await self._reader.read(_READ_BYTES)
                if loop.time() > deadline:
                    # A read that need not wait is not cancelled: a flood must not outlive its token.
                    raise TimeoutError
                if not data:
                    break
                for packet in self._decoder.feed(data):
                    if isinstance(packet, mqtt.Disconnect) or self._dropped:
                        return
                    self._handle(packet, loop.time())
        except TimeoutError:
            _log.info("%s dropped: silent for too long, or its token expired", self._name)
        except mqtt.ProtocolVersionError:
            self._send(mqtt.Connack(False, mqtt.UNACCEPTABLE_PROTOCOL))
        except ConnectRefused as refusal:
            _log.warning("connection refused: %s", refusal)
            self._send(mqtt.Connack(False, refusal.code))
        except mqtt.MqttError as error:
            _log.warning("%s dropped: %s", self._name, error)
        except LocalError as error:
            _log.error("%s dropped: %s", self._name, error)
        except OSError as error:
            _log.info("%s lost: %s", self._name, error)
        finally:
            if self._admission is not None:
                self._side.devices.detach(self._admission.identity, self)
            await self._close()

    @property
    def _name(self) -> str:
        return "a stranger" if self._admission is None else str(self._admission.identity)

    def _certificate_name(self) -> str | None:
        """The common name of the client's certificate, which TLS has checked; None without one."""
        certificate = self._writer.get_extra_info("peercert") or {}
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        return str(names[0]) if names else None

    def _next_deadline(self, now: float) -> float:
        if self._admission is None:
            return self._deadline
        token_left = self._admission.expiry - self._side.clock()
        return min(self._deadline, now + max(0.0, token_left))

    def _handle(self, packet: mqtt.Packet, now: float) -> None:
        if self._admission is None:
            if not isinstance(packet, mqtt.Connect):
                raise mqtt.MqttError("the first packet is not CONNECT.")
            admission = self._side.devices.admit(packet, self._certificate_name())
            present = self._side.devices.attach(admission, self)
            self._admission = admission
            self._decoder.limit = mqtt.MAX_PACKET_BYTES
            self._send(mqtt.Connack(present, mqtt.ACCEPTED))
        else:
            for answer in self._side.devices.receive(self._admission.identity, packet):
                self._send(answer)
        # Only whole packets count as a sign of life, so that a drip of bytes does not hold a connection.
        self._deadline = now + self._admission.idle_seconds

    def publish(self, packet: mqtt.Publish) -> None:
        if self._admission is None:
            return
        loop = asyncio.get_running_loop()
        for delay in self._side.outgoing(self._admission.identity, packet):
            if delay > 0:
                loop.call_later(delay, self._send, packet)
            else:
                self._send(packet)

    def drop(self, reason: str) -> None:
        if not self._dropped:
            self._dropped = True
            _log.info("%s dropped: %s", self._name, reason)
            self._writer.transport.abort()

    def _send(self, packet: mqtt.Packet) -> None:
        if self._dropped or self._writer.is_closing():
            return
        self._writer.write(mqtt.encode(packet))
        if self._writer.transport.get_write_buffer_size() > self._side.limits.unsent_bytes:
            self.drop("it does not read what is sent to it")

    async def _close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(self._side.limits.close_seconds):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()
