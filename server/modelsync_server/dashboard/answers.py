"""Keeps what the hub answered for a while, so that no view costs more than the first one: one question in flight a key.

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

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was answered `age` seconds ago; `trouble` says why it could not be asked again."""

    value: T
    age: float
    trouble: str = ""


class Answers:
    """Answers by key. `seconds`: how long one is good enough."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[Any, float, str]] = OrderedDict()
        self._asking: dict[Hashable, asyncio.Task[Any]] = {}

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> Answer[T]:
        """The kept answer, or a new one. Raises what asking raises (ModelsyncError) if there is none to show."""
        kept = self._kept.get(key)
        if kept is None or self._clock() - kept[1] > self.seconds:
            try:
                await asyncio.shield(self._task(key, ask))
            except ModelsyncError as error:
                if kept is None:
                    raise
                self._kept[key] = (kept[0], kept[1], str(error))
        value, at, trouble = self._kept[key]
        self._kept.move_to_end(key)
        return Answer(value, max(0.0, self._clock() - at), trouble)

    def forget(self) -> None:
        """Something was changed: what was answered before may be wrong."""
        for key, (value, _, trouble) in self._kept.items():
            self._kept[key] = (value, float("-inf"), trouble)

    def _task(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        task = self._asking.get(key)
        if task is None:

            async def run() -> T:
                try:
                    value = await ask()
                    self._kept[key] = (value, self._clock(), "")
                    while len(self._kept) > _MOST:
                        self._kept.popitem(last=False)
                    return value
                finally:
                    self._asking.pop(key, None)

            task = self._asking[key] = asyncio.ensure_future(run())
        return task
