"""A neighbour that lies: a real server that claims to have whatever it is asked for, and then does as its kind does."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType

from aiohttp import web

from modelsync_protocol import site
from tests.support.addresses import free_port

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")

Lie = Callable[["Liar", web.Request, bytes, int, int], Awaitable[web.StreamResponse]]
"""`lie(liar, request, true bytes of the whole object, begin, end)` → what it answers."""

Talk = Callable[["Liar", web.Request], Awaitable[web.StreamResponse]]
"""`talk(liar, request)` → what it answers when it is asked who fetches an object."""


class Liar:
    """Knows the store it lies about. `asked` are the objects that it was asked for, `sent` the bytes that it sent.

    Asked who fetches an object it names itself, or `talk` answers.
    """

    def __init__(self, store: Path, lie: Lie, talk: Talk | None = None) -> None:
        self._store, self._lie, self._talk = store, lie, talk
        self.port = free_port()
        self.asked: list[str] = []
        self.questions = 0
        self.sent = 0
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """As neighbours call it."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Liar:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == f"/{site.LEASE_PATH}":
            self.questions += 1
            if self._talk is not None:
                return await self._talk(self, request)
            return web.Response(body=site.encode_answer(self.address))
        self.asked.append(request.match_info["path"])
        path = self._store / request.match_info["path"]
        whole = path.read_bytes() if path.is_file() else b"?" * 4096
        match = _RANGE.fullmatch(request.headers.get("Range", ""))
        begin, end = (int(match[1]), int(match[2]) + 1) if match else (0, len(whole))
        return await self._lie(self, request, whole, begin, end)

    async def send(
        self, request: web.Request, body: bytes, begin: int, end: int, *, pause: float = 0.0, piece: int = 65536
    ) -> web.StreamResponse:
        """Answer with `body`, in pieces."""
        ranged = "Range" in request.headers
        response = web.StreamResponse(status=206 if ranged else 200)
        response.content_length = end - begin
        if ranged:
            response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/*"
        await response.prepare(request)
        for at in range(0, len(body), piece):
            await response.write(body[at : at + piece])
            self.sent += len(body[at : at + piece])
            await asyncio.sleep(pause)
        return response


async def garbage(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """As many bytes as were asked for, of something else."""
    body = bytes((byte * 31 + 7) & 0xFF for byte in range(256)) * ((end - begin) // 256 + 1)
    return await liar.send(request, body[: end - begin], begin, end)


async def flipped(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """The right bytes but one in the middle."""
    body = bytearray(whole[begin:end])
    body[len(body) // 2] ^= 0x55
    return await liar.send(request, bytes(body), begin, end)


async def headless(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """The right bytes but for the first hundred."""
    body = bytearray(whole[begin:end])
    body[:100] = b"\xa5" * min(100, len(body))
    return await liar.send(request, bytes(body), begin, end)


async def another(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """Another object of the same store, cut or filled to the right length."""
    folder = request.match_info["path"].partition("/")[0]
    others = [p for p in (liar._store / folder).rglob("*") if p.is_file() and p.read_bytes() != whole]
    other = others[0].read_bytes() if others else b""
    return await liar.send(request, other.ljust(end, b"\0")[begin:end], begin, end)


async def silent(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """Takes the question and never answers."""
    await asyncio.sleep(60)
    return web.Response(status=503)


async def stalled(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """Sends the first 5000 bytes, and then no more."""
    await liar.send(request, whole[begin : min(end, begin + 5000)], begin, end, pause=60)
    return web.Response()


async def dripping(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """The right bytes, 200 a second."""
    return await liar.send(request, whole[begin:end], begin, end, pause=0.1, piece=20)


async def empty_handed(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """It claimed to have it, and has it not."""
    return web.Response(status=404)


async def endless(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """Sends without end."""
    response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
    if "Range" in request.headers:
        response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/*"
    response.enable_chunked_encoding()
    await response.prepare(request)
    while True:
        await response.write(b"\xcc" * 65536)
        liar.sent += 65536


async def cut_short(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """Half of it, and then the line breaks."""
    response = await liar.send(request, whole[begin : begin + (end - begin) // 2], begin, end)
    if request.transport is not None:
        request.transport.abort()
    return response


async def other_range(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """Bytes from elsewhere in the object, and says so."""
    return await liar.send(request, whole[: end - begin], begin + 1, end + 1)


async def too_long(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """More than was asked for, as its length says."""
    return await _with_length(request, whole[begin:end] + b"\x3c" * 5000, begin, end)


async def too_short(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """Less than was asked for, as its length says."""
    return await _with_length(request, whole[begin : end - (end - begin) // 3], begin, end)


async def _with_length(request: web.Request, body: bytes, begin: int, end: int) -> web.StreamResponse:
    ranged = "Range" in request.headers
    headers = {"Content-Range": f"bytes {begin}-{end - 1}/*"} if ranged else {}
    return web.Response(status=206 if ranged else 200, body=body, headers=headers)


async def whole_instead(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """The whole object with status 200, whichever range was asked for."""
    return web.Response(body=whole + b"\x3c")


async def redirecting(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """Sends the asker elsewhere."""
    return web.Response(status=307, headers={"Location": f"http://{liar.address}/elsewhere"})


async def compressed(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """What was asked for, says the header, compressed: in truth a thousand times as much."""
    bomb = gzip.compress(bytes(1000 * (end - begin)), 9)[: end - begin].ljust(end - begin, b"\0")
    response = await _with_length(request, bomb, begin, end)
    response.headers["Content-Encoding"] = "gzip"
    return response


async def hanging_up(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """Closes the connection instead of an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def dripping_head(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """An answer whose headers come a byte at a time."""
    for byte in b"HTTP/1.1 206 Partial Content\r\n" + b"X: y\r\n" * 1000:
        if request.transport is None or request.transport.is_closing():
            break
        request.transport.write(bytes([byte]))
        await asyncio.sleep(0.2)
    return await hanging_up(liar, request, whole, begin, end)


async def endless_head(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """An answer whose headers have no end."""
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 206 Partial Content\r\n")
    while request.transport is not None and not request.transport.is_closing():
        request.transport.write(b"X: " + b"y" * 4000 + b"\r\n")
        liar.sent += 4000
        await asyncio.sleep(0.001)
    return await hanging_up(liar, request, whole, begin, end)


LIES: tuple[Lie, ...] = (
    garbage, flipped, headless, another, silent, stalled, dripping, empty_handed, endless, cut_short, other_range,
    too_long, too_short, whole_instead, redirecting, compressed, hanging_up, dripping_head, endless_head,
)  # fmt: skip


async def mute(liar: Liar, request: web.Request) -> web.StreamResponse:
    """Takes the question and never answers."""
    await asyncio.sleep(60)
    return web.Response(status=503)


async def babbling(liar: Liar, request: web.Request) -> web.StreamResponse:
    """An answer without end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"from " * 1000)
        await asyncio.sleep(0.1)


async def nonsense(liar: Liar, request: web.Request) -> web.StreamResponse:
    """An answer that is none."""
    return web.Response(body=b"from the moon")


async def strangers(liar: Liar, request: web.Request) -> web.StreamResponse:
    """Names an address that is no neighbour's: it would have others knock at doors of its choice."""
    return web.Response(body=site.encode_answer("127.0.0.1:9"))


async def yourself(liar: Liar, request: web.Request) -> web.StreamResponse:
    """Names who asks."""
    return web.Response(body=site.encode_answer(f"127.0.0.1:{request.query['p']}"))


async def sent_away(liar: Liar, request: web.Request) -> web.StreamResponse:
    """Sends the asker elsewhere for the answer."""
    return web.Response(status=302, headers={"Location": f"http://{liar.address}/elsewhere"})


TALKS: tuple[Talk, ...] = (mute, babbling, nonsense, strangers, yourself, sent_away)
