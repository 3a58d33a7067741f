"""HTTP for neighbours: objects as far as they are here, while they come too, and who fetches what. Read-only.

It promises nothing of what it sends: whoever asks verifies. Everything is bounded: questions, connections, waiting.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from modelsync_daemon.disk.spool import Entry, Spool
from modelsync_daemon.site.leases import Leases
from modelsync_protocol import site
from modelsync_protocol.errors import FormatError, LocalError
from modelsync_protocol.site import Question, Verb
from modelsync_protocol.twin import MAX_PEERS

_BLOCK_BYTES = 64 * 1024
_LOOK_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 15.0
"""So long an object that comes is waited for without a new byte."""

_LONGEST_SEND_SECONDS = 30.0
_MOST_AT_ONCE, _MOST_OF_ONE = 64, 8
_MOST_QUESTIONS = 40.0
"""Questions a second from one address, in the mean over _BURST_SECONDS."""

_BURST_SECONDS = 10.0
_HEAD_BYTES = 120
"""An answer's status line and headers, about."""

_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{1,19})")

Elsewhere = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""Answers what is no neighbour's request (a gateway's children ask as of an origin)."""

Site = Callable[[], "tuple[str, str] | None"]
"""The site's name and this device's address in it; None while it does without."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Sent:
    """Bytes of one answer, so far."""

    total: int = _HEAD_BYTES
    wanted: Callable[[], bool] = lambda: True
    """Whether who asked may still have it."""


