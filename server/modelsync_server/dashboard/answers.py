"""Keeps what the hub answered for a while, so that no view costs more than the first one. One question in flight a key.

What is old is shown with its age while it is asked for anew, so a fleet of any size never keeps a page waiting twice.
An answer that can't be had again is shown with its age and the reason. No HTTP here.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from modelsync_protocol.errors import ModelsyncError

_MOST = 500
"""Answers that are kept: a view that nobody looks at goes first."""
_PATIENCE_SECONDS = 0.5
"""So long a page waits for a newer answer than the one that it has."""
_AT_ONCE = 2
"""Questions at the hub at the same time."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was answered `age` seconds ago; `trouble` says why it could not be asked again."""

    value: T
    age: float
    trouble: str = ""


@dataclass(slots=True)
class _Kept:
    value: Any
    at: float
    asked: float
    """When it was asked last, in vain too: a hub that refuses is left alone for a while."""
    trouble: str = ""
    wrong: bool = False
    """Something was changed: it has to be asked again before it is shown."""


class Answers:
    """Answers by key. `seconds`: how long one is good enough."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._asking: dict[Hashable, asyncio.Task[Any]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[T]], times: float = 1.0) -> Answer[T]:
        """The kept answer, or a new one. `times` as long as others it is good enough.

        Raises what asking raises (ModelsyncError) if there is none to show.
        """
        kept = self._kept.get(key)
        if kept is None:
            await asyncio.shield(self._task(key, ask))
        for _ in range(2):  # a question may have been under way when something was changed
            kept = self._kept[key]
            if not kept.wrong and self._clock() - kept.asked <= self.seconds * times:
                break
            task = self._task(key, ask)
            try:
                await asyncio.wait_for(asyncio.shield(task), None if kept.wrong else _PATIENCE_SECONDS)
            except (ModelsyncError, TimeoutError):
                break  # what is kept is shown, with its age, and with the trouble if there is one
        kept = self._kept[key]
        self._kept.move_to_end(key)
        return Answer(kept.value, max(0.0, self._clock() - kept.at), kept.trouble)

    def forget(self, concerns: Callable[[Hashable], bool] = lambda key: True) -> None:
        """Something was changed: what was answered before may be wrong."""
        for key, kept in self._kept.items():
            kept.wrong = kept.wrong or concerns(key)

    def _task(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.ensure_future(self._ask(key, ask))
            # Nobody may be waiting any more when it fails: the reason is kept beside the old answer.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _ask(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        kept = self._kept.get(key)
        try:
            async with self._slots:
                if kept is not None:
                    kept.wrong = False
                value = await ask()
        except ModelsyncError as error:
            if kept is not None:
                kept.trouble, kept.asked, kept.wrong = str(error), self._clock(), False
            raise
        else:
            now = self._clock()
            wrong = kept is not None and kept.wrong  # changed while it was asked
            self._kept[key] = _Kept(value, now, now, wrong=wrong)
            self._kept.move_to_end(key)
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
            return value
        finally:
            self._asking.pop(key, None)

    def keep(self, key: Hashable, value: Any) -> None:
        """Keep what somebody was told who did not come by `get`."""
        now = self._clock()
        self._kept[key] = _Kept(value, now, now)
        self._kept.move_to_end(key)

    def told(self, key: Hashable) -> Answer[Any] | None:
        """What is kept, without asking."""
        kept = self._kept.get(key)
        return None if kept is None else Answer(kept.value, max(0.0, self._clock() - kept.at), kept.trouble)
