"""What both sides of a download share: its errors, what HTTP statuses mean, and the rate limit. No requests here."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

import aiohttp

from modelsync_daemon.trust import ObjectMissing
from modelsync_protocol.errors import UnreachableError

READ_BYTES = 64 * 1024
"""So much is taken from the socket at a time, at the most."""

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class Transient(UnreachableError):
    """A failure that the next attempt may not meet."""


class AccessDenied(Transient):
    """The origin refuses the secret in use; a new one may be on its way."""


class ObjectChanged(UnreachableError):
    """The object is another one than when its download began (its ETag changed)."""


class ObjectReader(Protocol):
    """Reads one range of one object in order; see body.Body."""

    position: int
    etag: str

    async def read(self, count: int) -> bytes:
        """Exactly the next `count` bytes."""

    def unread(self, data: bytes) -> None:
        """Give back the last bytes that were read."""

    async def skip_to(self, position: int) -> None:
        """Go forward to `position` of the object."""

    def close(self) -> None:
        """Drop what is open."""


class ObjectSource(Protocol):
    """Where objects come from: the network (origin_client.py) or a push (pushed.py)."""

    async def get(self, path: str, limit: int) -> bytes:
        """A whole object of at most `limit` bytes; ObjectMissing."""

    async def size(self, path: str) -> int | None:
        """Size of an object in bytes, if it is there and the source knows."""

    def open(self, path: str, offset: int, end: int, *, whole: bool, etag: str = "") -> ObjectReader:
        """A reader of bytes `offset` to `end` of an object."""


class Rate:
    """A token bucket of one second's worth; `limit` in bytes a second, None: no limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._free_at = 0.0

    async def spend(self, count: int) -> None:
        """Wait until `count` more bytes are allowed."""
        if self._limit:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 1.0) + count / self._limit
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)


def check_status(response: aiohttp.ClientResponse, path: str, good: set[int]) -> None:
    """Raise what a status means: ObjectMissing, Transient, or UnreachableError where trying again won't help."""
    if response.status in good:
        return
    if response.status in (404, 410):
        raise ObjectMissing(f"the origin has no {path}; check the origin's URL and that the version is published.")
    if response.status in _RETRIED:
        raise Transient(f"the origin answers {response.status} for {path}.")
    raise UnreachableError(f"the origin answers {response.status} for {path}; check its URL and access rights.")


def reason(error: BaseException) -> str:
    """A few words on a failed transfer."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientResponseError):  # its text holds the URL, which may hold a secret
        return error.message[:120] or type(error).__name__
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:120]
