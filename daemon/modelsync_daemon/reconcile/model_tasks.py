"""One task a model: what is under way, for which wish; started, looked up and stopped. What they do is the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from modelsync_daemon.reconcile.decision import fingerprint
from modelsync_protocol.twin import Wish

Work = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Running:
    task: asyncio.Task[None]
    wish: str


class ModelTasks:
    """The running tasks by model name. Each `work` handles its own errors."""

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._running

    def __bool__(self) -> bool:
        return bool(self._running)

    def serves(self, name: str, wish: Wish) -> bool:
        """Whether what runs for `name` was started for this very wish."""
        return name in self._running and self._running[name].wish == fingerprint(wish)

    def start(self, name: str, work: Work, wish: Wish) -> None:
        """Begin `work` for `name`, for which nothing runs."""
        self._running[name] = _Running(asyncio.ensure_future(self._until_done(name, work)), fingerprint(wish))

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

    async def _until_done(self, name: str, work: Work) -> None:
        try:
            await work()
        finally:
            running = self._running.get(name)
            if running is not None and running.task is asyncio.current_task():
                del self._running[name]
