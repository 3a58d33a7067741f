"""Deletes what nothing refers to, beside publishers that go on publishing.

A publisher finds an object there by its digest and doesn't write it again, just when we are about to delete it. So what
is about to go is first named in a mark; then the signed metadata are read again; only then it is deleted, and the mark
last of all. A publisher looks for the mark after it has signed (store/collected.py): either we have seen its
signature, or it sees the mark, or what it needs is gone already, and then it writes it again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from modelsync_protocol import trust
from modelsync_server.retention.references import Progress, inventory, kept, old_metadata
from modelsync_server.store import AlreadyExists, ObjectNotFound, Store, StoreConflict
from modelsync_server.store.collected import MARK
from modelsync_server.trust import read_catalogue

DEFAULT_GRACE = timedelta(days=1)
"""What is younger is left alone: a publication that is on its way, a device's visit."""

_LAPSED = timedelta(hours=1)
"""An older mark is a crashed collector's."""

_AT_ONCE = 16


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
    await _put_mark(store, sorted(doomed), now())
    try:
        # Whoever signed since we looked is seen now; whoever signs from here on sees the mark.
        still, _ = await _unreferenced(store, grace, now(), progress)
        going = {path: size for path, size in doomed.items() if path in still}
        slots = asyncio.Semaphore(_AT_ONCE)
        deleted, total = 0, sum(going.values())
        progress("deleting", 0, total)

        async def one(path: str) -> None:
            nonlocal deleted
            async with slots:
                await store.delete(path)
            deleted += going[path]
            progress("deleting", deleted, total)

        # Manifests first: a publisher that finds one takes its packs for granted.
        for manifests in (True, False):
            await asyncio.gather(*(one(path) for path in going if path.startswith("manifests/") is manifests))
    finally:
        await store.delete(MARK)
    return Collected(len(going), sum(going.values()), young)


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


async def _put_mark(store: Store, paths: list[str], moment: datetime) -> None:
    data = json.dumps({"format": 1, "since": trust.format_time(moment), "objects": paths}).encode()
    for _ in range(2):
        try:
            await store.create(MARK, data)
            return
        except AlreadyExists:
            try:
                since = trust.parse_time(json.loads(await store.get(MARK))["since"])
            except ObjectNotFound:
                continue
            if moment - since < _LAPSED:
                break
            await store.delete(MARK)
    raise StoreConflict(MARK, "is there: another `modelsync gc` is at work, or was broken off less than an hour ago")
