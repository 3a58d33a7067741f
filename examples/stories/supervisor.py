"""Keeps a process running, as edgeAgent does with `restartPolicy: always`: it ends, it is started again."""

from __future__ import annotations

import asyncio
import contextlib

from examples.demo.stage import Process

_FIRST_SECONDS, _MOST_SECONDS = 0.2, 5.0


class Module:
    """A process that is started again whenever it ends. `restarts` counts; `stop` ends it for good."""

    def __init__(self, process: Process, command: str, *arguments: str, ready: bool = False) -> None:
        """`ready`: it prints a line of JSON when it is ready, kept in `said` (of its first start)."""
        self._process, self._command, self._arguments, self._ready = process, command, arguments, ready
        self._watch: asyncio.Task[None] | None = None
        self.restarts = 0
        self.said: dict[str, object] = {}

    @property
    def pid(self) -> int:
        """The running process."""
        return self._process.pid

    async def start(self) -> dict[str, object]:
        """Start it and keep it running; StageError if it does not come up the first time."""
        self.said = await self._process.start(self._command, *self._arguments, ready=self._ready)
        self._watch = asyncio.create_task(self._keep())
        return self.said

    async def kill(self) -> None:
        """Kill -9; it comes back by itself."""
        self._process.signal_kill()

    async def stop(self) -> None:
        """End it for good: SIGTERM, and SIGKILL if that does not help."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._process.stop()

    async def _keep(self) -> None:
        pause = _FIRST_SECONDS
        while True:
            began = asyncio.get_running_loop().time()
            await self._process.ended()
            self.restarts += 1
            steady = asyncio.get_running_loop().time() - began > 2 * _MOST_SECONDS
            pause = _FIRST_SECONDS if steady else min(_MOST_SECONDS, 2 * pause)
            await asyncio.sleep(pause)
            with contextlib.suppress(OSError):  # no memory just now: the next turn tries again
                await self._process.start(self._command, *self._arguments, ready=False)
