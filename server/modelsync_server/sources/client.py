"""HTTP for all sources: bounded answers, resumed downloads, digests, waits as servers ask, no secret for strangers.

Retried: lines that break, 429 and 5xx that say try again. Redirects are followed by hand, so that credentials go to
their own origin only, and never from HTTPS to HTTP. Source: RFC 9110 (ranges, Retry-After).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from modelsync_protocol import caps
from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_server.sources.credentials import NOBODY, Credentials
from modelsync_server.sources.port import Scratch
from modelsync_server.store.durable import local_error

MAX_DOCUMENT_BYTES = 16 * caps.MIB
"""Of one answer that is read whole: a listing, a manifest."""

ATTEMPTS = 6
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
"""A server that asks for more is told to the user instead of being waited for."""

_SLOWEST_BYTES_PER_SECOND = 16 * caps.KIB
_MOST_REDIRECTS = 5
_MOST_COMPLAINT_BYTES = 16 * caps.KIB
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)
_T = TypeVar("_T")
_BROKEN = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def document(self) -> Any:
        """Its JSON; UnreachableError if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise UnreachableError(
                "the source's answer is no JSON: check that its address is that of its interface."
            ) from None


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file must have: an algorithm of hashlib, or `git` (the object id of a blob), and the value in hex."""

    algorithm: str
    value: str

    def begin(self, size: int) -> Any:
        """A hash to feed; `size` is the file's."""
        if self.algorithm == "git":
            return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        return hashlib.new(self.algorithm, usedforsecurity=False)


class _Cut(Exception):
    """The line broke, or the server asks to come again: `pause` seconds, None: as we like."""

    def __init__(self, what: str, pause: float | None = None) -> None:
        super().__init__(what)
        self.pause = pause


