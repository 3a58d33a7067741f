"""The engine `dask`: a cluster of dask.distributed that is there, or one that is started on this machine.

https://distributed.dask.org: a scheduler runs whatever a client sends it, so it stands where only publishers reach it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from modelsync_protocol.errors import LocalError, UnreachableError, UsageError
from modelsync_server.engine.answers import answer, may_help, result_of, versions
from modelsync_server.engine.local import cores
from modelsync_server.engine.port import ATTEMPTS, Call, Finished

try:
    import dask
    from dask.distributed import Client, KilledWorker, LocalCluster, Security
except ImportError as error:
    raise UsageError("--engine dask needs distributed: install the extra modelsync-server[dask].") from error

_Client: Any = Client
_LocalCluster: Any = LocalCluster
_Security: Any = Security
_CONNECT_SECONDS = 10
_STARTED_HERE = {
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    # A mapped model counts as a process's memory; the kernel takes those pages back when it needs them.
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    # Nobody looks at the page or the profile of a cluster that lives for one publication.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.limit": "1h",  # a call may hold a worker's interpreter for long
}


class DaskEngine:
    """Calls as tasks of Dask, which begins them again elsewhere when a worker dies."""

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self.shares_disk = address is None
        self.retried = 0
        self._address = address
        self._workers = cores() if workers is None else workers
        self._cluster: Any = None  # distributed says that it is typed, and most of it is not
        self._client: Any = None

    async def run(self, calls: Sequence[Call], finished: Finished = lambda number, answer: None) -> list[Any]:
        """See Engine."""
        if not calls:
            return []
        client = await self._connected()
        answers: list[Any] = [None] * len(calls)

        async def one(number: int) -> None:
            call = calls[number]
            for attempt in range(1, ATTEMPTS + 1):
                future = client.submit(answer, call.function, dict(call.arguments), versions(), pure=False)
                try:
                    found = await future
                except Exception as error:
                    if type(error).__name__ != KilledWorker.__name__:  # a name is all that plain_pickle.py leaves of it
                        raise
                    raise LocalError(
                        f"{call.title} ended its worker {ATTEMPTS} times: see the workers' logs; if memory is short "
                        "give them more."
                    ) from None
                except (OSError, asyncio.CancelledError) as error:
                    if isinstance(error, asyncio.CancelledError) and not future.cancelled():
                        raise
                    raise UnreachableError("the connection to Dask's scheduler was lost; try again.") from error
                finally:
                    future.release()
                if not may_help(found) or attempt == ATTEMPTS:
                    answers[number] = result_of(found)
                    finished(number, answers[number])
                    return
                self.retried += 1
                await asyncio.sleep(attempt)

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(len(calls)):
                    group.create_task(one(number))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return answers

    def threads(self, calls: int) -> int | None:
        """See Engine: of a cluster's machines nothing is known here."""
        return max(1, cores() // max(1, min(self._workers, calls))) if self.shares_disk else None

    async def close(self) -> None:
        """See Engine."""
        client, cluster = self._client, self._cluster
        self._client = self._cluster = None
        if client is not None:
            await client.close()
        if cluster is not None:
            await cluster.close()

    async def _connected(self) -> Any:
        if self._client is not None:
            return self._client
        try:
            if self._address is None:
                with dask.config.set(_STARTED_HERE):
                    self._cluster = await _LocalCluster(
                        n_workers=self._workers,
                        threads_per_worker=1,
                        processes=True,
                        memory_limit=None,
                        dashboard_address="127.0.0.1:0",
                        host="127.0.0.1",
                        # Or any user of this machine could have his code run by whoever publishes.
                        security=_Security.temporary(),
                        asynchronous=True,
                        silence_logs=50,
                    )
            where = self._address if self._cluster is None else self._cluster
            self._client = await _started(
                _Client(where, asynchronous=True, timeout=_CONNECT_SECONDS, set_as_default=False)
            )
        except (OSError, TimeoutError) as error:
            raise UnreachableError(
                f"no Dask scheduler answers at {self._address or '127.0.0.1'}; check --engine-address."
            ) from error
        except ValueError as error:
            raise UsageError(f"--engine-address {self._address}: {error}; it is tcp://HOST:PORT or tls://.") from error
        return self._client


async def _started(client: Any) -> Any:
    """The client, connected; one that could not connect is closed here, or its end would try on a loop that is gone."""
    try:
        return await client
    except BaseException:
        await client.close()
        raise
