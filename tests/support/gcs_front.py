"""Google Cloud Storage's XML API, which obstore speaks, in front of fake-gcs-server, which has only the JSON API.

It translates requests and answers, and decides nothing: generations and their conditions are the server's.
"""

from __future__ import annotations

import json
from types import TracebackType
from urllib.parse import quote
from xml.sax.saxutils import escape

import aiohttp
from aiohttp import web

_CONDITION = "x-goog-if-generation-match"
_EDGE = "0a3f9c1e7b5d24680a3f9c1e7b5d2468"


class GcsFront:
    """An async context manager; `url` is what GOOGLE_BASE_URL names. `lies`: conditions are dropped on the way."""

    def __init__(self, server: str, *, lies: bool = False) -> None:
        self.lies = lies
        self.url = ""
        self._server = server
        application = web.Application(client_max_size=1 << 30)
        application.router.add_get("/{bucket}", self._list)
        application.router.add_route("*", "/{bucket}/{name:.+}", self._object)
        self._runner = web.AppRunner(application)

    async def __aenter__(self) -> GcsFront:
        self._session = aiohttp.ClientSession()
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def make_bucket(self, name: str) -> str:
        """Make a bucket; returns its name."""
        async with self._session.post(f"{self._server}/storage/v1/b?project=p", json={"name": name}) as answer:
            assert answer.status == 200, await answer.text()
        return name

    async def _object(self, request: web.Request) -> web.StreamResponse:
        bucket, name = request.match_info["bucket"], request.match_info["name"]
        there = f"{self._server}/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        if request.method == "PUT":
            condition = request.headers.get(_CONDITION)
            query = "" if condition is None or self.lies else f"&ifGenerationMatch={condition}"
            # Of its three kinds of upload this is the one in which the server heeds conditions.
            url = f"{self._server}/upload/storage/v1/b/{bucket}/o?uploadType=multipart{query}"
            kind = request.headers.get("Content-Type", "application/octet-stream")
            described = json.dumps({"name": name, "cacheControl": request.headers.get("Cache-Control", "")})
            body = (
                f"--{_EDGE}\r\nContent-Type: application/json\r\n\r\n{described}\r\n"
                f"--{_EDGE}\r\nContent-Type: {kind}\r\n\r\n"
            ).encode()
            body += await request.read() + f"\r\n--{_EDGE}--\r\n".encode()
            headers = {"Content-Type": f"multipart/related; boundary={_EDGE}"}
            async with self._session.post(url, data=body, headers=headers) as answer:
                if answer.status != 200:
                    return _error(answer.status)
                return web.Response(headers=_headers(await answer.json()))
        if request.method == "DELETE":
            async with self._session.delete(there) as answer:
                return web.Response(status=204) if answer.status in (200, 204) else _error(answer.status)
        async with self._session.get(there) as answer:
            if answer.status != 200:
                return _error(answer.status)
            headers = _headers(await answer.json())
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": headers["X-Size"]})
        ranges = {"Range": request.headers["Range"]} if "Range" in request.headers else {}
        async with self._session.get(f"{there}?alt=media", headers=ranges) as answer:
            if answer.status >= 400:
                return _error(answer.status)
            if "Content-Range" in answer.headers:
                headers["Content-Range"] = answer.headers["Content-Range"]
            return web.Response(status=answer.status, headers=headers, body=await answer.read())

    async def _list(self, request: web.Request) -> web.StreamResponse:
        url = f"{self._server}/storage/v1/b/{request.match_info['bucket']}/o"
        async with self._session.get(url, params={"prefix": request.query.get("prefix", "")}) as answer:
            if answer.status != 200:
                return _error(answer.status)
            items = (await answer.json()).get("items", [])
        found = "".join(
            f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size><ETag>x</ETag>"
            f"<LastModified>{item['updated']}</LastModified></Contents>"
            for item in items
        )
        return web.Response(
            content_type="application/xml", text=f"<?xml version='1.0'?><ListBucketResult>{found}</ListBucketResult>"
        )


def _headers(item: dict[str, str]) -> dict[str, str]:
    return {
        "ETag": f'"{item["etag"].strip(chr(34))}"',
        "x-goog-generation": str(item["generation"]),
        "Last-Modified": _date(item["updated"]),
        "X-Size": str(item["size"]),
    }


def _date(text: str) -> str:
    from datetime import datetime
    from email.utils import format_datetime

    return format_datetime(datetime.fromisoformat(text), usegmt=True)


def _error(status: int) -> web.Response:
    code = {404: "NoSuchKey", 412: "PreconditionFailed", 416: "InvalidRange"}.get(status, "Refused")
    return web.Response(status=status, text=f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>")
