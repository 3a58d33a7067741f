"""From an infer request's body to its answer's: the lease, the run, alone or in a batch, and the encoding. No routes.

The event loop only waits: everything else happens in a pool of as many threads as runs may go on at the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from modelsync_inference.errors import UnknownError
from modelsync_inference.handle.repository import Repository
from modelsync_inference.http import oip
from modelsync_inference.http.compression import compressed
from modelsync_inference.http.dynamic_batcher import Batcher, BatchRules
from modelsync_inference.http.inference_statistics import Timing
from modelsync_inference.http.metrics import Metrics
from modelsync_inference.model import batch_rules
from modelsync_inference.model.lease import Lease, Prediction
from modelsync_inference.model.trial import Label
from modelsync_protocol.errors import ModelsyncError

_LABELS = {label.value: label for label in Label}
_SMALL_BYTES = 1 << 16
"""Bodies up to this size are parsed in the event loop, where that is quicker than changing threads."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request as it came: which model, the version or label that its path names, its body, two of its headers."""

    model: str
    version: str | None
    body: bytes
    header_length: str | None
    accept_encoding: str


@dataclass(frozen=True, slots=True)
class Done:
    """An answer's body and headers, the version that gave it, and how long the parts took."""

    body: bytes
    headers: dict[str, str]
    version: str
    timing: Timing


@dataclass(frozen=True, slots=True)
class _Parsed:
    """`since`: when the job came, monotonic seconds. `seconds`: what parsing it took."""

    job: Job
    request: oip.InferRequest
    since: float
    seconds: float

    @property
    def outputs(self) -> list[str] | None:
        """The names of the outputs that are wanted; None: all."""
        return None if self.request.outputs is None else list(self.request.outputs)


def lease(models: Repository, name: str, version: str | None) -> Lease:
    """A lease of what a path names: a version's number or label, or neither; UnknownError, NotServingError."""
    model = models.get(name)
    if version is None:
        return model.lease()
    if version in _LABELS:
        return model.lease(_LABELS[version])
    if not version.isascii() or not version.isdigit():
        raise UnknownError(f"version {version!r:.40} is neither a number nor one of {', '.join(_LABELS)}.")
    return model.lease(version=int(version))


class Inferring:
    """Answers jobs, at most `workers` runs at a time. Batches are of one kind, one path, and so of one version."""

    def __init__(self, models: Repository, metrics: Metrics, workers: int, rules: BatchRules) -> None:
        self._models, self._metrics, self._rules = models, metrics, rules
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="modelsync-infer")
        self._batcher: Batcher[_Parsed, Done] = Batcher(rules, self._run_batch, self._pool, workers)

    async def answer(self, job: Job) -> Done:
        """Answer `job`; raises InputError, RunError, UnknownError or NotServingError."""
        loop, since = asyncio.get_running_loop(), time.monotonic()
        if self._rules.max_batch_size <= 1 or not self._models.get(job.model).batches:
            return await loop.run_in_executor(self._pool, self._answer_alone, job, since)
        if len(job.body) <= _SMALL_BYTES:
            parsed = _parse(job, since)
        else:
            parsed = await loop.run_in_executor(self._pool, _parse, job, since)
        rows = batch_rules.rows_of(parsed.request.inputs)
        if rows is None or rows >= self._rules.max_batch_size:
            return await loop.run_in_executor(self._pool, self._run_alone, parsed)
        kind = (job.model, job.version, batch_rules.kind_of(parsed.request.inputs, parsed.outputs))
        return await self._batcher.submit(kind, parsed, rows)

    async def close(self) -> None:
        """Wait for the runs that have begun."""
        await asyncio.to_thread(self._pool.shutdown)

    def _answer_alone(self, job: Job, since: float) -> Done:
        return self._run_alone(_parse(job, since))

    def _run_alone(self, parsed: _Parsed) -> Done:
        begin = time.monotonic()
        with lease(self._models, parsed.job.model, parsed.job.version) as held:
            prediction = held.run(parsed.request.inputs, parsed.outputs)
        self._ran(parsed.job.model, [prediction])
        return _finish(parsed, prediction, begin)

    def _run_batch(self, batch: Sequence[_Parsed]) -> list[Done | Exception]:
        first, begin = batch[0], time.monotonic()
        try:
            with lease(self._models, first.job.model, first.job.version) as held:
                results = held.run_batch([parsed.request.inputs for parsed in batch], first.outputs)
        except ModelsyncError as error:
            return [error] * len(batch)
        self._ran(first.job.model, [result for result in results if isinstance(result, Prediction)])
        done: list[Done | Exception] = []
        for parsed, result in zip(batch, results, strict=True):
            try:
                done.append(_finish(parsed, result, begin) if isinstance(result, Prediction) else result)
            except ModelsyncError as error:  # an answer that can't be written as it is asked for is this request's own
                done.append(error)
        return done

    def _ran(self, model: str, predictions: Sequence[Prediction]) -> None:
        """Count the run that all of them share, or one for each."""
        together = [prediction for prediction in predictions if prediction.batched > 1]
        runs = [together] if together else [[prediction] for prediction in predictions]
        for run in runs:
            rows = sum(_rows(prediction) for prediction in run)
            self._metrics.ran(model, run[0].version, rows, run[0].seconds)


def _parse(job: Job, since: float) -> _Parsed:
    begin = time.monotonic()
    request = oip.parse_request(job.body, job.header_length)
    return _Parsed(job, request, since, time.monotonic() - begin)


def _finish(parsed: _Parsed, prediction: Prediction, begin: float) -> Done:
    """`begin`: when the run, or the batch, got its thread."""
    ready = time.monotonic()
    answer = oip.build_answer(parsed.job.model, parsed.request, prediction)
    headers = {"Content-Type": "application/json"}
    if answer.header_length is not None:
        headers = {"Content-Type": "application/octet-stream", oip.HEADER_LENGTH: str(answer.header_length)}
    body, encoding = compressed(answer.body, parsed.job.accept_encoding)
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    timing = Timing(
        queue=max(0.0, begin - parsed.since - parsed.seconds),
        compute_input=parsed.seconds,
        compute_infer=prediction.seconds,
        compute_output=time.monotonic() - ready,
    )
    return Done(body, headers, str(prediction.version), timing)


def _rows(prediction: Prediction) -> int:
    return max((len(array) for array in prediction.outputs.values() if array.ndim), default=1)
