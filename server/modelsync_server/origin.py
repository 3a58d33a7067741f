"""The origin: a store's directory over HTTP, read only, in as few header bytes as HTTP allows. No signing here.

GET and HEAD under the five object folders, single ranges, strong tags that are equal on every copy of a store.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_server.store import Store
from modelsync_server.store.directory import DirectoryStore

_PATH = re.compile(r"/(metadata|bundles|manifests|packs|updates)((?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}){1,2})")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_IMMUTABLE = "public, max-age=31536000, immutable"
_SHUTDOWN_SECONDS = 1.0
"""How long requests may go on after SIGTERM (aiohttp waits twice that); whoever reads slower is cut off and
resumes elsewhere."""

_STORE = web.AppKey("store", Path)


@dataclass(frozen=True, slots=True)
class _Part:
    """Which bytes of an object to send: `length` from `start`; `partial` if a range was asked for."""

    start: int
    length: int
    partial: bool


def application(store: Path) -> web.Application:
    """The aiohttp application over the store's directory; it sees later publishes by itself."""
    app = web.Application()
    app[_STORE] = store.resolve()
    app.router.add_route("*", "/{path:.*}", _handle)
    app.on_response_prepare.append(_drop_needless_headers)
    return app


async def run(
    store: Store,
    host: str,
    port: int,
    cert: Path | None,
    key: Path | None,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets the JSON line `{"url"}` once connections are accepted.

    UsageError for a store that is no directory and for unusable certificates, LocalError if the address is taken.
    """
    if not isinstance(store, DirectoryStore):
        raise UsageError("`modelsync serve` serves directories: devices fetch from a blob store directly.")
    context = _tls(cert, key)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(application(store.root), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            site = web.TCPSite(runner, host, port, ssl_context=context)
            await site.start()
        except OSError as error:
            raise LocalError(f"can't listen on {host}:{port} ({error.strerror}): choose another --port.") from error
        bound = runner.addresses[0][1]
        name = f"[{host}]" if ":" in host else host
        announce(json.dumps({"url": f"{'https' if context else 'http'}://{name}:{bound}"}))
        await stop.wait()
    finally:
        await runner.cleanup()


async def _handle(request: web.Request) -> web.StreamResponse:
    if request.method not in ("GET", "HEAD"):
        return web.Response(status=405, headers={"Allow": "GET, HEAD"})
    match = _PATH.fullmatch(request.path)
    # The raw path too: a path that was only made harmless by decoding it is not one of ours.
    if match is None or request.raw_path.partition("?")[0] != request.path:
        return web.Response(status=404)
    opened = await asyncio.to_thread(_open, request.app[_STORE], request.path.removeprefix("/"))
    if opened is None:
        return web.Response(status=404)
    file, size, tag = opened
    try:
        return await _answer(request, file, size, tag, _cache_control(request.path))
    finally:
        file.close()


async def _answer(request: web.Request, file: BinaryIO, size: int, tag: str, cache: str) -> web.StreamResponse:
    headers = {"ETag": tag, "Cache-Control": cache}
    if _matches(request.headers.get("If-None-Match"), tag):
        return web.Response(status=304, headers=headers)
    part = _part(request, size, tag)
    if part is None:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    response = web.StreamResponse(status=206 if part.partial else 200, headers=headers)
    if part.partial:
        response.headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{size}"
    response.content_length = part.length
    await response.prepare(request)
    if request.method == "GET" and part.length:
        await _send(request, file, part)
    return response


async def _send(request: web.Request, file: BinaryIO, part: _Part) -> None:
    """Let the kernel copy the bytes (over TLS: through this process, a buffer at a time)."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return  # the client is gone
    try:
        sent = await asyncio.get_running_loop().sendfile(transport, file, part.start, part.length)
    except (ConnectionError, RuntimeError):  # asyncio says RuntimeError for a transport that closes
        sent = 0
    if sent != part.length and isinstance(transport, asyncio.WriteTransport):
        transport.abort()  # never let the next answer be taken for the rest of this one


def _part(request: web.Request, size: int, tag: str) -> _Part | None:
    """The asked part, the whole if no usable range is asked, None if the range is beyond the end (RFC 9110 §14)."""
    whole = _Part(0, size, partial=False)
    asked = _RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    condition = request.headers.get("If-Range")
    if asked is None or request.method != "GET" or (condition is not None and condition != tag):
        return whole
    first, last = asked.groups()
    if first:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
        if last and int(last) < start:
            return whole  # not a range at all: RFC 9110 lets it be ignored
    elif last:
        start, end = max(size - int(last), 0), size - 1
        if int(last) == 0:
            return None
    else:
        return whole
    return _Part(start, end - start + 1, partial=True) if start < size else None


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
    return file, status.st_size, _tag(path, status.st_size, file)


def _tag(path: str, size: int, file: BinaryIO) -> str:
    """A strong tag that a copy of the store gives too: from content where it changes, else from name and size."""
    seed = hashlib.sha256(f"{path}:{size}".encode())
    if _changes(path):
        seed = hashlib.sha256(file.read())
        file.seek(0)
    return f'"{base64.urlsafe_b64encode(seed.digest()[:9]).decode()}"'


def _changes(path: str) -> bool:
    return path.startswith("bundles/") or path == "metadata/timestamp.json"


def _cache_control(path: str) -> str:
    return "no-cache" if _changes(path.removeprefix("/")) else _IMMUTABLE


def _matches(header: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names the tag (weak comparison)."""
    if header is None:
        return False
    return any(item.strip().removeprefix("W/") in (tag, "*") for item in header.split(","))


def _is_regular(mode: int) -> bool:
    return mode & 0o170000 == 0o100000


async def _drop_needless_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Devices on metered links pay for each header of each answer."""
    for name in ("Server", "Content-Type"):
        response.headers.pop(name, None)


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("TLS needs both --tls-cert and --tls-key.")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{cert} and {key} are not a usable certificate and key: {error}.") from error
    return context
