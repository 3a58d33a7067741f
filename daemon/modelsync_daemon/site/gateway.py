"""A parent's side: answers its children as their origin would, and asks the real origin only for what is not here yet.

It passes objects through and keeps them; it verifies nothing and knows no model. Children name it as their origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from weakref import WeakValueDictionary

from aiohttp import web

from modelsync_daemon.disk.spool import Entry, Spool
from modelsync_daemon.site import server
from modelsync_daemon.site.lines import Lines, Open
from modelsync_daemon.site.server import Sent
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_daemon.trust.resolved import ObjectMissing
from modelsync_protocol import caps, site
from modelsync_protocol.errors import FormatError, ModelsyncError
from modelsync_protocol.site import target_of

_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{0,19})")
_BLOCK_BYTES = 64 * 1024
_MOST_MISSING = 4096
"""What the origin does not have is remembered: for a while, and for when it can't be asked."""

_MISSING_SECONDS = 10.0
"""So long it is not asked again for what it does not have, however many children ask."""

_RETRY_SECONDS = "30"
_log = logging.getLogger(__name__)


class Gateway:
    """Answers children. `open_origin` begins a visit to the origin at `url()`, `count` is told what children cost."""

    def __init__(
        self, spool: Spool, url: Callable[[], str | None], open_origin: Open, count: Callable[[int, int], None]
    ) -> None:
        self._spool, self._url, self._count = spool, url, count
        self._lines = Lines(url, open_origin)
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._missing: dict[str, float] = {}

    async def stop(self) -> None:
        """End what is under way."""
        for task in self._pulls.values():
            task.cancel()
        await asyncio.gather(*self._pulls.values(), return_exceptions=True)
        await self._lines.close()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request of a child."""
        path, url, sent = request.path.removeprefix("/"), self._url(), Sent()
        target = target_of(path, url or "")
        if request.method not in ("GET", "HEAD") or url is None or not site.is_target(target):
            return web.Response(status=404)
        try:
            if site.is_mutable(path):
                return await self._small(request, path, target, sent)
            return await self._object(request, path, target, sent)
        except ObjectMissing:
            return web.Response(status=404)
        except ModelsyncError as error:
            if target in self._missing:
                return web.Response(status=404)
            _log.warning("a child's %s can't be had: %s", path, error)
            return web.Response(status=503, headers={"Retry-After": _RETRY_SECONDS})
        except ConnectionError:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        finally:
            self._count(server.length(request), sent.total)

    def _lock(self, target: str) -> asyncio.Lock:
        return self._locks.setdefault(target, asyncio.Lock())  # kept while somebody holds it

    @contextlib.asynccontextmanager
    async def _visit(self, target: str) -> AsyncIterator[Origin]:
        """The origin, to be asked for an object; ObjectMissing if it said lately, or says, that there is none."""
        if time.monotonic() < self._missing.get(target, float("-inf")) + _MISSING_SECONDS:
            raise ObjectMissing(f"the origin has no {target}.")
        try:
            async with self._lines.visit() as origin:
                yield origin
        except ObjectMissing:
            if len(self._missing) >= _MOST_MISSING:
                self._missing.clear()
            self._missing[target] = time.monotonic()
            raise
        self._missing.pop(target, None)

    async def _small(self, request: web.Request, path: str, target: str, sent: Sent) -> web.StreamResponse:
        """What changes in a store: as the origin has it, or as it was last seen if that can't be reached."""
        async with self._lock(target):
            entry = self._spool.open(target)
            kept = None
            if entry is not None:
                with entry:
                    view = entry.view()
                    kept = entry.read(0, view.size or 0) if view.whole else None
                    fresh = 0 <= time.time() - entry.begun <= site.MUTABLE_SECONDS
                    if kept is not None and fresh:
                        return self._whole(request, kept, sent)
            try:
                async with self._visit(target) as origin:
                    data = await origin.get(path, caps.MAX_MANIFEST_BYTES)
            except ObjectMissing:
                raise
            except ModelsyncError:
                if kept is None:
                    raise
                return self._whole(request, kept, sent)  # its own expiry says whether it is still believed
            self._spool.put(target, data)
            return self._whole(request, data, sent)

    def _whole(self, request: web.Request, data: bytes, sent: Sent) -> web.Response:
        sent.total += len(data)
        return web.Response(body=data, headers={"Cache-Control": "no-cache"})

    async def _object(self, request: web.Request, path: str, target: str, sent: Sent) -> web.StreamResponse:
        async with self._lock(target):
            size = await self._size(path, target)
        begin, end = asked(request.headers.get("Range", ""), size)
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(size)})
        if begin >= end > 0 or begin > size:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
        first, last = begin // _BLOCK_BYTES, -(-end // _BLOCK_BYTES)  # many small ranges would be dear to keep in mind
        self._fetch(path, target, first * _BLOCK_BYTES, min(size, last * _BLOCK_BYTES), size)
        entry = await self._opened(target, begin, end)
        if entry is None:
            raise FormatError("there is no room for it; raise site_cache_bytes.")
        with entry:
            ranged = "Range" in request.headers
            response = web.StreamResponse(status=206 if ranged else 200)
            response.content_length = end - begin
            if ranged:
                response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
            await response.prepare(request)
            await server.send(request, response, entry, begin, end, sent)
            return response

    async def _size(self, path: str, target: str) -> int:
        entry = self._spool.open(target)
        if entry is not None:
            with entry:
                known = entry.view().size
                if known is not None:
                    return known
        async with self._visit(target) as origin:
            size = await origin.size(path)
            if size is None:
                raise ObjectMissing(f"the origin has no {path}.")
        writer = self._spool.write(target)
        if writer is not None:  # or each child would have it asked again
            writer.size(size)
            writer.close()
        return size

    async def _opened(self, target: str, begin: int, end: int) -> Entry | None:
        """The entry, once it has the first byte that is wanted or its fetching has begun; None if it has failed."""
        while True:
            entry = self._spool.open(target)
            if entry is not None:
                view = entry.view()
                if begin == end or view.available(begin) or (entry.growing() and view.coming(begin)):
                    return entry
                entry.close()
            task = self._pulls.get(target)
            if task is None or task.done():
                if task is not None and task.exception() is not None:
                    raise ModelsyncError(str(task.exception()))
                entry = self._spool.open(target)
                if entry is not None and not entry.view().available(begin):
                    entry.close()
                    return None
                return entry
            await asyncio.sleep(0.02)

    def _fetch(self, path: str, target: str, begin: int, end: int, size: int) -> None:
        """See that the range comes, behind what else is being fetched of the object."""
        before = self._pulls.get(target)
        task = asyncio.ensure_future(self._pull(path, target, begin, end, size, before))
        self._pulls[target] = task
        task.add_done_callback(lambda done: self._forget(target, done))

    def _forget(self, target: str, done: asyncio.Task[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            _log.warning("a child's object is not here: %s", done.exception())
        if self._pulls.get(target) is done and not done.cancelled() and done.exception() is None:
            del self._pulls[target]

    async def _pull(
        self, path: str, target: str, begin: int, end: int, size: int, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        at = begin + self._here(target, begin)
        if at >= end:
            return
        writer = self._spool.write(target)
        if writer is None:
            raise FormatError("the disk does not take it.")
        try:
            async with self._visit(target) as origin:
                writer.size(size)
                writer.plan(at, end)
                body = origin.open(path, at, end, whole=end == size)
                while at < end:
                    data = await body.read(min(_BLOCK_BYTES, end - at))
                    if not writer.write(at, data):
                        raise FormatError("there is no room for it; raise site_cache_bytes.")
                    at += len(data)
            await asyncio.to_thread(writer.settle, durable=True)  # a slow disk holds up no other child
        finally:
            writer.close()

    def _here(self, target: str, begin: int) -> int:
        entry = self._spool.open(target)
        if entry is None:
            return 0
        with entry:
            return entry.view().available(begin)


def asked(text: str, size: int) -> tuple[int, int]:
    """Begin and end of what a Range header asks for of an object; all of it if it is none that we read."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return 0, size
    begin = int(match[1])
    return begin, min(size, int(match[2]) + 1) if match[2] else size
