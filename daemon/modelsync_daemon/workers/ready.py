"""One worker that is there, with its child, before there is a job: for seconds after a notice, or always.

It has read nothing by then but our own code, and confines itself once it knows its job, as every worker does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from modelsync_daemon.workers.zygote import ForkedChild, ZygoteGone

_KEPT_SECONDS = 20.0
"""From a notice: reading what is desired, and a burst of notices, take less."""

_AGAIN_SECONDS = 2.0
"""After a job, before the next worker is made ready: what is reported of the job comes first."""

_MOST_IN_VAIN = 3
"""So many notices in a row that brought no job: this device's are about something else, until one does again."""

_log = logging.getLogger(__name__)


class Ready:
    """The worker that waits, if one does. `one` is held by whoever starts, ends or uses a worker of the zygote."""

    def __init__(self, start: Callable[[], Awaitable[ForkedChild]], one: asyncio.Semaphore, *, always: bool) -> None:
        self._start, self._one, self._always = start, one, always
        self._child: ForkedChild | None = None
        self._task: asyncio.Task[None] | None = None
        self._in_vain = 0

    def expect(self) -> None:
        """A job may come soon, or is to find a worker whenever it comes. Costs nothing where one waits or works."""
        if self._task is None and not self._one.locked() and (self._always or self._in_vain < _MOST_IN_VAIN):
            self._begin(0.0)

    async def take(self) -> ForkedChild | None:
        """The worker that waits, for the caller, who holds `one`; None if there is none, or it died while it waited."""
        child, self._child = self._child, None
        self._in_vain = 0
        if child is None:
            return None
        if _dead(child):
            await child.wait()
            return None
        return child

    def used(self) -> None:
        """The caller of `take` is done with its worker, and still holds `one`."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._always:
            self._begin(_AGAIN_SECONDS)

    async def close(self) -> None:
        """End the worker that waits, and make none any more."""
        async with self._one:
            self._always = False
            self.used()
            await self._end()

    def _begin(self, pause: float) -> None:
        self._task = asyncio.ensure_future(self._keep(pause))

    async def _keep(self, pause: float) -> None:
        await asyncio.sleep(pause)
        async with self._one:
            if self._child is None:
                await self._make()
        if self._always:
            return
        await asyncio.sleep(_KEPT_SECONDS)
        async with self._one:
            if self._child is not None:
                self._in_vain += 1
                await self._end()
            self._task = None

    async def _make(self) -> None:
        try:
            self._child = await self._start()
        except ZygoteGone as error:
            _log.warning("no worker is made ready: %s", error)
        except OSError as error:
            _log.warning("no worker can be made ready (%s); free some memory.", error.strerror)

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if not _dead(child):
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await child.wait()


def _dead(child: ForkedChild) -> bool:
    """Whether it ended while it waited (where memory runs out it is the first to go): its number may be another's."""
    return child.stdout.at_eof()
