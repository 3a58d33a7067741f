"""The origin: answers over a store's directory, read only, in as few header bytes as HTTP allows. No sockets here.

GET and HEAD under the five object folders, single ranges, strong tags that are equal on every copy of a store.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import BinaryIO

from aiohttp import ClientConnectionResetError, web

from modelsync_server.origin import http_rules
from modelsync_server.origin.http_rules import PIECE_SECONDS, Part
from modelsync_server.store.port import cache_control, changes

_PIECE_BYTES = 256 * 1024

_TLS_PIECE_BYTES = 64 * 1024
"""Over TLS a piece passes through this process: so much memory a reader."""

_AT_ONCE_BYTES = 16 * 1024
"""Up to here headers and body leave in one piece, which spares a packet."""

_STORE = web.AppKey("store", Path)


def application(store: Path) -> web.Application:
    """The aiohttp application over the store's directory; it sees later publishes by itself."""
    app = web.Application()
    app[_STORE] = store.resolve()
    app.router.add_route("*", "/{path:.*}", _handle)
    app.on_response_prepare.append(http_rules.drop_needless_headers)
    return app


async def _handle(request: web.Request) -> web.StreamResponse:
    if request.method not in ("GET", "HEAD"):
        return web.Response(status=405, headers={"Allow": "GET, HEAD"})
    path = http_rules.object_path(request)
    if path is None:
        return web.Response(status=404)
    # Not in a thread: what names a file in a directory is in the kernel's caches, and a thread costs more than that.
    opened = _open(request.app[_STORE], path)
    if opened is None:
        return web.Response(status=404)
    file, size, tag = opened
    try:
        return await _answer(request, file, size, tag, cache_control(path))
    except ClientConnectionResetError:
        return web.Response(status=499)  # the client is gone: nobody reads this
    finally:
        file.close()


async def _answer(request: web.Request, file: BinaryIO, size: int, tag: str, cache: str) -> web.StreamResponse:
    headers = {"ETag": tag, "Cache-Control": cache}
    if http_rules.matches(request.headers.get("If-None-Match"), tag):
        return web.Response(status=304, headers=headers)
    part = http_rules.part(request, size, tag)
    if part is None:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    if part.length <= _AT_ONCE_BYTES and request.method == "GET":
        if part.partial:
            headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{size}"
        data = os.pread(file.fileno(), part.length, part.start)
        if len(data) == part.length:
            return web.Response(status=206 if part.partial else 200, headers=headers, body=data)
    response = web.StreamResponse(status=206 if part.partial else 200, headers=headers)
    if part.partial:
        response.headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{size}"
    response.content_length = part.length
    await response.prepare(request)
    if request.method == "GET" and part.length:
        await _send(request, response, file, part)
    return response


async def _send(request: web.Request, response: web.StreamResponse, file: BinaryIO, part: Part) -> None:
    """Send the bytes in pieces, each within its time: in the kernel, over TLS through this process."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return  # the client is gone
    loop, encrypted = asyncio.get_running_loop(), transport.get_extra_info("sslcontext") is not None
    piece = _TLS_PIECE_BYTES if encrypted else _PIECE_BYTES
    if encrypted:
        transport.set_write_buffer_limits(_TLS_PIECE_BYTES)  # asyncio's own limit is half a megabyte a reader
    try:
        for start in range(part.start, part.start + part.length, piece):
            count = min(piece, part.start + part.length - start)
            if transport.is_closing():
                raise ConnectionResetError
            async with asyncio.timeout(PIECE_SECONDS):
                if encrypted:
                    data = os.pread(file.fileno(), count, start)
                    await response.write(data)
                    sent = len(data)
                else:
                    sent = await loop.sendfile(transport, file, start, count)
            if sent != count:
                raise ConnectionResetError
    except (ConnectionError, TimeoutError, RuntimeError):  # asyncio says RuntimeError for a transport that closes
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()  # never let the next answer be taken for the rest of this one


def _open(store: Path, path: str) -> tuple[BinaryIO, int, str] | None:
    """Open an object without following any link, with its size and tag; None if there is none."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    *folders, name = path.split("/")
    try:
        here = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for folder in folders:
            below = os.open(folder, flags | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        file = os.fdopen(os.open(name, flags, dir_fd=here), "rb")
    except OSError:
        return None
    finally:
        os.close(here)
    status = os.fstat(file.fileno())
    if not _is_regular(status.st_mode):
        file.close()
        return None
    content = b""
    if changes(path):
        content = file.read()
        file.seek(0)
    return file, status.st_size, http_rules.tag(path, status.st_size, content)


def _is_regular(mode: int) -> bool:
    return mode & 0o170000 == 0o100000
