"""Reads one range of one object in order: from a neighbour while that goes well, else from the origin.

Bytes of the origin are shown to neighbours at once, bytes of a neighbour once their reader says that they are sound.
A neighbour that brings the object later than our own line would is left: a piece is fetched over both, to compare.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import aiohttp

from modelsync_daemon.disk.spool import Writer
from modelsync_daemon.transfer.errors import Distrusted
from modelsync_daemon.transfer.neighbours import MOST_ATTEMPTS, NeighbourFailed, Neighbours, Waiting
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_daemon.transfer.range_body import Body
from modelsync_protocol import site
from modelsync_protocol.errors import ModelsyncError
from modelsync_protocol.site import Verb

_READ_BYTES = 16 * 1024
_MOST_LOST_SECONDS = 5.0
"""A neighbour is left if our own line would have the rest so much sooner."""

_PIECE_SHARE, _PIECE_LEAST, _PIECE_MOST = 256, 2 * 1024, 128 * 1024
"""All of a site together fetch such a part of the rest to compare; each at least and at most so many bytes."""

_MOST_HIDDEN_BYTES = 512 * 1024
"""So much of what is not judged yet is kept in memory."""

_LINE_KNOWN_SECONDS = 60.0
"""So long what was measured of our own line holds the first time, and twice as long each further time."""

_log = logging.getLogger(__name__)


class Shared(Protocol):
    """What is needed of the origin that is shared; site_origin.SiteOrigin is one."""

    @property
    def origin(self) -> Origin:
        """Our own line."""

    @property
    def neighbours(self) -> Neighbours:
        """Who else is here."""

    def target(self, path: str) -> str:
        """What neighbours call an object."""

    def alone(self, path: str) -> bool:
        """Whether no neighbour is to be asked for it."""

    def waiting(self, path: str) -> Waiting:
        """How long neighbours are waited for with this object."""

    def refused(self, path: str) -> frozenset[str]:
        """Neighbours that have failed with it."""

    def strike(self, path: str, holder: str, error: BaseException | str, wasted: int) -> None:
        """One more has."""

    def took(self, path: str, holder: str, count: int) -> None:
        """Bytes came from a neighbour."""

    def mistrust(self, path: str) -> bool:
        """Take it from the origin from now on."""

    def writer(self, path: str, begin: int, end: int, *, whole: bool) -> Writer | None:
        """Where what comes is kept for neighbours."""

    def lease(self, path: str, attempt: int) -> None:
        """This device fetches it now."""

    async def release(self, path: str, verb: Verb) -> None:
        """It is here, or is not fetched any more."""


class SiteBody:
    """Bytes from `position` up to `end` of the object at `path`; see ObjectReader and range_body.Body."""

    def __init__(self, shared: Shared, path: str, position: int, end: int, whole: bool, etag: str) -> None:
        self._site, self.path, self.position, self.etag = shared, path, position, etag
        self._end, self._whole = end, whole
        self._key = site.key_of(shared.target(path))
        self._ahead = b""
        self._own: Body | None = None
        self._stream: aiohttp.ClientResponse | None = None
        self._holder = ""
        self._writer: Writer | None = None
        self._opened = False
        self._attempt = 0
        self._waiting = shared.waiting(path)
        self._pending: list[tuple[int, int, str]] = []
        """Offset, length and giver of what was read and is not judged yet."""
        self._hidden: list[tuple[int, bytes]] = []
        """What of it neighbours are not shown yet."""
        self._hidden_bytes = 0
        self._since, self._marked, self._came = 0.0, 0.0, 0
        self._line, self._line_until, self._line_known = 0.0, 0.0, _LINE_KNOWN_SECONDS

    @property
    def hearsay(self) -> bool:
        """Whether bytes that were read since the last `accept` came from a neighbour."""
        return bool(self._pending)

    async def read(self, count: int) -> bytes:
        """Return exactly the next `count` bytes. Raises what range_body.Body raises."""
        parts = [self._ahead[:count]] if self._ahead else []
        self._ahead = self._ahead[count:]
        missing = count - sum(map(len, parts))
        self.position += count - missing
        while missing:
            part = await self._some(min(missing, _READ_BYTES))
            parts.append(part)
            missing -= len(part)
            self.position += len(part)
        if self.position >= self._end:
            await self._finish()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def unread(self, data: bytes) -> None:
        """Give back the last bytes that were read; they come again first."""
        self._ahead = data + self._ahead
        self.position -= len(data)

    async def skip_to(self, position: int) -> None:
        """Go forward to `position` of the object."""
        if self._own is None and self._stream is None and not self._ahead:
            self.position = position
        elif position > self.position:
            await self.read(position - self.position)

    def accept(self) -> None:
        """All that was read is sound as far as its reader can tell: neighbours may have it."""
        self._show()
        self._pending.clear()

    async def again(self, begin: int, count: int) -> bytes | None:
        """Bytes that were not sound, from somebody else; None if the origin itself gave them.

        Raises Distrusted if what told how to read them came from a neighbour too.
        """
        if not self._pending:
            return None
        if self.path.startswith("updates/") and any(offset < begin for offset, _, _ in self._pending):
            self._site.mistrust(self.path)
            raise Distrusted("an update whose head a neighbour gave does not decode.")
        for giver in {holder for _, _, holder in self._pending}:
            wasted = sum(length for _, length, holder in self._pending if holder == giver)
            self._site.strike(self.path, giver, "what it sends is not what it should be.", wasted)
        self._pending.clear()
        self._hidden.clear()
        self._hidden_bytes = 0
        self._attempt += 1
        self._drop_streams()
        self._ahead, self.position = b"", begin
        return await self.read(count)

    def _show(self) -> None:
        for offset, data in self._hidden:
            if self._writer is not None:
                self._writer.write(offset, data)
        self._hidden.clear()
        self._hidden_bytes = 0

    def close(self) -> None:
        """Drop what is open; reading goes on with new requests."""
        self._drop_streams()

    def _drop_streams(self) -> None:
        if self._own is not None:
            self.etag = self._own.etag or self.etag
            self._own.close()
            self._own = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._opened = False

    async def _finish(self) -> None:
        if self._own is not None:
            await self._site.release(self.path, Verb.DONE)
        if self._stream is not None:
            self._stream.release()
            self._stream = None
        self._drop_streams()

    async def _some(self, most: int) -> bytes:
        """Some of the next bytes, at least one."""
        while True:
            if self._own is None and self._stream is None:
                await self._choose()
            if self._own is not None:
                part = await self._own.read(most)
                self.etag = self._own.etag
                if self._writer is not None:
                    self._writer.write(self.position, part)
                return part
            part = await self._from_neighbour(most)
            if part:
                return part

    async def _choose(self) -> None:
        """Open the object with a neighbour that has or fetches it, else with the origin."""
        if not self._opened:
            self._opened = True
            self._writer = self._site.writer(self.path, self.position, self._end, whole=self._whole)
        while not self._site.alone(self.path) and self._attempt < MOST_ATTEMPTS:
            refused = self._site.refused(self.path)
            holder = await self._site.neighbours.who(self._key, refused, self._attempt, self._waiting)
            if holder is None:
                break
            if await self._follow(holder):
                return
        self._use_line()

    async def _follow(self, holder: str) -> bool:
        try:
            async with self._waiting.limited():
                self._stream = await self._site.neighbours.open(
                    holder, self._site.target(self.path), self.position, self._end
                )
        except (NeighbourFailed, TimeoutError) as error:
            self._left(holder, error)
            return False
        self._holder, self._since, self._marked, self._came = holder, _now(), _now(), 0
        return True

    def _left(self, holder: str, why: BaseException | str) -> None:
        self._site.strike(self.path, holder, why, 0)
        self._attempt += 1
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _use_line(self) -> None:
        self._show()  # who follows us now needs what we have, judged or not
        self._site.lease(self.path, self._attempt)
        self._site.origin.complete()  # what a neighbour made us wait is not the origin's
        self._own = self._site.origin.open(self.path, self.position, self._end, whole=self._whole, etag=self.etag)

    async def _from_neighbour(self, most: int) -> bytes:
        assert self._stream is not None
        try:
            async with self._waiting.limited():
                part = await self._site.neighbours.read(self._holder, self._stream, most)
            if not part:
                raise NeighbourFailed("it ended early.")
        except (NeighbourFailed, TimeoutError) as error:
            self._left(self._holder, error)
            return b""
        self._came += len(part)
        self._pending.append((self.position, len(part), self._holder))
        self._hidden.append((self.position, part))
        self._hidden_bytes += len(part)
        if self._hidden_bytes > _MOST_HIDDEN_BYTES:  # a long head: memory is dearer
            self._show()
        self._site.took(self.path, self._holder, len(part))
        if _now() - self._marked >= self._waiting.first / (1 + self._attempt):
            await self._compare(self.position + len(part))
        return part

    async def _compare(self, position: int) -> None:
        """Look how fast the neighbour was lately; leave it if the rest would come much sooner over our own line."""
        rate = self._came / (_now() - self._marked)
        self._marked, self._came = _now(), 0
        rest = self._end - position
        if rest <= 0 or rest / rate <= _MOST_LOST_SECONDS:
            return
        if self._line_until > _now() and not self._sooner(rest, rate):
            return
        share = _PIECE_SHARE * max(1, len(self._site.neighbours.present))
        count = min(rest, max(_PIECE_LEAST, min(rest // share, _PIECE_MOST)))
        piece = self._site.origin.open(self.path, position, position + count, whole=False)
        begin, data = _now(), b""
        try:
            async with asyncio.timeout(count / rate + _MOST_LOST_SECONDS / 5):
                data = await piece.read(count)
        except (TimeoutError, ModelsyncError):  # our own line is no better, or is another's just now
            _log.debug("%s: our own line is no faster than %s.", self.path, self._holder)
        finally:
            piece.close()
        self._line, self._line_until = len(data) / max(_now() - begin, 1e-3), _now() + self._line_known
        self._line_known *= 2
        if data and self._writer is not None:
            self._writer.write(position, data)
        if data and self._sooner(rest, rate):
            self._waiting.lose(_now() - self._since)
            self._left(self._holder, "our own line is faster.")
        self._marked = _now()

    def _sooner(self, rest: int, rate: float) -> bool:
        return self._line > 0 and rest / rate - rest / self._line > _MOST_LOST_SECONDS


def _now() -> float:
    return asyncio.get_running_loop().time()
