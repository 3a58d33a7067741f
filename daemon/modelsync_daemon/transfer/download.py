"""What both sides of a download share: its errors, what HTTP statuses mean, and the rate limit. No requests here."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Protocol, TypeVar

import aiohttp

from modelsync_daemon.trust.resolved import ObjectMissing
from modelsync_protocol.errors import UnreachableError

READ_BYTES = 64 * 1024
"""So much is taken from the socket at a time, at the most."""

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_RETRY_AFTER = 3600.0
_DIGEST = re.compile(r"([0-9a-f]{12})[0-9a-f]{52}")
_Result = TypeVar("_Result")


class Transient(UnreachableError):
    """A failure that the next attempt may not meet, if it comes no sooner than `after` seconds from now."""

    after = 0.0


class Garbled(Transient):
    """What came is no HTTP: worth one more attempt, since each may cost all that is on its way already."""


class AccessDenied(Transient):
    """The origin refuses the secret in use; a new one may be on its way."""


class ObjectChanged(UnreachableError):
    """The object is another one than when its download began (its ETag changed)."""


class Sender(Protocol):
    """What the readers of objects need of their origin (origin_client.Origin)."""

    async def send(self, method: str, path: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """One request."""

    async def persist(self, attempt: Callable[[], Awaitable[_Result]]) -> _Result:
        """Try until it works or there was no progress for too long."""

    async def throttle(self, count: int, new: int) -> None:
        """`count` bytes have come, `new` of them for the first time: wait as the rate limit asks."""

    def complete(self) -> None:
        """An answer is here whole, which is progress however small it is."""


class ObjectReader(Protocol):
    """Reads one range of one object in order; see body.Body."""

    position: int
    etag: str

    @property
    def hearsay(self) -> bool:
        """Whether bytes that were read since the last `accept` came from a neighbour, not from the origin."""

    def accept(self) -> None:
        """What was read so far is sound, as far as its reader can tell."""

    async def again(self, begin: int, count: int) -> bytes | None:
        """Bytes that were not sound once more, from somebody else; None if nobody else is known. Reading goes on."""

    async def read(self, count: int) -> bytes:
        """Exactly the next `count` bytes."""

    def unread(self, data: bytes) -> None:
        """Give back the last bytes that were read."""

    async def skip_to(self, position: int) -> None:
        """Go forward to `position` of the object."""

    def close(self) -> None:
        """Drop what is open."""


class ObjectSource(Protocol):
    """Where objects come from: the network (origin_client.py) or a push (pushed_origin.py)."""

    async def get(self, path: str, limit: int) -> bytes:
        """A whole object of at most `limit` bytes; ObjectMissing."""

    async def size(self, path: str) -> int | None:
        """Size of an object in bytes, if it is there and the source knows."""

    def open(self, path: str, offset: int, end: int, *, whole: bool, etag: str = "") -> ObjectReader:
        """A reader of bytes `offset` to `end` of an object."""

    @property
    def hearsay(self) -> bool:
        """Whether trust metadata or offers came from a neighbour: signed or not, they may be stale."""

    def mistrust(self, path: str) -> bool:
        """An object is not what it should be; True if asking for it again is of use, since a neighbour gave it."""

    def newer_offers(self) -> bytes | None:
        """Offers of updates in newer versions of their format (FORMAT.md §12.4); None: whoever knows was not asked."""


class Rate:
    """A token bucket of one second's worth; `limit` in bytes a second, None: no limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._free_at = 0.0

    async def spend(self, count: int) -> None:
        """Wait until `count` more bytes are allowed."""
        if self.limit:
            now = asyncio.get_running_loop().time()
            self._free_at = max(self._free_at, now - 1.0) + count / self.limit
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)


def check_status(response: aiohttp.ClientResponse, path: str, good: set[int]) -> None:
    """Raise what a status means: ObjectMissing, Transient, or UnreachableError where trying again won't help."""
    if response.status in good:
        return
    if response.status in (404, 410):
        raise ObjectMissing(
            f"the origin has no {named(path)}; check the origin's URL and that the version is published."
        )
    if response.status in _RETRIED:
        busy = Transient(f"the origin answers {response.status} for {named(path)}.")
        busy.after = retry_after(response.headers.get("Retry-After", ""), time.time())
        raise busy
    raise UnreachableError(f"the origin answers {response.status} for {named(path)}; check its URL and access rights.")


def retry_after(text: str, now: float) -> float:
    """Seconds that a Retry-After header asks to wait at `now` (Unix s): 0 if it is none, an hour at the most.

    Up to half as much is added at random, so that not all who were told the same come back at once (RFC 9110 §10.2.3).
    """
    seconds = 0.0
    if text.isdecimal():
        seconds = float(text[:9])
    elif text:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) * random.uniform(1.0, 1.5)


def named(path: str) -> str:
    """An object's path for a sentence: digests are cut short."""
    return _DIGEST.sub(r"\1…", path)


def reason(error: BaseException) -> str:
    """A few words on a failed transfer."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "it ended early"
    if isinstance(error, aiohttp.ClientResponseError):  # its text holds the URL, which may hold a secret
        return error.message[:120] or type(error).__name__
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:120]
