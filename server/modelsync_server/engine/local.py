"""The engine `local`: worker processes on this machine, any of which may be killed.

Not concurrent.futures, whose pool is broken as a whole, with all that waits in it, when one of its processes dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from modelsync_protocol.errors import LocalError
from modelsync_server.engine.answers import may_help, result_of, versions
from modelsync_server.engine.port import ATTEMPTS, Call, Finished

_LINE_BYTES = 64 << 20


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


class LocalEngine:
    """`workers` processes, started when there is something for them; each makes one call at a time."""

    shares_disk = True

    def __init__(self, workers: int | None = None, scratch: Path | None = None) -> None:
        """`scratch`: in which folder workers get theirs for temporary files; None: in Python's."""
        self.workers = cores() if workers is None else workers
        self._place = scratch
        self.retried = 0
        self._idle: list[_Worker] = []
        self._folder: Path | None = None
        self.processes: list[int] = []
        """Process ids of the workers that are alive."""

    async def run(self, calls: Sequence[Call], finished: Finished = lambda number, answer: None) -> list[Any]:
        """See Engine."""
        answers: list[Any] = [None] * len(calls)
        waiting = deque(range(len(calls)))
        begun: Counter[int] = Counter()

        async def serve() -> None:
            worker: _Worker | None = None
            try:
                while waiting:
                    number = waiting.popleft()
                    if worker is None:
                        worker = self._idle.pop() if self._idle else await self._start()
                    begun[number] += 1
                    found = await worker.call(calls[number])
                    if found is None:
                        reason = await self._end(worker)
                        worker = None
                        self._again(calls[number], begun[number], reason)
                        waiting.append(number)
                    elif may_help(found) and begun[number] < ATTEMPTS:
                        self.retried += 1
                        await asyncio.sleep(begun[number])
                        waiting.append(number)
                    else:
                        answers[number] = result_of(found)
                        finished(number, answers[number])
                if worker is not None:
                    self._idle.append(worker)
                    worker = None
            finally:
                if worker is not None:  # it may be in the middle of a call that nobody waits for any more
                    await self._end(worker)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.workers, len(calls))):
                    group.create_task(serve())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return answers

    def threads(self, calls: int) -> int | None:
        """See Engine: the cores are shared out among those that work at once."""
        return max(1, cores() // max(1, min(self.workers, calls)))

    async def close(self) -> None:
        """See Engine."""
        while self._idle:
            await self._end(self._idle.pop())
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _start(self) -> _Worker:
        worker = await _Worker.start(self._scratch())
        self.processes.append(worker.process_id)
        return worker

    async def _end(self, worker: _Worker) -> str:
        self.processes.remove(worker.process_id)
        return await worker.end()

    def _scratch(self) -> Path:
        """Where workers put temporary files: what one leaves that was killed goes when the engine is closed."""
        if self._folder is None:
            self._folder = Path(mkdtemp(prefix="modelsync-engine-", dir=self._place))
        return self._folder

    def _again(self, call: Call, begun: int, reason: str) -> None:
        if begun >= ATTEMPTS:
            raise LocalError(
                f"{call.title} ended its worker {begun} times ({reason}): if memory is short give fewer --workers, "
                "else publish without --engine to see what it is."
            )
        self.retried += 1


class _Worker:
    """One process, in a session of its own: a terminal's Ctrl-C is for its caller, who ends it."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder

    @property
    def process_id(self) -> int:
        """Its own, and its group's."""
        return self._process.pid

    @classmethod
    async def start(cls, scratch: Path) -> _Worker:
        folder = Path(mkdtemp(dir=scratch))
        try:
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "modelsync_server.engine.worker",
                ),  # -P: no modules from where it is started
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                limit=_LINE_BYTES,
                start_new_session=True,
            )
        except OSError as error:
            raise LocalError(f"no worker could be started: {error.strerror}; give fewer --workers.") from error
        return cls(process, folder)

    async def call(self, call: Call) -> dict[str, Any] | None:
        """The answer as it came; None if the process ended without one."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"function": call.function, "arguments": dict(call.arguments), "versions": versions()}
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        found: dict[str, Any] = json.loads(line)
        return found

    async def end(self) -> str:
        """Kill it and what it started; how it ended, for people."""
        if self._process.returncode is None:
            with contextlib.suppress(TimeoutError):  # of one that is dying already we want its own reason
                await asyncio.wait_for(self._process.wait(), 0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        return f"signal {-code}" if code < 0 else f"exit code {code}"