class SiteServer:
    """Serves `spool` on `host`:`port`. `count(received, sent)` is told of bytes that neighbours cost."""

    def __init__(
        self,
        spool: Spool,
        now: Site,
        count: Callable[[int, int], None],
        context: ssl.SSLContext | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._spool, self._now, self._count = spool, now, count
        self._context, self._elsewhere = context, elsewhere
        self.leases = Leases()
        self._sending: Counter[str] = Counter()
        self._asked: dict[str, tuple[float, float]] = {}
        self._runner: web.AppRunner | None = None
        self._listening = ("", 0)

    async def rekey(self, context: ssl.SSLContext) -> None:
        """Speak with who has the key of `context` from now on, and with nobody else: all connections are closed."""
        self._context = context
        await self.stop()
        try:
            await self.start(*self._listening)
        except LocalError as error:
            _log.error("%s Until then no neighbour is served.", error)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises LocalError."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        app.on_response_prepare.append(_short)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=0.5, keepalive_timeout=15, max_line_size=1024
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, ssl_context=self._context, backlog=64).start()
        except OSError as error:
            await self.stop()
            raise LocalError(
                f"neighbours can't be served on {host}:{port} ({error.strerror}); change site_address."
            ) from error
        self._listening = (host, int(self._runner.addresses[0][1]))
        return self._listening[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = request.headers.get(site.NAME_HEADER)
        if name is None and self._elsewhere is not None:
            return await self._as_child(request, self._elsewhere)
        now = self._now()
        known = self._context is None or (request.transport and request.transport.get_extra_info("peercert"))
        if not known or now is None or name != now[0] or request.method != "GET" or request.remote is None:
            return web.Response(status=404)  # another site's, or nobody's business
        sent = Sent(wanted=lambda: (still := self._now()) is not None and still[0] == name)
        own = request.remote == now[1].rpartition(":")[0].strip("[]")
        try:
            response = (
                self._question(request) if request.path == f"/{site.LEASE_PATH}" else await self._limited(request, sent)
            )
        except ConnectionError:  # it is nobody's business any more
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        finally:
            if not own:  # to oneself costs nobody anything
                self._count(length(request), sent.total)
        return response

    def _question(self, request: web.Request) -> web.Response:
        assert request.remote is not None
        if not self._allowed(request.remote):
            return web.Response(status=429)
        try:
            question = site.parse_question(request.query)
            asker = site.address(request.remote, question.port)
        except (FormatError, ValueError):
            return web.Response(status=400)
        now = self._now()
        if (
            now is not None and question.verb is Verb.WANT and self._spool.holds(question.key)
        ):  # of before a restart, say
            self.leases.take(Question(Verb.DONE, question.key, question.port), now[1])
        holder = self.leases.take(question, asker)
        if question.verb is not Verb.WANT:
            return web.Response(status=204)
        return web.Response(body=site.encode_answer(holder))

    def _allowed(self, remote: str) -> bool:
        """Whether `remote` keeps to a bearable number of questions (a leaky bucket)."""
        now = time.monotonic()
        level, at = self._asked.get(remote, (0.0, now))
        level = max(0.0, level - (now - at) * _MOST_QUESTIONS) + 1
        if len(self._asked) > 4 * MAX_PEERS:
            self._asked.clear()
        fits = level <= _MOST_QUESTIONS * _BURST_SECONDS
        self._asked[remote] = (level if fits else level - 1, now)
        return fits

    async def _as_child(self, request: web.Request, answer: Elsewhere) -> web.StreamResponse:
        """A gateway's child, within the same bounds as a neighbour."""
        remote = str(request.remote)
        if self._sending[remote] >= _MOST_OF_ONE or self._sending.total() >= _MOST_AT_ONCE:
            return web.Response(status=503, headers={"Retry-After": "1"})
        self._sending[remote] += 1
        try:
            return await answer(request)
        finally:
            self._sending[remote] -= 1
            self._sending += Counter()

    async def _limited(self, request: web.Request, sent: Sent) -> web.StreamResponse:
        remote = str(request.remote)
        if self._sending[remote] >= _MOST_OF_ONE or self._sending.total() >= _MOST_AT_ONCE:
            return web.Response(status=503)
        self._sending[remote] += 1
        try:
            return await self._object(request, sent)
        finally:
            self._sending[remote] -= 1
            self._sending += Counter()  # drop those at zero

    async def _object(self, request: web.Request, sent: Sent) -> web.StreamResponse:
        target = request.path_qs.removeprefix("/")
        entry = self._spool.open(target) if site.is_target(target) else None
        if entry is None:
            return web.Response(status=404)
        with entry:
            if "?" in target and not -1 <= time.time() - entry.begun <= site.MUTABLE_SECONDS:
                return web.Response(status=404)
            if "Range" not in request.headers:
                return await send_whole(request, entry, sent)
            match = _RANGE.fullmatch(request.headers["Range"])
            if match is None or int(match[1]) > int(match[2]):
                return web.Response(status=416)
            return await send_range(request, entry, int(match[1]), int(match[2]) + 1, sent)


async def send_whole(request: web.Request, entry: Entry, sent: Sent) -> web.StreamResponse:
    """An object whose length the asker doesn't know: once it is here whole."""
    until = time.monotonic() + _LONGEST_WAIT_SECONDS
    while not entry.view().whole:
        over = entry.gone() or not entry.growing() or time.monotonic() > until
        if over and not entry.view().whole:  # its writer may just have ended
            return web.Response(status=404)
        await asyncio.sleep(_LOOK_SECONDS)
    size = entry.view().size or 0
    response = web.StreamResponse(status=200)
    response.content_length = size
    await response.prepare(request)
    await send(request, response, entry, 0, size, sent)
    return response


async def send_range(request: web.Request, entry: Entry, begin: int, end: int, sent: Sent) -> web.StreamResponse:
    """A range, of which some may still be on its way; 404 if it is not."""
    view = entry.view()
    if not view.available(begin) and not (entry.growing() and view.coming(begin)):
        return web.Response(status=404)
    response = web.StreamResponse(status=206)
    response.content_length = end - begin
    response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{'*' if view.size is None else view.size}"
    await response.prepare(request)
    await send(request, response, entry, begin, end, sent)
    return response


async def send(
    request: web.Request, response: web.StreamResponse, entry: Entry, begin: int, end: int, sent: Sent
) -> None:
    """Send what is here, and wait for what comes; if nothing comes any more, the connection ends."""
    moved = time.monotonic()
    while begin < end:
        if not sent.wanted():
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("who asked is no neighbour any more")
        view = entry.view()
        count = min(view.available(begin), end - begin, _BLOCK_BYTES)
        if count:
            try:
                async with asyncio.timeout(_LONGEST_SEND_SECONDS):
                    await response.write(entry.read(begin, count))
            except TimeoutError:
                raise ConnectionResetError("nobody reads") from None
            sent.total += count
            begin, moved = begin + count, time.monotonic()
            continue
        over = time.monotonic() - moved > _LONGEST_WAIT_SECONDS
        if over or entry.gone() or not entry.growing() or not view.coming(begin):
            if not over and entry.view().available(begin):  # its writer may just have ended
                continue
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("what was on its way does not come")
        await asyncio.sleep(_LOOK_SECONDS)
    await response.write_eof()


async def _short(_: web.Request, response: web.StreamResponse) -> None:
    """Leave out what no neighbour reads."""
    for name in ("Server", "Date", "Content-Type"):
        response.headers.pop(name, None)


def length(request: web.Request) -> int:
    """A request's bytes, about."""
    return sum(len(name) + len(value) + 4 for name, value in request.raw_headers) + len(request.path_qs) + 16
