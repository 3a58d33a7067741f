"""One task a model: what is under way, for which wish; started, looked up and stopped. What they do is the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class _Running:
    task: asyncio.Task[None]
    wish: str


class ModelTasks:
    """The running tasks by model name. What runs handles its own errors, and says `ended` last of all."""

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._running

    def __bool__(self) -> bool:
        return bool(self._running)

    def serves(self, name: str, wish: str) -> bool:
        """Whether what runs for `name` was started for this very wish (a fingerprint)."""
        return name in self._running and self._running[name].wish == wish

    def start(self, name: str, work: Coroutine[None, None, None], wish: str) -> None:
        """Begin `work` for `name`, for which nothing runs."""
        self._running[name] = _Running(asyncio.ensure_future(work), wish)

    def ended(self, name: str) -> None:
        """The current task is done with `name`; nothing happens if another one took its place."""
        running = self._running.get(name)
        if running is not None and running.task is asyncio.current_task():
            del self._running[name]

    async def stop(self, name: str) -> bool:
        """Cancel `name`'s task and wait for its end; False if there is none."""
        running = self._running.get(name)
        if running is None:
            return False
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
        self._running.pop(name, None)
        return True

    def all(self) -> Iterable[asyncio.Task[None]]:
        """The tasks, for whoever ends them all."""
        return [running.task for running in self._running.values()]
