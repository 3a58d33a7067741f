"""A front before an S3 that misbehaves on purpose: it drops headers on the way, or answers by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

Answer = Callable[[web.Request], web.StreamResponse | None]


class LyingFront:
    """An async context manager; `url` is its endpoint, `requests` are (method, path with query) of what came.

    `drops`: request headers that never arrive. `answer`: gives an answer instead of asking the server, or None.
    """

    def __init__(self, server: str, drops: Iterable[str] = (), answer: Answer | None = None) -> None:
        self.requests: list[tuple[str, str]] = []
        self.drops = {name.lower() for name in drops}
        self.answer = answer
        self.url = ""
        self._server = server
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(application)

    async def __aenter__(self) -> LyingFront:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path))
        if self.answer is not None and (found := self.answer(request)) is not None:
            return found
        headers = CIMultiDict(request.headers)
        for name in [name for name in headers if name.lower() in {*self.drops, "transfer-encoding"}]:
            headers.popall(name)
        url = URL(self._server + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=await request.read() or None, allow_redirects=False
        ) as answer:
            kept = CIMultiDict(answer.headers)
            for name in ("Transfer-Encoding", "Connection", "Content-Encoding", "Server", "Date"):
                kept.popall(name, None)
            if request.method != "HEAD":
                kept.popall("Content-Length", None)
            return web.Response(status=answer.status, headers=kept, body=await answer.read())
