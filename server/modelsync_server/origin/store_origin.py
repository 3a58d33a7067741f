"""The origin over any store: proxies what is small out of a bucket, and may send readers of much to the bucket itself.

The bucket stays private and devices need no secret. Who is sent away gets a URL that is signed for one object and some
minutes; a download that outlasts it resumes here, and is sent on with a new one. No sockets here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, runtime_checkable

from aiohttp import ClientConnectionResetError, web

from modelsync_protocol.errors import ModelsyncError, UnreachableError, UsageError
from modelsync_server.origin import http_rules
from modelsync_server.origin.http_rules import KEPT_OBJECT_BYTES, PIECE_SECONDS, Part
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.port import cache_control, changes

PIECE_BYTES = 1 << 20
"""So much is asked of the store at once; a reader costs twice that, since the next piece comes while one leaves."""

KEPT_BYTES = 64 << 20
"""Objects of up to KEPT_OBJECT_BYTES are kept in memory up to so much: a fleet asks for the same ones."""

KEPT_SIZES = 65_536
FRESH_SECONDS = 1.0
"""So long what changes is answered from memory: that bounds what a fleet asks of the store."""

_BUSY_SECONDS = "5"
_LOG = logging.getLogger(__name__)


@runtime_checkable
class Signing(Protocol):
    """A store that can sign URLs for others."""

    async def signed_url(self, path: str, lifetime: timedelta) -> str:
        """A URL by which anybody may read this one object until `lifetime` is over."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Parts of at least `least` bytes are read at the bucket, by URLs that are good for `lifetime`."""

    least: int
    lifetime: timedelta


class StoreOrigin:
    """Answers over `store`; UsageError if `redirect` is asked of a store that can't sign."""

    def __init__(self, store: Store, redirect: Redirect | None = None) -> None:
        if redirect is not None and not isinstance(store, Signing):
            raise UsageError(f"{store.url} can't sign URLs for devices: leave out --redirect-from.")
        self._store, self._redirect = store, redirect
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._changing: dict[str, tuple[float, bytes]] = {}
        self._asking: dict[str, asyncio.Future[bytes]] = {}

    def application(self) -> web.Application:
        """The aiohttp application; it sees later publishes by itself."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(http_rules.drop_needless_headers)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        path = http_rules.object_path(request)
        if path is None:
            return web.Response(status=404)
        try:
            return await self._answer(request, path)
        except ObjectNotFound:
            return web.Response(status=404)
        except ClientConnectionResetError:
            return web.Response(status=499)  # the client is gone: nobody reads this
        except UnreachableError as error:
            _LOG.warning("%s", error)
            return web.Response(status=503, headers={"Retry-After": _BUSY_SECONDS})
        except ModelsyncError as error:
            _LOG.error("%s", error)
            return web.Response(status=502)

    async def _answer(self, request: web.Request, path: str) -> web.StreamResponse:
        content = await self._small(path)
        size = self._sizes[path] if content is None else len(content)
        tag = http_rules.tag(path, size, content or b"")
        headers = {"ETag": tag, "Cache-Control": cache_control(path)}
        if http_rules.matches(request.headers.get("If-None-Match"), tag):
            return web.Response(status=304, headers=headers)
        away = await self._away(request, path, tag, size)
        if away is not None:
            return web.Response(status=307, headers={"Location": away})
        part = http_rules.part(request, size, tag)
        if part is None:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
        status = 206 if part.partial else 200
        if part.partial:
            headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{size}"
        if request.method == "GET" and content is not None:
            return web.Response(status=status, headers=headers, body=content[part.start : part.start + part.length])
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = part.length
        if request.method == "GET":
            await self._send(request, response, path, part)
        else:
            await response.prepare(request)
        return response

    async def _away(self, request: web.Request, path: str, tag: str, size: int) -> str | None:
        """Where to read this instead. Who began here goes on here, who began there, there: the tags differ."""
        if self._redirect is None or request.method != "GET" or changes(path):
            return None
        began = request.headers.get("If-Range")
        part = http_rules.part(request, size, tag) if began is None else None
        if began == tag or (began is None and (part is None or part.length < self._redirect.least)):
            return None
        assert isinstance(self._store, Signing)
        return await self._store.signed_url(path, self._redirect.lifetime)

    async def _send(self, request: web.Request, response: web.StreamResponse, path: str, part: Part) -> None:
        """Send the bytes in pieces, each within its time; the next comes from the store while one leaves."""
        pieces = [
            (start, min(PIECE_BYTES, part.start + part.length - start))
            for start in range(part.start, part.start + part.length, PIECE_BYTES)
        ]
        # The first is here before the status is said, so that a store that is away is told as such.
        data = await self._piece(path, *pieces[0]) if pieces else b""
        await response.prepare(request)
        transport = request.transport
        try:
            for number, (_, count) in enumerate(pieces):
                coming = None
                if number + 1 < len(pieces):
                    coming = asyncio.ensure_future(self._piece(path, *pieces[number + 1]))
                try:
                    async with asyncio.timeout(PIECE_SECONDS):
                        await response.write(data)
                    if len(data) != count:
                        raise ConnectionResetError
                    data = b"" if coming is None else await coming
                finally:
                    if coming is not None:
                        coming.cancel()
        except (ConnectionError, TimeoutError, ModelsyncError):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()  # never let the next answer be taken for the rest of this one

    async def _piece(self, path: str, start: int, count: int) -> bytes:
        return await self._store.get_range(path, start, count)

    async def _small(self, path: str) -> bytes | None:
        """The whole of an object that changes or is small; None for another, whose size is then known."""
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        now = asyncio.get_running_loop().time()
        if changes(path):
            kept = self._changing.get(path)
            if kept is not None and now - kept[0] < FRESH_SECONDS:
                return kept[1]
        elif self._sizes.get(path, 0) > KEPT_OBJECT_BYTES:
            self._sizes.move_to_end(path)
            return None
        # One asks for all: a fleet's devices come at the same second.
        asking = self._asking.get(path)
        if asking is None:
            asking = self._asking[path] = asyncio.ensure_future(self._asked(path))
            asking.add_done_callback(lambda _: self._asking.pop(path, None))
        data = await asyncio.shield(asking)
        return None if self._sizes.get(path, 0) > KEPT_OBJECT_BYTES else data

    async def _asked(self, path: str) -> bytes:
        """Read an object, or only its size if it is large, and keep what may be asked for again."""
        if changes(path):
            data = await self._store.get(path)
            if len(self._changing) >= KEPT_SIZES:
                self._changing.clear()
            self._changing[path] = (asyncio.get_running_loop().time(), data)
            return data
        size = (await self._store.stat(path)).size
        if size > KEPT_OBJECT_BYTES:
            self._sizes[path] = size
            if len(self._sizes) > KEPT_SIZES:
                self._sizes.popitem(last=False)
            return b""
        data = await self._store.get(path)
        self._kept[path] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return data
