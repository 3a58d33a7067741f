"""An origin shared with neighbours: of those that want an object one fetches it, the others take it from that one.

It knows no plan and no trust. Whatever comes from a neighbour is only hearsay until its reader says that it is sound;
what is not is asked for again, of somebody else and at last of the origin, and nobody waits long for a neighbour.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from modelsync_daemon.disk.spool import Spool, Writer
from modelsync_daemon.transfer.download import named
from modelsync_daemon.transfer.neighbours import MOST_ATTEMPTS, NeighbourFailed, NeighbourLies, Neighbours, Waiting
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_daemon.transfer.site_body import SiteBody
from modelsync_protocol import site
from modelsync_protocol.site import Verb

_NEXT_ROOT = ".root.json"
"""Asked for to hear that there is none, once a day: a neighbour's word for that is worth nothing."""

_SHARED_BYTES = 64 * 1024
"""Who took so much from a neighbour, and found it sound, says that it has it too."""

_log = logging.getLogger(__name__)


class OnNeighbour(Protocol):
    """Who is told what neighbours give."""

    def __call__(self, target: str, holder: str, *, wrong: bool) -> None:
        """As build.request.Listener.neighbour."""


class SiteOrigin:
    """`origin`, whose URL is `url`, shared with the neighbours of `access`. Use as an async context manager.

    `on_traffic(received, sent, wasted)` gets increments: bytes exchanged with neighbours, and bytes that were not what
    they should be. `on_neighbour(object, holder, wrong=…)` is told who gives what, and who gave it wrong.
    """

    def __init__(
        self,
        origin: Origin,
        url: str,
        access: SiteAccess,
        on_traffic: Callable[[int, int, int], None],
        on_neighbour: OnNeighbour,
    ) -> None:
        self.origin, self.access = origin, access
        self._on_neighbour = on_neighbour
        self.neighbours = Neighbours(access)
        self._url, self._on_traffic = url, on_traffic
        self._spool = Spool(Path(access.folder), access.quota)
        self._writers: dict[str, Writer | None] = {}
        self._leases: dict[str, int] = {}
        self._givers: dict[str, set[str]] = {}
        self._taken: dict[str, int] = {}
        self._refused: dict[str, set[str]] = {}
        self._alone: set[str] = set()
        self._wasted = 0
        self._renewing: asyncio.Task[None] | None = None
        self.hearsay = False
        """Whether trust metadata or offers came from a neighbour: they may be stale, or leave something out."""

    async def __aenter__(self) -> SiteOrigin:
        await self.neighbours.__aenter__()
        self._renewing = asyncio.ensure_future(self._renew())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._renewing is not None
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        if kind is None:
            await self._sound()
        for key, attempt in self._leases.items():  # another may go on at once
            await self.neighbours.tell(Verb.GONE, key, attempt)
        for writer in self._writers.values():
            if writer is not None:
                writer.close()
        await self.neighbours.__aexit__(kind, error, trace)
        self._tell()

    async def get(self, path: str, limit: int) -> bytes:
        """As of ObjectSource."""
        target = self.target(path)
        key, attempt = site.key_of(target), 0
        if site.is_mutable(path):
            self._spool.drop(target)
        writer = self._spool.write(target)
        if writer is not None:
            writer.plan(0, None)
        try:
            if not self.alone(path):
                data, attempt = await self._from_neighbours(path, key, limit)
                if data is not None:
                    if writer is not None:
                        writer.drop()
                    self.hearsay = self.hearsay or site.is_mutable(path)
                    return data
            self.lease(path, attempt)
            data = await self.origin.get(path, limit)
        except BaseException:
            if writer is not None:
                writer.drop()
            await self.release(path, Verb.GONE)
            raise
        if writer is not None:
            writer.write(0, data)
            writer.size(len(data))
            writer.settle()
        await self.release(path, Verb.DONE)
        return data

    async def _from_neighbours(self, path: str, key: str, limit: int) -> tuple[bytes | None, int]:
        """The object as a neighbour has it, if one has in time; and how many were tried."""
        waiting, attempt = self.waiting(path), 0
        while attempt < MOST_ATTEMPTS:
            holder = await self.neighbours.who(key, self.refused(path), attempt, waiting)
            if holder is None:
                break
            data = b""
            try:
                async with waiting.limited():
                    data = await self.neighbours.fetch(holder, self.target(path), limit)
            except (NeighbourFailed, TimeoutError) as error:
                self.strike(path, holder, error, 0)
                attempt += 1
                continue
            self.took(path, holder, len(data))
            return data, attempt
        return None, attempt

    async def size(self, path: str) -> int | None:
        """As of ObjectSource."""
        return await self.origin.size(path)

    def open(self, path: str, offset: int, end: int, *, whole: bool, etag: str = "") -> SiteBody:
        """As of ObjectSource."""
        return SiteBody(self, path, offset, end, whole, etag)

    def newer_offers(self) -> bytes | None:
        """Only a parcel says."""
        return None

    def mistrust(self, path: str) -> bool:
        """What came of this object is not what it should be: ask no neighbour for it again.

        True if neighbours gave any of it, so that asking the origin may help.
        """
        givers = self._givers.pop(path, set())
        for giver in givers:
            self._refused_by(path).add(giver)
            self._on_neighbour(self.target(path), giver, wrong=True)
            self.neighbours.present.discard(giver)
        if givers:
            wasted = self._taken.pop(path, 0)
            self._wasted += wasted
            _log.warning(
                "%s came wrong from %s (%d bytes): it is fetched from the origin.",
                named(path), ", ".join(sorted(givers)), wasted,
            )  # fmt: skip
            self._alone.add(path)
            writer = self._writers.pop(path, None)
            if writer is not None:
                writer.drop()
        return bool(givers)

    def target(self, path: str) -> str:
        """What neighbours call the object."""
        return site.target_of(path, self._url)

    def alone(self, path: str) -> bool:
        """Whether this object is to come from the origin."""
        lonely = not self.neighbours.present
        return (
            lonely or path in self._alone or path.endswith(_NEXT_ROOT) or (self.access.fresh and site.is_mutable(path))
        )

    def waiting(self, path: str) -> Waiting:
        """How long neighbours are waited for with this object."""
        return self.neighbours.waiting(site.key_of(self.target(path)))

    def refused(self, path: str) -> frozenset[str]:
        """Neighbours that have failed with this object."""
        return frozenset(self._refused_by(path))

    def _refused_by(self, path: str) -> set[str]:
        if path not in self._refused:
            self._refused[path] = set(self.access.refused.get(self.target(path), ()))
        return self._refused[path]

    def strike(self, path: str, holder: str, error: BaseException | str, wasted: int) -> None:
        """A neighbour failed: it is not asked for this object again. `wasted`: bytes of it that are worth nothing."""
        why = "it took too long" if isinstance(error, TimeoutError) else str(error)
        level = logging.WARNING if wasted else logging.INFO
        _log.log(level, "%s is not taken from %s any more: %s", named(path), holder, why)
        self._refused_by(path).add(holder)
        if wasted or isinstance(error, NeighbourLies):
            self._on_neighbour(self.target(path), holder, wrong=True)
        self._wasted += wasted
        if wasted or isinstance(error, TimeoutError | NeighbourLies):
            self.neighbours.present.discard(holder)  # for all that this visit is about
        self._tell()

    def took(self, path: str, holder: str, count: int) -> None:
        """Bytes of an object came from a neighbour."""
        givers = self._givers.setdefault(path, set())
        if holder not in givers:
            givers.add(holder)
            self._on_neighbour(self.target(path), holder, wrong=False)
        self._taken[path] = self._taken.get(path, 0) + count
        self._tell()

    def writer(self, path: str, begin: int, end: int, *, whole: bool) -> Writer | None:
        """Where the bytes of this object are kept for neighbours, if there is room."""
        if path not in self._writers:
            self._writers[path] = self._spool.write(self.target(path))
        writer = self._writers[path]
        if writer is not None:
            writer.plan(begin, end)
            if whole:
                writer.size(end)
        return writer

    def lease(self, path: str, attempt: int) -> None:
        """This device fetches the object now, and says so until `release`."""
        self._leases[site.key_of(self.target(path))] = attempt

    async def release(self, path: str, verb: Verb) -> None:
        """It is here whole, or is not fetched any more."""
        key = site.key_of(self.target(path))
        attempt = self._leases.pop(key, None)
        if attempt is not None and self.neighbours.present:
            await self.neighbours.tell(verb, key, attempt)
        self._tell()

    async def _sound(self) -> None:
        """All went well, so all that came is sound: it can be had from this device."""
        for path, writer in self._writers.items():
            if writer is not None:
                writer.settle()
            if self._taken.get(path, 0) >= _SHARED_BYTES and self.neighbours.present:
                with contextlib.suppress(NeighbourFailed):
                    await self.neighbours.tell(Verb.DONE, site.key_of(self.target(path)), 0)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(site.RENEW_SECONDS)
            for key, attempt in list(self._leases.items()):
                await self.neighbours.tell(Verb.HOLD, key, attempt)

    def _tell(self) -> None:
        received, sent = self.neighbours.meter.news()
        wasted, self._wasted = self._wasted, 0
        if received or sent or wasted:
            self._on_traffic(received, sent, wasted)
