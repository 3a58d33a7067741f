"""An origin for tests that records what it sent and misbehaves on demand. It serves a store's directory over HTTP."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from aiohttp import web

_SEND_BUFFER = 32 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(slots=True)
class Exchange:
    """One request as it came, and how many body bytes were sent in answer."""

    method: str
    path: str
    range: str | None
    sent: int = 0
    cookies: str = ""


@dataclass(slots=True)
class Answer:
    """What is about to be sent; a fault changes it. `stop_after`: reset the line after so many body bytes."""

    status: int
    body: bytes
    headers: dict[str, str]
    stop_after: int | None = None
    drip: float = 0.0
    """Seconds between pieces of 1 KiB."""


Fault = Callable[[Exchange, Answer, bytes], Awaitable[Answer] | Answer]
"""`fault(exchange, honest answer, whole object)` → the answer to send."""


class ScriptedOrigin:
    """Serves `store`; `fault` (None: honest) may change every answer. `exchanges` holds what happened.

    Most tests are about the transfer of objects, of which a small one would come inside a parcel: it has no parcels
    unless it is told to. `small_buffer`: the kernel keeps little of what is sent, and waits for acknowledgements.
    `tls`: it speaks HTTPS with this context.
    """

    def __init__(
        self, store: Path, *, parcels: bool = False, small_buffer: bool = True, tls: ssl.SSLContext | None = None
    ) -> None:
        self._store = store
        self._parcels, self._small_buffer, self._tls = parcels, small_buffer, tls
        self.exchanges: list[Exchange] = []
        self.fault: Fault | None = None
        self.port = 0
        self._transports: set[asyncio.Transport | None] = set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """From how many connections requests came."""
        return len(self._transports)

    @property
    def body_bytes(self) -> int:
        """Bytes of all bodies sent so far."""
        return sum(exchange.sent for exchange in self.exchanges)

    def objects(self) -> list[str]:
        """Paths of what was fetched below manifests/, packs/ and updates/, in order; questions for a size are none."""
        kinds = ("manifests", "packs", "updates")
        return [e.path for e in self.exchanges if e.path.split("/")[0] in kinds and e.method == "GET"]

    def object_bytes(self) -> int:
        """Body bytes sent of those."""
        kinds = ("manifests", "packs", "updates")
        return sum(e.sent for e in self.exchanges if e.path.split("/")[0] in kinds and e.method == "GET")

    async def __aenter__(self) -> ScriptedOrigin:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        # What lies in our buffer when a device dies would count as sent, though no line of the field holds megabytes.
        if self._small_buffer:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        await web.SockSite(self._runner, listening, ssl_context=self._tls).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._transports.add(request.transport)
        exchange = Exchange(request.method, request.match_info["path"], request.headers.get("Range"))
        exchange.cookies = request.headers.get("Cookie", "")
        self.exchanges.append(exchange)
        path = self._store / exchange.path
        hidden = not self._parcels and exchange.path.startswith("bundles/") and "." in exchange.path
        found = path.is_file() and not hidden
        whole = path.read_bytes() if found else b""
        answer = self._honest(exchange, whole) if found else Answer(404, b"", {})
        if self.fault is not None:
            changed = self.fault(exchange, answer, whole)
            answer = await changed if isinstance(changed, Awaitable) else changed
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        if "Content-Length" not in answer.headers and "Transfer-Encoding" not in answer.headers:
            response.content_length = len(answer.body)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        body = answer.body if answer.stop_after is None else answer.body[: answer.stop_after]
        step = 1024 if answer.drip else 65536
        for start in range(0, len(body), step):
            await response.write(body[start : start + step])
            exchange.sent += len(body[start : start + step])
            await asyncio.sleep(answer.drip)
        if answer.stop_after is not None and request.transport is not None:
            await asyncio.sleep(0.05)
            request.transport.abort()
        return response

    def _honest(self, exchange: Exchange, whole: bytes) -> Answer:
        headers = {"ETag": f'"{len(whole)}-{hash(exchange.path) & 0xFFFF}"'}
        match = _RANGE.fullmatch(exchange.range or "")
        if not match:
            return Answer(200, whole, headers)
        first, last = int(match[1]), min(int(match[2] or len(whole)), len(whole) - 1)
        if first >= len(whole):
            return Answer(416, b"", {"Content-Range": f"bytes */{len(whole)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(whole)}"
        return Answer(206, whole[first : last + 1], headers)
