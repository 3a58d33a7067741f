"""The module at work: a bounded queue of messages, one after another scored and thinned out, answers until sent."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from modelsync_inference.edge import messages, sampling
from modelsync_inference.edge.link import EdgeLink
from modelsync_inference.edge.messages import Incoming, Outgoing, Parsed
from modelsync_inference.edge.metrics import EdgeMetrics
from modelsync_inference.edge.options import EdgeOptions
from modelsync_inference.edge.sampling import Record, Sample
from modelsync_inference.errors import InputError, NotServingError, RunError, UnknownError
from modelsync_inference.model.lease import Lease, Prediction

_AGAIN_SECONDS = 0.2

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class _Origin:
    """What an answer is made of beside its values."""

    message: Incoming
    parsed: Parsed
    prediction: Prediction


class EdgeModule:
    """Scores what comes with `lease`'s model and sends the answers. All methods belong to one asyncio loop.

    Messages are scored one at a time and answered in order. A message waits while no version serves; each is scored
    by the version that serves then, whatever is swapped meanwhile.
    """

    def __init__(self, name: str, lease: Callable[[], Lease], options: EdgeOptions) -> None:
        """Nothing starts before `start`."""
        self._name, self._lease, self._options = name, lease, options
        self._sampler = sampling.make(options.sample)
        self._inbox: asyncio.Queue[Incoming] = asyncio.Queue()
        self._outbox: asyncio.Queue[Outgoing] = asyncio.Queue()
        self._link = EdgeLink(options.identity, self._take)
        self.metrics = EdgeMetrics(
            name, lambda: (self._inbox.qsize(), self._outbox.qsize()), lambda: self._link.connected
        )
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="modelsync-edge")
        self._session, self._numbers = secrets.token_hex(4), itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Connect and begin."""
        self._tasks = [asyncio.create_task(work) for work in (self._link.run(), self._score(), self._send())]

    async def stop(self, seconds: float) -> None:
        """Take no more messages, answer what has come (and the open window), disconnect; at most about `seconds`."""
        await self._link.stop_receiving()
        try:
            async with asyncio.timeout(seconds):
                await self._inbox.join()
                self._pass_on(self._sampler.flush())
                await self._outbox.join()
        except TimeoutError:
            left = self._inbox.qsize() + self._outbox.qsize() + 1
            _log.warning("up to %d messages and answers are lost: there was no time for them in %g s.", left, seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()

    # In

    def _take(self, message: Incoming) -> None:
        self.metrics.received += 1
        self._put(self._inbox, message)

    def _put(self, queue: asyncio.Queue[_Item], item: _Item) -> None:
        if queue.qsize() >= self._options.queue:
            if not self.metrics.lost:
                which = "newest" if self._options.drop_newest else "oldest"
                _log.warning("a queue is full: the %s messages make room from now on.", which)
            self.metrics.lost += 1
            if self._options.drop_newest:
                return
            queue.get_nowait()
            queue.task_done()
        queue.put_nowait(item)

    async def _score(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            deadline = self._sampler.deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await self._inbox.get()
            except TimeoutError:
                self._pass_on(self._sampler.flush())
                continue
            try:
                record = await self._scored(message)
                self._pass_on(self._sampler.offer(record, loop.time()))
            except InputError as error:
                self._refuse(message, "input", error)
            except RunError as error:
                self._refuse(message, "run", error)
            except Exception as error:
                _log.exception("a message could not be scored in an unforeseen way")
                self._refuse(message, "run", error)
            finally:
                self._inbox.task_done()

    async def _scored(self, message: Incoming) -> Record:
        loop = asyncio.get_running_loop()
        while True:
            try:
                record = await loop.run_in_executor(self._pool, self._run, message)
                break
            except (NotServingError, UnknownError):
                await asyncio.sleep(_AGAIN_SECONDS)
        self.metrics.scored += 1
        if self._options.all_output is not None:
            self._put(self._outbox, self._answer(self._options.all_output, Sample(record)))
        return record

    def _run(self, message: Incoming) -> Record:
        """On the pool's thread: one lease from the model's signature to its last output."""
        with self._lease() as lease:
            parsed = messages.parse(message.body, lease.inputs, self._options.fields)
            prediction = lease.run(parsed.inputs)
            inputs = parsed.inputs if self._options.include_inputs else {}
            origin = _Origin(message, parsed, prediction)
            return Record((prediction.version, prediction.digest), prediction.outputs, inputs, origin)

    # Out

    def _pass_on(self, samples: list[Sample]) -> None:
        for sample in samples:
            self.metrics.thinned += sample.count - 1
            self._put(self._outbox, self._answer(self._options.output, sample))

    def _answer(self, output: str, sample: Sample) -> Outgoing:
        origin: _Origin = sample.record.context
        ran = origin.prediction
        body = messages.answer(self._name, ran.version, ran.digest, sample, single=origin.parsed.single)
        return self._outgoing(output, body, origin.message, origin.parsed.id)

    def _refuse(self, message: Incoming, kind: str, error: Exception) -> None:
        self.metrics.bad += 1
        _log.warning("message %s on input %s can't be scored: %s", message.message_id or "?", message.input, error)
        if self._options.error_output is not None:
            body = messages.refusal(self._name, str(error))
            self._put(self._outbox, self._outgoing(self._options.error_output, body, message, None, error=kind))

    def _outgoing(self, output: str, body: bytes, message: Incoming, own_id: str | None, **properties: Any) -> Outgoing:
        number = f"{self._session}-{next(self._numbers)}"
        answered = message.correlation_id or message.message_id or own_id
        return Outgoing(output, body, number, answered, {**message.properties, **properties})

    async def _send(self) -> None:
        while True:
            message = await self._outbox.get()
            try:
                await self._link.send(message)
                self.metrics.sent += 1
            except ValueError as error:
                self.metrics.lost += 1
                _log.warning("an answer can't be sent: %s", error)
            finally:
                self._outbox.task_done()