class Client:
    """Use as `async with`. `hint` says in 401 and 403 what to set; `pause` waits, and may be replaced in tests."""

    def __init__(
        self,
        credentials: Credentials = NOBODY,
        *,
        hint: str = "check the credentials",
        ca: str | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._credentials, self._hint, self._pause = credentials, hint, pause
        self._tls: ssl.SSLContext | bool = True
        if ca:
            try:
                self._tls = ssl.create_default_context(cafile=ca)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(f"{ca} is no file of CA certificates in PEM form.") from error

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=_TIMEOUT,
            trust_env=True,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(
        self,
        url: URL | str,
        *,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        limit: int = MAX_DOCUMENT_BYTES,
    ) -> Answer:
        """An answer of at most `limit` bytes.

        UsageError for what is not there, RefusedError for 401, 403 and answers that are too long, UnreachableError.
        """

        async def once() -> Answer:
            data = None if body is None else json.dumps(body).encode()
            async with self._answer(method, URL(url), headers or {}, data) as answer:
                found = bytearray()
                async for block in answer.content.iter_chunked(caps.MIB):
                    found += block
                    if len(found) > limit:
                        raise RefusedError(
                            f"{_where(url)} answers with more than {limit:,} bytes, where fewer are due."
                        )
                return Answer(answer.status, answer.headers, bytes(found))

        return await self._persistently(url, once)

    async def download(
        self,
        url: URL | str,
        path: Path,
        scratch: Scratch,
        *,
        size: int | None = None,
        digest: Digest | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Write what is at `url` to the new file `path`, from where it broke off if it does.

        RefusedError if it has another size or digest than what is due; else as `ask`. LocalError: the disk.
        """
        tag = ""

        async def once() -> None:
            nonlocal tag
            done = path.stat().st_size if path.exists() else 0
            asked = dict(headers or {})
            if done and done == size:
                return
            if done and (tag or digest is not None):  # else nothing would tell that it became another file
                asked["Range"] = f"bytes={done}-"
                if tag:
                    asked["If-Range"] = tag
            allowed = 60 + (size if size is not None else scratch.left) / _SLOWEST_BYTES_PER_SECOND
            async with asyncio.timeout(allowed), self._answer("GET", URL(url), asked, None) as answer:
                resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
                if answer.status == 206 and not resumed:
                    raise _Cut("sends another range than what was asked for")
                if not resumed:
                    scratch.count(-done)
                    given = answer.headers.get("ETag", "")
                    tag = given if given.startswith('"') else ""
                await _write(answer, path, scratch, done if resumed else 0, size)

        await self._persistently(url, once, lambda: path.stat().st_size if path.exists() else 0)
        await asyncio.to_thread(_check, url, path, size, digest)

    async def _persistently(
        self, url: URL | str, once: Callable[[], Awaitable[_T]], reached: Callable[[], int] = lambda: 0
    ) -> _T:
        """`once`, again and again; attempts count from the last one that got further (`reached`, in bytes)."""
        pause, last, before, attempt = _FIRST_PAUSE_SECONDS, "", 0, 0
        while attempt < ATTEMPTS:
            if attempt:
                await self._pause(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            attempt += 1
            try:
                return await once()
            except _Cut as cut:
                last = str(cut)
                if cut.pause is not None:
                    if cut.pause > _LONGEST_PAUSE_SECONDS:
                        raise UnreachableError(f"{_where(url)} {last}; try again in {cut.pause:.0f} s.") from None
                    pause = max(cut.pause, 0.0)
            except aiohttp.InvalidURL:
                raise UsageError(f"{str(url)!r:.120} is no address.") from None
            except _BROKEN as error:
                last = f"can't be reached ({_why(error)})"
            if (now := reached()) > before:
                before, attempt, pause = now, 1, _FIRST_PAUSE_SECONDS
        raise UnreachableError(f"{_where(url)} {last}; try again later.")

    @contextlib.asynccontextmanager
    async def _answer(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The last answer behind redirects and a challenge; a good one."""
        challenged, start = False, url
        for _ in range(_MOST_REDIRECTS + 2):
            sent = {"Accept-Encoding": "identity", **headers, **self._credentials.headers(url)}
            if body is not None:
                sent.setdefault("Content-Type", "application/json")
            async with self._session.request(method, url, data=body, headers=sent, allow_redirects=False) as answer:
                if answer.status in _REDIRECTS and "Location" in answer.headers:
                    url = _redirected(url, answer.headers["Location"])
                    continue
                if answer.status == 401 and not challenged:
                    challenged = True
                    if await self._credentials.challenged(url, answer.headers):
                        continue
                await self._judge(start, answer)
                yield answer
                return
        raise RefusedError(f"{_where(start)} redirects in a circle.")

    async def _judge(self, url: URL, answer: aiohttp.ClientResponse) -> None:
        if answer.status in _AGAIN:
            raise _Cut(f"answers {answer.status} {answer.reason or ''}".rstrip(), _retry_after(answer.headers))
        if answer.status in (401, 403):
            raise RefusedError(f"{_where(url)} refuses ({answer.status}): {self._hint}.")
        if answer.status >= 400:
            said = _said(await answer.content.read(_MOST_COMPLAINT_BYTES))
            if answer.status == 404:
                raise UsageError(f"{_where(url)} has no {url.path.rstrip('/')!r:.160}{said}: check the address.")
            raise UsageError(f"{_where(url)} answers {answer.status} to {url.path!r:.160}{said}: check the address.")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise RefusedError(f"{_where(url)} sends compressed bytes, which were not asked for.")


async def _write(answer: aiohttp.ClientResponse, path: Path, scratch: Scratch, begin: int, size: int | None) -> None:
    most = scratch.left if size is None else size - begin
    try:
        with path.open("r+b" if path.exists() else "xb") as file:
            file.truncate(begin)
            file.seek(begin)
            async for block in answer.content.iter_chunked(caps.MIB):
                most -= len(block)
                if most < 0 and size is not None:
                    raise RefusedError(f"{_where(answer.url)} sends more than the {size:,} bytes that are due.")
                scratch.count(len(block))
                await asyncio.to_thread(file.write, block)
    except OSError as error:
        if isinstance(error, aiohttp.ClientError | TimeoutError) or error.errno is None:
            raise
        raise local_error(path, error) from error
    if size is not None and most > 0:
        raise _Cut("ends too early")


def _check(url: URL | str, path: Path, size: int | None, digest: Digest | None) -> None:
    found = path.stat().st_size
    if size is not None and found != size:
        raise RefusedError(f"{_where(url)} sent {found:,} bytes of {path.name!r:.80}, where {size:,} are due.")
    if digest is None:
        return
    running = digest.begin(found)
    with path.open("rb") as file:
        while block := file.read(4 * caps.MIB):
            running.update(block)
    if running.hexdigest() != digest.value:
        raise RefusedError(f"{_where(url)} sent other bytes of {path.name!r:.80} than its own digest says.")


def _redirected(url: URL, location: str) -> URL:
    try:
        target = url.join(URL(location, encoded=True))
        target.origin()
    except ValueError:
        raise RefusedError(f"{_where(url)} redirects to {location!r:.80}, which is no address.") from None
    if target.scheme not in ("http", "https") or (url.scheme == "https" and target.scheme != "https"):
        raise RefusedError(f"{_where(url)} redirects from HTTPS to {target.scheme!r:.20}.")
    return target.with_user(None)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, (parsedate_to_datetime(text).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    return None


def _said(body: bytes) -> str:
    """What a server complains in JSON, for people: the forms of MLflow, the Hub, Azure and OCI registries."""
    try:
        match json.loads(body):
            case {"message": str(text)} | {"error": str(text)} | {"error": {"message": str(text)}}:
                pass
            case {"errors": [{"message": str(text)}, *_]}:
                pass
            case _:
                return ""
    except (ValueError, RecursionError):
        return ""
    line = text.strip().partition("\n")[0][:160].rstrip(".")
    return f" ({''.join(char if char.isprintable() else '?' for char in line)})" if line else ""


def _where(url: URL | str) -> str:
    """Host and port: never a path or query, which may be a secret."""
    found = URL(url)
    return f"{found.host or 'the source'}{f':{found.explicit_port}' if found.explicit_port else ''}"


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "too slow"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted here"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or "no connection"
    return "the connection broke"
