"""A registry for tests: answers from a table, or as a real one was recorded; notes requests, misbehaves on demand."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    """With its query."""
    headers: dict[str, str]
    body: bytes

    @property
    def secret(self) -> str:
        """The credentials that came with it; empty: none."""
        return self.headers.get("Authorization", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. `cut`: the line is reset after so many bytes of the body."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None

    @classmethod
    def document(cls, value: Any, status: int = 200, **headers: str) -> Reply:
        """JSON."""
        return cls(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})


Fault = Callable[[Asked, Reply], Reply | None]
"""`fault(asked, honest reply)` → another reply, or None for the honest one."""


class SourceServer:
    """Answers `table[path with query]`, ranges of it too. `ranges`: whether it knows them. 404 for all else."""

    def __init__(self, table: dict[str, Reply] | None = None, host: str = "127.0.0.1") -> None:
        self.table = dict(table or {})
        self.asked: list[Asked] = []
        self.fault: Fault | None = None
        self.ranges = True
        self._host = host
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    def load(self, transcript: Path) -> Self:
        """Add what was recorded (see `Recorder`)."""
        for each in json.loads(transcript.read_text())["exchanges"]:
            body = each.get("text", "").encode() if "text" in each else base64.b64decode(each["base64"])
            key = each["path"] if each["method"] == "GET" else f"{each['method']} {each['path']}"
            self.table[key] = Reply(body, each["status"], each["headers"])
        return self

    def paths(self) -> list[str]:
        return [each.path for each in self.asked]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.method, request.raw_path, dict(request.headers), await request.read())
        self.asked.append(asked)
        key = asked.path if asked.method == "GET" else f"{asked.method} {asked.path}"
        reply = self.table.get(key) or (self.table.get(asked.path) if asked.method == "HEAD" else None)
        reply = reply or Reply.document({"message": "there is no such thing"}, 404)
        if self.fault is not None:
            reply = self.fault(asked, reply) or reply
        reply = self._ranged(asked, reply)
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        response.content_length = len(reply.body)
        await response.prepare(request)
        if asked.method != "HEAD":
            await response.write(reply.body if reply.cut is None else reply.body[: reply.cut])
        if reply.cut is not None:
            assert request.transport is not None
            request.transport.abort()
        return response

    def _ranged(self, asked: Asked, reply: Reply) -> Reply:
        wanted = _RANGE.fullmatch(asked.headers.get("Range", ""))
        if wanted is None or not self.ranges or reply.status != 200:
            return reply
        if asked.headers.get("If-Range", "") not in ("", reply.headers.get("ETag")):
            return reply
        begin = int(wanted[1])
        headers = {**reply.headers, "Content-Range": f"bytes {begin}-{len(reply.body) - 1}/{len(reply.body)}"}
        return replace(reply, body=reply.body[begin:], status=206, headers=headers)


_KEPT = ("Content-Type", "ETag", "Docker-Content-Digest", "Location", "WWW-Authenticate", "X-Repo-Commit")


class Recorder:
    """A reverse proxy before a real server at `upstream` that keeps what goes through, without any secret."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.exchanges: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        import aiohttp

        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.Response:
        from yarl import URL

        url = URL(self.upstream + request.raw_path, encoded=True)
        headers = {key: value for key, value in request.headers.items() if key != "Host"}
        async with self._session.request(
            request.method, url, headers=headers, data=await request.read(), allow_redirects=False
        ) as answer:
            body = await answer.read()
            kept = {key: answer.headers[key] for key in _KEPT if key in answer.headers}
            found: dict[str, Any] = {"method": request.method, "path": request.raw_path, "status": answer.status}
            try:
                content = {"text": body.decode()}
            except UnicodeDecodeError:
                content = {"base64": base64.b64encode(body).decode()}
            self.exchanges.append({**found, "headers": kept, **content})
            return web.Response(body=body, status=answer.status, headers=kept)

    def write(self, path: Path, of: str) -> None:
        """Keep it; `of` says what was recorded."""
        path.write_text(json.dumps({"of": of, "exchanges": self.exchanges}, indent=1) + "\n")
