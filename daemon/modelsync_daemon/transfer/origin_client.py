"""HTTP towards the origin: whole objects and resumable ranges, with retries, a stall limit and every byte counted.

It knows no plan and no trust; what it brings is unverified.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from yarl import URL

from modelsync_daemon.timing.stall import Patience
from modelsync_daemon.transfer import tls_session
from modelsync_daemon.transfer.connector import connector
from modelsync_daemon.transfer.download import AccessDenied, Garbled, Rate, Transient, check_status, named, reason
from modelsync_daemon.transfer.errors import AccessRefused, OriginBusy
from modelsync_daemon.transfer.meter import CountedSocket, Meter
from modelsync_daemon.transfer.origin_secret import Access, joined
from modelsync_daemon.transfer.range_body import Body
from modelsync_daemon.transfer.whole_object import Whole
from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError

_RECEIVE_BUFFER_BYTES = 96 * 1024
"""SO_RCVBUF: what a kill may find in flight on our side."""

_READ_BUFFER_BYTES = 16 * 1024
_CONNECT_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_CONNECTIONS = 4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 3

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Traffic:
    """TCP payload bytes both ways (TLS and headers included), and HTTP requests."""

    received: int
    sent: int
    requests: int


class Origin:
    """One origin. Use as an async context manager, from one event loop.

    `url` may carry a query (a SAS), which stays behind each path; `access` adds a secret one, or signs; when that is
    refused, another is waited for as long as for a broken line. `proxy` is an HTTP proxy's URL. `ca` is a PEM file to
    trust instead of the system's. After `stall_seconds` without progress (stall.py) the call that waits raises
    UnreachableError. `rate_limit` is in bytes a second, or a Rate that several share. One call at a time.
    `on_traffic(received, sent)` gets increments of the wire's bytes. `ticket`: the private file in which a TLS session
    is kept from one visit to the next.
    """

    def __init__(
        self,
        url: str,
        ca: Path | None = None,
        *,
        stall_seconds: float = 60.0,
        rate_limit: int | Rate | None = None,
        on_traffic: Callable[[int, int], None] = lambda received, sent: None,
        access: Access | None = None,
        proxy: str | None = None,
        ticket: Path | None = None,
    ) -> None:
        self._parts = urlsplit(url)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise UsageError(f"{_without_query(url)!r} is not an origin: give a URL like https://host[:port][/path].")
        self._patience = Patience(stall_seconds)
        self._rate = rate_limit if isinstance(rate_limit, Rate) else Rate(rate_limit)
        self._on_traffic = on_traffic
        self._access = access or Access(())
        self._proxy, self._ca = proxy, ca
        self._context = _tls(ca) if self._parts.scheme == "https" else None
        if self._context is not None and ticket is not None:
            self._context.remember(ticket, self._parts.hostname, self._parts.port or 443, ca)
        self._meter = Meter()
        self._requests = 0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Origin:
        self._session = aiohttp.ClientSession(
            connector=connector(self._socket, limit=_CONNECTIONS, ssl=self._context or True, keepalive_timeout=30),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),  # an origin's would be kept without bound, and sent on metered lines
            read_bufsize=_READ_BUFFER_BYTES,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=self._patience.seconds / 3
            ),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        if self._context is not None:
            self._context.keep()
        await self._session.close()
        await asyncio.sleep(0)
        self.tell()

    @property
    def traffic(self) -> Traffic:
        """What the wire has carried so far."""
        return Traffic(*self._meter.carried, self._requests)

    def tell(self) -> None:
        """Hand new traffic to `on_traffic`."""
        received, sent = self._meter.news()
        if received or sent:
            self._on_traffic(received, sent)

    async def get(self, path: str, limit: int) -> bytes:
        """Return a whole object of at most `limit` bytes; ObjectMissing for 404, RefusedError if it is longer."""

        data = await self.persist(Whole(self, path, limit).attempt)
        self.complete()
        return data

    async def size(self, path: str) -> int | None:
        """Size in bytes of an object, by HEAD; None if there is none or the origin does not say."""

        async def attempt() -> int | None:
            async with await self.send("HEAD", path, {}) as response:
                if response.status == 404:
                    return None
                check_status(response, path, {200})
                return response.content_length

        size = await self.persist(attempt)
        self.complete()
        return size

    hearsay = False

    def mistrust(self, path: str) -> bool:
        """Nobody else is known."""
        return False

    def newer_offers(self) -> bytes | None:
        """Only a parcel says."""
        return None

    def open(self, path: str, offset: int, end: int, *, whole: bool, etag: str = "") -> Body:
        """A reader of bytes `offset` to `end` of an object (`whole`: of that size in all); see Body."""
        return Body(self, path, offset, end, whole, etag)

    async def send(self, method: str, path: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """One request, redirects followed; the caller closes the answer.

        Raises Transient; RefusedError for a bad certificate, or where a redirect would leave TLS.
        """
        base = self._parts
        secret = self._access.secret
        query = joined(base.query, self._access.query)
        # Encoded: a signature holds %2B and the like, which must go out as they are.
        url = URL(urlunsplit((base.scheme, base.netloc, f"{base.path.rstrip('/')}/{path}", query, "")), encoded=True)
        response = await self._request(method, url, {**headers, **self._access.headers(method, str(url))})
        if response.status == 403 and self._access.adjusted(response.headers.get("Date", "")):
            response.release()
            response = await self._request(method, url, {**headers, **self._access.headers(method, str(url))})
        for _ in range(_MOST_REDIRECTS):
            if response.status not in _REDIRECTS:
                break
            response.release()
            url = self._redirected(url, response.headers.get("Location", ""))
            response = await self._request(method, url, headers)
        if response.status in _REDIRECTS:
            response.close()
            raise UnreachableError(f"{base.hostname} redirects more than {_MOST_REDIRECTS} times; check its set-up.")
        if response.status in (401, 403) and secret:
            response.close()
            self._access.refused(secret)
            raise AccessDenied(
                f"{base.hostname} refuses the secret it is asked with ({response.status}): it may have expired; "
                "send a new one with the direct method `secret`."
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise RefusedError(
                f"{base.hostname} compresses {named(path)}, which was not asked for; turn that off there."
            )
        return response

    async def _request(self, method: str, url: URL, headers: dict[str, str]) -> aiohttp.ClientResponse:
        assert self._session is not None
        self._requests += 1
        try:
            return await self._session.request(
                method, url, headers=headers, allow_redirects=False, proxy=self._proxy, ssl=self._verifier(url)
            )
        except aiohttp.ClientConnectorCertificateError as error:
            why = getattr(error.certificate_error, "verify_message", error.certificate_error)
            raise RefusedError(
                f"the certificate of {url.host} is not trusted ({why}); check its name and dates, or give its CA."
            ) from error
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
            raise Garbled(
                f"what {url.host} answers is no HTTP; check the origin's URL, and what is on the way."
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Transient(f"{url.host} can't be reached ({reason(error)}); check the line.") from error

    def _verifier(self, url: URL) -> ssl.SSLContext | bool:
        """Who checks certificates: the origin's context; of an origin without TLS one is made where a redirect or the
        proxy has it."""
        if self._context is None and "https" in (url.scheme, urlsplit(self._proxy or "").scheme):
            self._context = _tls(self._ca)
        return self._context or True

    def _redirected(self, url: URL, location: str) -> URL:
        """Where a redirect leads; another host may serve (what counts is the digest), but never without TLS."""
        host = self._parts.hostname
        try:
            target = url.join(URL(location, encoded=True))
            usable = bool(location and target.host)
        except ValueError:
            usable = False
        if not usable or target.scheme not in ("http", "https"):
            raise UnreachableError(f"{host} redirects to no usable address; check its set-up.")
        if url.scheme == "https" and target.scheme != "https":
            raise RefusedError(f"{host} redirects to a connection without TLS; that is refused.")
        return target

    async def persist(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Call `attempt` until it succeeds or there was no progress for too long; pauses grow, with full jitter."""
        pause, told = _FIRST_PAUSE, ""
        while True:
            try:
                async with self._patience.limited():
                    return await attempt()
            except (Transient, aiohttp.ClientError, TimeoutError, OSError) as error:
                if self._session is not None and self._session.closed:  # it was given up, by a signal for one
                    raise UnreachableError(_sentence(error)) from error
                after = error.after if isinstance(error, Transient) else 0.0
                wait = max(after, random.uniform(0, pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
                if not self._patience.allows(wait) or (told and isinstance(error, Garbled)):
                    self._patience.renew()
                    raise self._given_up(error, after) from error
                if _sentence(error) != told:
                    told = _sentence(error)
                    _log.warning("%s It is tried again.", told)
                await self._patience.sleep(wait)

    def _given_up(self, error: Exception, after: float) -> UnreachableError:
        text = _sentence(error)
        if after:
            return OriginBusy(f"{text} It asks to come back later.", after)
        if isinstance(error, Garbled):
            return UnreachableError(text)
        kind = AccessRefused if isinstance(error, AccessDenied) else UnreachableError
        return kind(f"{text} Gave up after {self._patience.seconds:.0f} s without progress.")

    def complete(self) -> None:
        """An answer is here whole: progress."""
        self._patience.renew()

    async def throttle(self, count: int, new: int) -> None:
        """Wait as the rate limit asks after `count` bytes, `new` of them progress, and hand the traffic on."""
        self.tell()
        self._patience.brought(new)
        with self._patience.suspended():
            await self._rate.spend(count)

    def _socket(self, address: tuple[int, int, int, str, tuple[object, ...]]) -> CountedSocket:
        sock = self._meter.socket(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        with contextlib.suppress(OSError):  # acknowledgements ride on what is sent next, for the first packets too
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        return sock


def _tls(ca: Path | None) -> tls_session.TicketContext:
    try:
        return tls_session.client_context(ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{ca} is not a readable PEM file of CA certificates.") from error


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, Transient) else f"the transfer broke ({reason(error)})."


def _without_query(url: str) -> str:
    return url.partition("?")[0]
