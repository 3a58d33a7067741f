"""Puts the reported twin into the outbox whenever something has changed. It neither builds it nor sends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_REPORT_SECONDS = 0.3
_BRIEF_SECONDS = 5.0
"""What is prepared within this time is reported when it is: a report costs more than a small update's trust."""


class Reporting:
    """`preparing()`: whether an update is on its way; `report()` puts what is so now into the outbox."""

    def __init__(self, preparing: Callable[[], bool], report: Callable[[], None]) -> None:
        self._preparing, self._report = preparing, report
        self._dirty = asyncio.Event()

    @property
    def due(self) -> bool:
        """Whether something is still to be reported."""
        return self._dirty.is_set()

    def changed(self) -> None:
        """There is something new."""
        self._dirty.set()

    async def run(self) -> None:
        """Report at the start, and after each change; changes that follow each other closely are one report."""
        self._dirty.set()
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_REPORT_SECONDS)
            for _ in range(round(_BRIEF_SECONDS / _REPORT_SECONDS)):
                if not self._preparing():
                    break
                await asyncio.sleep(_REPORT_SECONDS)
            self._dirty.clear()
            self._report()
