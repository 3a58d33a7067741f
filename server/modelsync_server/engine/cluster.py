"""The engine `dask` at an address: workers that others started, so what they answer is read in a process of its own.

Dask's client unpickles what scheduler and workers send, and to unpickle is to run code; this process has the keys. So
the client lives in a child that makes plain values of pickles and nothing else (plain_pickle.py); here comes JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from modelsync_protocol.errors import LocalError, RefusedError, UsageError
from modelsync_server.engine.answers import result_of, without_keys
from modelsync_server.engine.port import Call, Finished

_LINE_BYTES = 64 << 20


class ClusterEngine:
    """Calls on the workers of the cluster at `address`."""

    shares_disk = False

    def __init__(self, address: str) -> None:
        if find_spec("distributed") is None:
            raise UsageError("--engine dask needs distributed: install the extra modelsync-server[dask].")
        self.retried = 0
        self._address = address
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, calls: Sequence[Call], finished: Finished = lambda number, answer: None) -> list[Any]:
        """See Engine."""
        if not calls:
            return []
        if self._process is None:
            self._process = await self._start()
        answers: list[Any] = [None] * len(calls)
        ended = False
        try:
            await self._ask(self._process, calls)
            while "ended" not in (found := await self._told(self._process)):
                number = int(found["number"])
                answers[number] = found["answer"]
                finished(number, answers[number])
            ended = True
        finally:
            if not ended:  # calls may be under way that nobody waits for any more
                await self.close()
        self.retried = int(found["retried"])
        result_of(found["ended"])
        return answers

    def threads(self, calls: int) -> int | None:
        """See Engine: of a cluster's machines nothing is known here."""
        return None

    async def close(self) -> None:
        """See Engine."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        command = (sys.executable, "-P", "-m", "modelsync_server.engine.cluster_client", self._address)
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**without_keys(os.environ), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                limit=_LINE_BYTES,
                start_new_session=True,  # a terminal's Ctrl-C is for this process, which ends it
            )
        except OSError as error:
            raise LocalError(f"Dask's client could not be started: {error.strerror}.") from error

    @staticmethod
    async def _ask(process: asyncio.subprocess.Process, calls: Sequence[Call]) -> None:
        assert process.stdin is not None
        asked = [{"function": each.function, "arguments": dict(each.arguments), "title": each.title} for each in calls]
        with contextlib.suppress(ConnectionError):  # it has ended: that is told by what it says
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            await process.stdin.drain()

    @staticmethod
    async def _told(process: asyncio.subprocess.Process) -> dict[str, Any]:
        assert process.stdout is not None
        try:
            line = await process.stdout.readline()
        except ValueError:
            raise RefusedError(
                f"a worker's answer is longer than {_LINE_BYTES >> 20} MiB; nothing was signed."
            ) from None
        if not line.endswith(b"\n"):
            raise LocalError("Dask's client ended by itself: see what it said above, and whether memory ran out.")
        found: dict[str, Any] = json.loads(line)
        return found
