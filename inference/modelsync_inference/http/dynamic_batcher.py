"""Dynamic batching: requests of one kind wait for each other a little and are run together. In the event loop.

It knows nothing of models and HTTP: what is queued is somebody else's, and so is the function that runs a batch.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class BatchRules:
    """`max_batch_size`: rows that run together at most. `max_queue_delay`: how long the first of them waits, seconds.

    As with Triton a batch is run when it is full or its first request has waited so long, and a run may begin.
    """

    max_batch_size: int = 1
    max_queue_delay: float = 0.0


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Request, Answer]):
    request: Request
    rows: int
    due: float
    answer: asyncio.Future[Answer | Exception]


class Batcher(Generic[Request, Answer]):
    """`run` gets a batch, in a thread of `pool`, and returns what became of each; `slots` batches run at a time."""

    def __init__(
        self,
        rules: BatchRules,
        run: Callable[[Sequence[Request]], Sequence[Answer | Exception]],
        pool: Executor,
        slots: int,
    ) -> None:
        self._rules, self._run, self._pool, self._free = rules, run, pool, slots
        self._queues: dict[Hashable, deque[_Waiting[Request, Answer]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def submit(self, kind: Hashable, request: Request, rows: int) -> Answer:
        """Wait for the answer to `request`, which has so many rows; raises what `run` returned in its place."""
        loop = asyncio.get_running_loop()
        due = time.monotonic() + self._rules.max_queue_delay
        waiting: _Waiting[Request, Answer] = _Waiting(request, rows, due, loop.create_future())
        self._queues.setdefault(kind, deque()).append(waiting)
        self._dispatch()
        try:
            answer = await waiting.answer
        except asyncio.CancelledError:
            self._forget(kind, waiting)
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _dispatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        while self._free and self._queues:
            kind = min(self._queues, key=lambda kind: self._due(self._queues[kind]))
            due = self._due(self._queues[kind])
            if due > now:
                self._timer = asyncio.get_running_loop().call_later(due - now, self._dispatch)
                return
            batch = self._take(kind)
            self._free -= 1
            requests = [waiting.request for waiting in batch]
            running = asyncio.get_running_loop().run_in_executor(self._pool, self._run, requests)
            running.add_done_callback(partial(self._finish, batch))

    def _due(self, queue: deque[_Waiting[Request, Answer]]) -> float:
        """When the first batch of the queue may begin, monotonic seconds; a full one may have begun already."""
        full = sum(waiting.rows for waiting in queue) >= self._rules.max_batch_size
        return queue[0].due - (self._rules.max_queue_delay if full else 0.0)

    def _forget(self, kind: Hashable, waiting: _Waiting[Request, Answer]) -> None:
        """Nobody waits for it any more: it must not make a batch look full."""
        queue = self._queues.get(kind)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._queues[kind]

    def _take(self, kind: Hashable) -> list[_Waiting[Request, Answer]]:
        """The first requests that fit into a batch, one at least."""
        queue, batch, rows = self._queues[kind], list[_Waiting[Request, Answer]](), 0
        while queue and (not batch or rows + queue[0].rows <= self._rules.max_batch_size):
            batch.append(queue.popleft())
            rows += batch[-1].rows
        if not queue:
            del self._queues[kind]
        return batch

    def _finish(
        self, batch: list[_Waiting[Request, Answer]], done: asyncio.Future[Sequence[Answer | Exception]]
    ) -> None:
        self._free += 1
        error = done.exception()
        answers = done.result() if error is None else [RuntimeError(f"a batch failed: {error}")] * len(batch)
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
        self._dispatch()
