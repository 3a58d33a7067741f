"""Deletes what nothing refers to, beside publishers that go on publishing.

A publisher finds an object there by its digest and doesn't write it again, just when we are about to delete it. So what
is about to go is first named in a mark; then the signed metadata are read again; only then it is deleted, some at a
time, each lot claimed in the mark before, and the mark last of all. A publisher looks for the mark after it has signed
(store/collected.py): either we have seen its signature, or it takes what it needs out of the mark before we claim it,
or what it needs is gone already, and then it writes it again.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from modelsync_protocol import trust
from modelsync_protocol.errors import FormatError
from modelsync_server.retention.references import Progress, inventory, kept, old_metadata
from modelsync_server.store import AlreadyExists, ObjectNotFound, Store, StoreConflict, TagMismatch
from modelsync_server.store.collected import MARK
from modelsync_server.trust import read_catalogue

DEFAULT_GRACE = timedelta(days=1)
"""What is younger is left alone: a publication that is on its way, a device's visit."""

_LAPSED = timedelta(hours=1)
"""An older mark is a crashed collector's."""

_AT_ONCE = 16

_CLAIMED = 2048
"""So many objects are claimed at a time: a publisher that needs one of them waits until they are gone."""


@dataclass(frozen=True, slots=True)
class Collected:
    """How many objects of how many bytes went, or would; and how many that nothing refers to are too young."""

    objects: int
    bytes: int
    young: int


async def collect(
    store: Store,
    *,
    grace: timedelta = DEFAULT_GRACE,
    dry_run: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Progress = lambda stage, done, total: None,
) -> Collected:
    """Delete objects that nothing refers to for at least `grace`. May be repeated, and broken off anywhere.

    RefusedError if the store doesn't verify or a live version is damaged (what it needs is not known); StoreConflict if
    another collector works there.
    """
    doomed, young = await _unreferenced(store, grace, now(), progress)
    if dry_run or not doomed:
        return Collected(len(doomed), sum(doomed.values()), young)
    mark = _Mark(store, now)
    await mark.put(sorted(doomed))
    deleted: list[str] = []
    try:
        # Whoever signed since we looked is seen now; whoever signs from here on sees the mark.
        still, _ = await _unreferenced(store, grace, now(), progress)
        going = [path for path in sorted(doomed) if path in still]
        slots = asyncio.Semaphore(_AT_ONCE)
        freed, total = 0, sum(doomed[path] for path in going)
        progress("deleting", 0, total)

        async def one(path: str) -> None:
            nonlocal freed
            async with slots:
                await store.delete(path)
            freed += doomed[path]
            progress("deleting", freed, total)

        # Manifests first: a publisher that finds one takes its packs for granted.
        for lot, later in _lots(sorted(going, key=lambda path: not path.startswith("manifests/"))):
            claimed = await mark.claim(lot, later)
            await asyncio.gather(*map(one, claimed))
            deleted += claimed
    finally:
        await mark.remove()
    return Collected(len(deleted), sum(doomed[path] for path in deleted), young)


def _lots(paths: Sequence[str]) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """What is claimed at once, and what is left for later; manifests, which come first, never with anything else."""
    manifests = sum(path.startswith("manifests/") for path in paths)
    begin = 0
    while begin < len(paths):
        end = min(begin + _CLAIMED, manifests if begin < manifests else len(paths))
        yield paths[begin:end], paths[end:]
        begin = end


async def _unreferenced(
    store: Store, grace: timedelta, moment: datetime, progress: Progress
) -> tuple[dict[str, int], int]:
    progress("reading metadata", 0, 1)
    catalogue = await read_catalogue(store)
    found = await inventory(store, catalogue, progress)
    stay = kept(found, catalogue, set(found.needs))
    free = {path: size for path, size in found.sizes.items() if path not in stay}
    free |= await old_metadata(store, catalogue)
    slots = asyncio.Semaphore(_AT_ONCE)
    looked, total = 0, sum(free.values())

    async def old(path: str) -> bool:
        nonlocal looked
        async with slots:
            try:
                modified = (await store.stat(path)).modified
            except ObjectNotFound:
                return False
        looked += free[path]
        progress("looking at ages", looked, total)
        return moment - modified >= grace if modified is not None else not grace

    ages = await asyncio.gather(*map(old, free))
    doomed = {path: size for (path, size), is_old in zip(free.items(), ages, strict=True) if is_old}
    return doomed, len(free) - len(doomed)


class _Mark:
    """Our mark in the store. Publishers take out of it what they need; another collector may have it once it lapsed."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store, self._now = store, now
        self._owner = secrets.token_hex(8)

    async def put(self, paths: Sequence[str]) -> None:
        """Say what is about to go. StoreConflict if another collector works here."""
        for _ in range(2):
            try:
                await self._store.create(MARK, self._encoded(paths, ()))
                return
            except AlreadyExists:
                if not await self._lapsed():
                    break
                await self._store.delete(MARK)
        raise StoreConflict(
            MARK, "is there: another `modelsync gc` is at work, or was broken off less than an hour ago"
        )

    async def claim(self, paths: Sequence[str], later: Sequence[str]) -> list[str]:
        """Those of `paths` that nobody took out; from now on nobody can. `later`: what is claimed afterwards.
        StoreConflict if the mark is no longer ours."""
        while True:
            try:
                found = await self._store.get_tagged(MARK)
            except ObjectNotFound:
                found = None
            mark = {} if found is None else _parsed(found.data)
            if found is None or mark.get("by") != self._owner:
                raise StoreConflict(MARK, "was taken over by another `modelsync gc`")
            left = set(mark["objects"])
            claimed = [path for path in paths if path in left]
            try:
                data = self._encoded([*claimed, *(path for path in later if path in left)], claimed)
                await self._store.replace(MARK, data, found.etag)
            except TagMismatch:  # a publisher took something out
                continue
            return claimed

    async def remove(self) -> None:
        """Delete it, if it is still ours."""
        try:
            if _parsed(await self._store.get(MARK)).get("by") == self._owner:
                await self._store.delete(MARK)
        except ObjectNotFound:
            return

    async def _lapsed(self) -> bool:
        """Whether the mark that is there is gone, or nobody's any more. One that can't be read lapses by its age."""
        try:
            since = _parsed(await self._store.get(MARK)).get("since")
            try:
                begun = trust.parse_time(since)
            except FormatError:
                begun = (await self._store.stat(MARK)).modified or self._now()
        except ObjectNotFound:
            return True
        return self._now() - begun >= _LAPSED

    def _encoded(self, paths: Sequence[str], going: Collection[str]) -> bytes:
        since = trust.format_time(self._now())
        mark = {"format": 1, "since": since, "by": self._owner, "objects": list(paths), "going": list(going)}
        return json.dumps(mark).encode()


def _parsed(data: bytes) -> dict[str, Any]:
    """What a mark says; nothing for one that can't be read."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
