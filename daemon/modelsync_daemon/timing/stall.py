"""How long a transfer may go on without progress: the one rule that ends stalls and drips. No I/O here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

LEAST_RATE = 64
"""Bytes a second, in the mean over the patience: what brings less holds the device up and is given up."""


class Patience:
    """Ends a transfer after `seconds` of waiting for the other side without progress.

    Progress is LEAST_RATE x `seconds` more bytes that were not here before, or an answer that is complete. Only the
    time inside `limited` counts: not that of decoding, nor what a rate limit of our own makes us wait. One call of
    `limited` at a time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._enough = LEAST_RATE * seconds
        self._left, self._bytes = seconds, 0
        self._since = 0.0
        self._limit: asyncio.Timeout | None = None

    @contextlib.asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """Limit what is awaited inside; raises TimeoutError."""
        try:
            async with asyncio.timeout(self._left) as self._limit:
                self._since = _now()
                yield
        finally:
            self._left -= _now() - self._since
            self._limit = None

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """The time inside does not count."""
        if self._limit is None or self._limit.expired():
            yield
            return
        self._left -= _now() - self._since
        self._limit.reschedule(None)
        try:
            yield
        finally:
            self._since = _now()
            if not self._limit.expired():
                self._limit.reschedule(self._since + self._left)

    def allows(self, seconds: float) -> bool:
        """Whether so much more waiting is left."""
        return seconds < self._left

    async def sleep(self, seconds: float) -> None:
        """Wait; it counts."""
        self._left -= seconds
        await asyncio.sleep(seconds)

    def brought(self, count: int) -> None:
        """`count` new bytes are here."""
        self._bytes += count
        if self._bytes >= self._enough:
            self.renew()

    def renew(self) -> None:
        """There was progress: all the time is there again."""
        self._left, self._bytes, self._since = self.seconds, 0, _now()
        if self._limit is not None and not self._limit.expired() and self._limit.when() is not None:
            self._limit.reschedule(self._since + self._left)


def _now() -> float:
    return asyncio.get_running_loop().time()
