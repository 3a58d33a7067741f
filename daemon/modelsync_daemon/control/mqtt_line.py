"""A device's line to a broker: opened anew at each `open`, its bytes counted, its failures in our words.

TLS or plain TCP, WebSockets, an HTTP proxy; MQTT 5 where the broker speaks it, else 3.1.1. It knows no topic.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from modelsync_daemon.config import BROKER_PORTS, Settings, check_broker
from modelsync_daemon.control.mqtt_client import MqttClient, Stream, TcpStream, VersionRefusedError
from modelsync_daemon.control.reasons import reason
from modelsync_daemon.transfer import tcp_info
from modelsync_protocol.errors import LocalError, ModelsyncError, UnreachableError, UsageError
from modelsync_protocol.mqtt import codec as mqtt

_MAX_PROXY_ANSWER = 8 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a broker listens. `path`: of WebSockets, None for bare MQTT; `name`: in its certificate, if another;
    `alpn`: the protocol that TLS asks for."""

    host: str
    port: int
    tls: bool = True
    path: str | None = None
    name: str | None = None
    alpn: str | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint(url: str, alpn: Mapping[int, str] = MappingProxyType({})) -> Endpoint:
    """Of control_url, which the settings have checked. `alpn`: by port, what TLS asks for."""
    parts = check_broker(url)
    web = parts.scheme in ("wss", "ws")
    path = (parts.path or "/mqtt") if web else None
    port, tls = parts.port or BROKER_PORTS[parts.scheme], parts.scheme in ("mqtts", "wss")
    return Endpoint(str(parts.hostname), port, tls, path, alpn=None if web or not tls else alpn.get(port))


