"""One application as the settings describe it (the port of activate/consumer.py): told, waited for, watched."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from modelsync_daemon.activate.consumer import NotServing, NotThere
from modelsync_daemon.consumers.actions import Action
from modelsync_daemon.consumers.checks import Check
from modelsync_daemon.consumers.templates import Values, values_of
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Pointer

_LOOK_SECONDS = 10.0
"""How long one look may take, of those that are repeated."""

_SHORTEST_SECONDS = 1.0
"""The last look before the time is over gets so much, lest its own haste be the reason that is told."""

_MAX_FAILURES = 3
"""So many looks in a row that fail, or so many times that it came back as another process, end a probation."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How an application is told. `seconds` for the action; `check` before the switch, for `check_seconds`; then every
    look of `ready` has to succeed within `ready_seconds`, tried `every` so many seconds, on probation too."""

    action: Action
    seconds: float
    check: Check | None = None
    check_seconds: float = 30.0
    ready: tuple[Check, ...] = ()
    ready_seconds: float = 30.0
    every: float = 2.0


class Application:
    """One model's application. It keeps nothing but who answered last."""

    def __init__(self, plan: Plan, data: DataDir) -> None:
        self.plan, self._data = plan, data

    async def examine(self, pointer: Pointer) -> None:
        """As of Consumer."""
        try:
            await self.plan.action.reach(_LOOK_SECONDS)
        except NotThere as error:
            if pointer.previous is not None or not error.passing:
                raise
        if self.plan.check is not None:
            await self.plan.check.look(self._values(pointer), self.plan.check_seconds)

    async def load(self, pointer: Pointer) -> None:
        """As of Consumer."""
        values = self._values(pointer)
        await self.plan.action.perform(values, self.plan.seconds)
        deadline = time.monotonic() + self.plan.ready_seconds
        while True:
            left = deadline - time.monotonic()
            try:
                await self._look(values, min(max(left, _SHORTEST_SECONDS), _LOOK_SECONDS))
                return
            except NotServing as error:
                if time.monotonic() + self.plan.every >= deadline:
                    raise NotServing(
                        f"it was told and was not ready within {self.plan.ready_seconds:g} s: {error}"
                    ) from error
            await asyncio.sleep(self.plan.every)

    async def watch(self, pointer: Pointer) -> str:
        """As of Consumer."""
        values, failures, returns, mark = self._values(pointer), 0, 0, ""
        while True:
            try:
                now = await self._look(values, _LOOK_SECONDS)
                failures, returns = 0, returns + bool(mark and now != mark)
                mark = now
                text = f"the application ended and came back {returns} times while the version was on probation."
            except NotServing as error:
                failures, text = failures + 1, f"the application stopped being ready: {error}"
            if max(failures, returns) >= _MAX_FAILURES:
                return text
            await asyncio.sleep(self.plan.every)

    async def _look(self, values: Values, seconds: float) -> str:
        return " ".join([await check.look(values, seconds) for check in self.plan.ready])

    def _values(self, pointer: Pointer) -> Values:
        return values_of(self._data, pointer)
