"""A gateway's visits to the origin: one at a time each, and gone on with while children ask for more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from modelsync_daemon.transfer.origin_client import Origin

MOST = 4
"""Visits at the same time."""

_IDLE_SECONDS = 10.0
"""So long a connection is kept: a child asks for hundreds of ranges, and a handshake costs more than some of them."""

Open = Callable[[], AbstractAsyncContextManager[Origin]]
"""A visit to the origin, with this device's access to it and its limits."""


@dataclass(slots=True)
class _Kept:
    url: str | None
    origin: Origin
    stack: AsyncExitStack
    end: asyncio.Task[None] | None = None


class Lines:
    """`begin` begins a visit to the origin at `url()`; who wants one waits while MOST are under way."""

    def __init__(self, url: Callable[[], str | None], begin: Open) -> None:
        self._url, self._begin = url, begin
        self._few = asyncio.Semaphore(MOST)
        self._kept: list[_Kept] = []

    @contextlib.asynccontextmanager
    async def visit(self) -> AsyncIterator[Origin]:
        """An origin that nobody else uses meanwhile; dropped if what is done with it fails."""
        async with self._few:
            line = await self._take()
            try:
                yield line.origin
            except BaseException:
                await line.stack.aclose()
                raise
            line.end = asyncio.ensure_future(self._expire(line))
            self._kept.append(line)

    async def close(self) -> None:
        """Close what nobody uses."""
        for line in list(self._kept):
            if line.end is not None:
                line.end.cancel()
            await line.stack.aclose()
        self._kept.clear()

    async def _take(self) -> _Kept:
        while self._kept:
            line = self._kept.pop()
            if line.end is not None:
                line.end.cancel()
            if line.url == self._url():
                return line
            await line.stack.aclose()
        stack = AsyncExitStack()
        return _Kept(self._url(), await stack.enter_async_context(self._begin()), stack)

    async def _expire(self, line: _Kept) -> None:
        await asyncio.sleep(_IDLE_SECONDS)
        self._kept.remove(line)
        await line.stack.aclose()