class MqttLine:
    """One connection at a time. All methods belong to one asyncio loop."""

    def __init__(self, settings: Settings, what: str, call_seconds: float) -> None:
        """`what` is at the other end: "the broker"."""
        self._settings, self._what, self._call_seconds = settings, what, call_seconds
        self._client: MqttClient | None = None
        self._version: int | None = None
        self._counter = _Counter()

    @property
    def client(self) -> MqttClient:
        """The open connection; UnreachableError if there is none."""
        if self._client is None or self._client.lost.done():
            raise UnreachableError(f"there is no connection to {self._what}; it is being tried again.")
        return self._client

    @property
    def connected(self) -> bool:
        """Whether the connection stands as far as is known."""
        return self._client is not None and not self._client.lost.done()

    async def open(
        self,
        where: Endpoint,
        connect: mqtt.Connect,
        on_message: Callable[[mqtt.Publish], None],
        versions: tuple[int, ...],
    ) -> MqttClient:
        """Connect by the first of `versions` that the other end speaks (remembered). Raises ModelsyncError."""
        await self.close()
        left = [self._version] if self._version in versions else list(versions)
        while True:
            version = left.pop(0)
            assert version is not None
            try:
                client = await self._begin(where, replace(connect, version=version), on_message, bool(left))
            except VersionRefusedError:
                self._version = None
                if not left:
                    raise
                continue
            self._client, self._version = client, version
            return client

    async def _begin(
        self, where: Endpoint, connect: mqtt.Connect, on_message: Callable[[mqtt.Publish], None], other: bool
    ) -> MqttClient:
        if connect.version == 4:
            connect = replace(connect, properties=None)
        try:
            async with asyncio.timeout(self._call_seconds):
                stream = await self._stream(where)
        except TimeoutError as error:
            raise UnreachableError(
                f"could not reach {self._what} at {where}: no answer in {self._call_seconds:.0f} s."
            ) from error
        except (OSError, ssl.SSLError) as error:
            raise UnreachableError(f"could not reach {self._what} at {where}: {reason(error)}") from error
        client = MqttClient(stream, connect, on_message, self._call_seconds, self._what)
        client.lost.add_done_callback(lambda _: self._counter.closed())  # its descriptor holds the line open, too
        begun = False
        try:
            await client.begin()
            begun = True
            return client
        except UnreachableError as error:
            # A broker of 3.1.1 may hang up on a CONNECT of MQTT 5 instead of refusing it.
            if other and "closed it" in str(error):
                raise VersionRefusedError(str(error)) from error
            raise
        finally:
            if not begun:
                self._counter.closed()
                await client.closed()

    async def lost(self) -> str:
        """Return when the connection is lost, with a sentence why."""
        if self._client is None:
            return f"the connection to {self._what} was closed."
        return f"the connection to {self._what} was lost: {await asyncio.shield(self._client.lost)}."

    @property
    def ending(self) -> int:
        """The code with which the broker ended the connection (MQTT 5), else 0."""
        return 0 if self._client is None else self._client.ending

    @property
    def hung_up(self) -> bool:
        """Whether the other end closed the connection without a word."""
        client = self._client
        return client is not None and client.lost.done() and "closed it" in client.lost.result()

    def wire(self) -> tuple[int, int]:
        """Bytes received and sent since this object was made."""
        return self._counter.total()

    async def close(self, code: int = 0) -> None:
        """Say goodbye and close; never raises."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(ModelsyncError):
                client.end(code)
            # What was written goes out; then nothing of it is left.
            await asyncio.sleep(0)
            self._counter.closed()
            await client.closed()

    # Streams

    async def _stream(self, where: Endpoint) -> Stream:
        context = self._context() if where.tls else None
        if context is not None and where.alpn is not None:
            context.set_alpn_protocols([where.alpn])
        if where.path is not None:
            from modelsync_daemon.control.websocket import open_websocket  # awake only where it is used

            web = await open_websocket(where.host, where.port, where.path, context, self._settings.proxy)
            self._counter.opened(web.socket)
            return web
        reader, writer = await self._open(where, context)
        stream = TcpStream(reader, writer)
        self._counter.opened(stream.socket)
        return stream

    async def _open(
        self, where: Endpoint, context: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = (where.name or where.host) if context is not None else None
        if not self._settings.proxy:
            return await asyncio.open_connection(where.host, where.port, ssl=context, server_hostname=name)
        parts = urlsplit(self._settings.proxy)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            request = f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n"
            if parts.username is not None:
                secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
                request += f"Proxy-Authorization: Basic {base64.b64encode(secret).decode()}\r\n"
            writer.write(f"{request}\r\n".encode())
            answer = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode("latin-1")
            if answer.split(" ")[1:2] != ["200"]:
                raise UnreachableError(f"the proxy does not let this device through ({answer[:80]}).")
            if context is not None:
                await writer.start_tls(context, server_hostname=name)
            return reader, writer
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            writer.transport.abort()
            raise UnreachableError("the proxy does not answer as an HTTP proxy.") from error
        except BaseException:
            writer.transport.abort()
            raise

    def _context(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cadata=settings.read_ca())
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(f"the setting ca holds no certificates ({reason(error)}).") from error
        if settings.x509_cert is not None and settings.x509_key is not None:
            try:
                context.load_cert_chain(settings.x509_cert, settings.x509_key)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(
                    f"the certificate of x509_cert and x509_key can't be used ({reason(error)})."
                ) from error
        return context


class _Counter:
    """Adds up the bytes of successive sockets. A duplicate of the descriptor outlives what the transport closes."""

    def __init__(self) -> None:
        self._current: socket.socket | None = None
        self._done = (0, 0)

    def opened(self, connection: Any) -> None:
        self.closed()
        try:
            self._current = socket.socket(fileno=os.dup(connection.fileno()))
        except OSError as error:
            raise LocalError(f"no descriptor is left ({error.strerror}).") from error

    def total(self) -> tuple[int, int]:
        received, sent = tcp_info.carried(self._current) if self._current is not None else (0, 0)
        return self._done[0] + received, self._done[1] + sent

    def closed(self) -> None:
        if self._current is not None:
            self._done = self.total()
            self._current.close()
            self._current = None
