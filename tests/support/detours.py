"""Other ways to a hub for tests: an HTTP CONNECT proxy that counts and cuts, and a WebSocket front on port 443."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web


class ConnectProxy:
    """Tunnels CONNECT, and forwards one plain request a connection. `user` (`name:password`) is demanded if given."""

    def __init__(self, user: str | None = None) -> None:
        self.targets: list[str] = []
        self.refused = 0
        self._user = user
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Reset every tunnel."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target = head.split()[:2]
            wanted = None if self._user is None else base64.b64encode(self._user.encode()).decode()
            if wanted and f"basic {wanted}".lower() not in head.lower():
                self.refused += 1
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            self.targets.append(target)
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                far_reader, far_writer = await asyncio.open_connection(host, int(port))
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:  # a plain request, with the whole URL in it
                parts = urlsplit(target)
                far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
                head = head.replace(target, parts.path, 1).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
                far_writer.write(head.encode())
            self._writers |= {writer, far_writer}
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        except (OSError, asyncio.IncompleteReadError, ValueError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.close()


@asynccontextmanager
async def connect_proxy(user: str | None = None) -> AsyncIterator[tuple[ConnectProxy, int]]:
    """A proxy and its port on 127.0.0.1."""
    proxy = ConnectProxy(user)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        yield proxy, server.sockets[0].getsockname()[1]
        proxy.cut()


@asynccontextmanager
async def websocket_front(host: str, context: ssl.SSLContext, port: int, ca: str) -> AsyncIterator[list[str]]:
    """MQTT over WebSockets on `host`:443, passed on to the hub's MQTT port; yields the paths that were asked for."""
    paths: list[str] = []
    inner = ssl.create_default_context(cadata=ca)

    async def handle(request: web.Request) -> web.WebSocketResponse:
        paths.append(request.path)
        socket = web.WebSocketResponse(protocols=("mqtt",))
        await socket.prepare(request)
        reader, writer = await asyncio.open_connection(host, port, ssl=inner)

        async def down() -> None:
            while data := await reader.read(65536):
                await socket.send_bytes(data)
            await socket.close()

        task = asyncio.ensure_future(down())
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                writer.write(message.data)
        task.cancel()
        writer.close()
        return socket

    application = web.Application()
    application.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, 443, ssl_context=context).start()
    try:
        yield paths
    finally:
        await runner.cleanup()
