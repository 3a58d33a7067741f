"""`AsyncHotModel`: the handle for asyncio applications. Runs happen in threads of its own, never in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

from modelsync_inference.follow.follower import Outcome
from modelsync_inference.handle.hot_model import HotModel
from modelsync_inference.handle.settings import Settings
from modelsync_inference.model.lease import Lease, Prediction
from modelsync_inference.model.trial import Label
from modelsync_inference.runtimes.port import Runtime


class AsyncLease:
    """A lease whose runs are awaited; see Lease."""

    def __init__(self, lease: Lease, pool: ThreadPoolExecutor) -> None:
        self._lease, self._pool = lease, pool
        self.version, self.digest, self.label = lease.version, lease.digest, lease.label

    async def run(self, inputs: Mapping[str, object], outputs: Sequence[str] | None = None) -> Prediction:
        """See Lease.run."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._lease.run, inputs, outputs)


class AsyncHotModel:
    """A HotModel (`model`) for asyncio; what it raises and returns is the same.

        async with AsyncHotModel("/var/lib/modelsync", "anomaly") as model:
            await model.wait_ready(timeout=60)
            prediction = await model.predict({"X": readings})

    A task that is cancelled stops waiting; the run it began goes on to its end in its thread.
    """

    def __init__(
        self, data: Path | str, name: str, *, runtime: Runtime | None = None, settings: Settings | None = None
    ) -> None:
        """See HotModel."""
        settings = settings or Settings()
        self.model = HotModel(data, name, runtime=runtime, settings=settings)
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="modelsync-run")

    async def wait_ready(self, timeout: float | None = None) -> None:
        """See HotModel.wait_ready."""
        await asyncio.to_thread(self.model.wait_ready, timeout)

    async def predict(
        self, inputs: Mapping[str, object], outputs: Sequence[str] | None = None, *, label: Label | None = None
    ) -> Prediction:
        """See HotModel.predict."""
        run = partial(self.model.predict, inputs, outputs, label=label)
        return await asyncio.get_running_loop().run_in_executor(self._pool, run)

    @contextlib.asynccontextmanager
    async def lease(self, label: Label | None = None) -> AsyncIterator[AsyncLease]:
        """Pin a version for several runs; see HotModel.lease."""
        # In a thread, because it waits while the resource policy has unloaded the old version.
        lease = await asyncio.get_running_loop().run_in_executor(self._pool, self.model.lease, label)
        with lease:
            yield AsyncLease(lease, self._pool)

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """See HotModel.hold."""
        with self.model.hold():
            yield

    def subscribe(self, listener: Callable[[Outcome], None]) -> Callable[[], None]:
        """Have `listener` called in the running event loop with every new outcome; returns how to end that."""
        loop = asyncio.get_running_loop()

        def pass_on(outcome: Outcome) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                loop.call_soon_threadsafe(listener, outcome)

        return self.model.subscribe(pass_on)

    async def __aenter__(self) -> AsyncHotModel:
        self.model.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.model.close)
        await asyncio.to_thread(self._pool.shutdown)
