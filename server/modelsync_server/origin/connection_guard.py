"""Bounds what a server's connections may do without a request: how many there are, and how long they hold on.

Stands between asyncio and aiohttp's protocol, which waits for ever for a first request (the attack called slowloris).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """Of one server: at most `room` connections; a request's headers are complete within `header_seconds` of the
    connection's beginning, or within `idle_seconds` of the end of the request before."""

    def __init__(self, room: int, header_seconds: float, idle_seconds: float) -> None:
        self.room, self.header_seconds, self.idle_seconds = room, header_seconds, idle_seconds
        self.open: dict[asyncio.BaseTransport, _Guarded] = {}

    def protect(self, inner: asyncio.Protocol) -> asyncio.Protocol:
        """A protocol that hands everything on to `inner`, for as long as it keeps the rules."""
        return _Guarded(inner, self)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Add it to the application: headers are complete where it begins, and the answer is where it ends."""
        transport = request.transport
        guarded = None if transport is None else self.open.get(transport)
        if guarded is None:
            return await handler(request)
        guarded.wait(None)
        try:
            return await handler(request)
        finally:
            guarded.wait(self.idle_seconds)


class _Guarded(asyncio.Protocol):
    def __init__(self, inner: asyncio.Protocol, guard: Guard) -> None:
        self._inner, self._guard = inner, guard
        self._transport: asyncio.BaseTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, seconds: float | None) -> None:
        """End the connection after so many seconds; None: not at all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._guard.open) >= self._guard.room:
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
            return
        self._transport = transport
        self._guard.open[transport] = self
        self.wait(self._guard.header_seconds)
        self._inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is None:
            return
        self.wait(None)
        self._guard.open.pop(self._transport, None)
        self._transport = None
        self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._inner.resume_writing()
