"""Puts content-named objects into a store, a few at a time. It decides neither what nor when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

from modelsync_server.scratch.parts import Parts
from modelsync_server.store import AlreadyExists, Store

PARALLEL_UPLOADS = 4
"""Objects on their way at once: enough to hide a round trip, few enough for a thin line."""


async def put(store: Store, path: str, data: Parts) -> bool:
    """Create one object; False if there is one already, which stays."""
    with ExitStack() as stack, suppress(AlreadyExists):
        source = await asyncio.to_thread(stack.enter_context, data.source())
        await store.create(path, source)
        return True
    return False


async def upload(store: Store, objects: Mapping[str, Parts], progress: Callable[[str, int, int], None]) -> None:
    """Create each path with its bytes; one that is there already holds the same, since names are digests.

    `progress("uploading", bytes done, bytes in all)`. The first error is raised once all calls have ended.
    """
    slots = asyncio.Semaphore(PARALLEL_UPLOADS)
    total, done = sum(map(len, objects.values())), 0
    progress("uploading", 0, total)

    async def one(path: str, data: Parts) -> None:
        nonlocal done
        async with slots:
            await put(store, path, data)
        done += len(data)
        progress("uploading", done, total)

    results = await asyncio.gather(*(one(path, data) for path, data in objects.items()), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
