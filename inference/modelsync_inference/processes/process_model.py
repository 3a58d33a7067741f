"""A model in a worker process: runs and answers in parts on its channels, its worker's death and replacement."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from modelsync_inference.errors import InputError, ModelRefusedError, RunError, WorkerDiedError
from modelsync_inference.processes import wire
from modelsync_inference.processes.conversation import ask_in_parts
from modelsync_inference.processes.exit_reason import fate
from modelsync_inference.processes.spawner import SpawnError, Worker
from modelsync_inference.runtimes.datatypes import Array
from modelsync_inference.runtimes.port import TensorSpec

_LOG = logging.getLogger(__name__)
_HASTE_SHARE = 2
_MIN_FRESH_SECONDS = 1.0
_FRESH_RUNS = 100
_FRESH_FACTOR = 100.0
_MAX_ANSWER_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """`load_seconds`: for loading, and for each run of the probe. `run_seconds`: for a run that serves;
    `generation_seconds`: for one whose model writes text, which may be a long one.

    A version that has only just begun to serve has less patience, measured by its probe (`_MIN_FRESH_SECONDS` at
    least), so that one that hangs is found out at its first requests.
    """

    load_seconds: float = 25.0
    run_seconds: float = 30.0
    generation_seconds: float = 600.0


class Spawning(Protocol):
    """What starts and ends worker processes."""

    def spawn(self, channels: int) -> Worker:
        """Start a worker with so many channels; SpawnError if it can't be done."""

    def kill(self, worker: Worker) -> int | None:
        """End a worker now and free what it held; its exit code, minus its signal, or None if that is unknown."""


class LoaderDiedError(ModelRefusedError):
    """The process died while it loaded, which may be the fault of a library and not of the model."""


class ProcessModel:
    """A model in a worker process, which `layers` confine.

    Until `settle` its runs are the probe's: unhurried, and on the loading thread.
    """

    def __init__(
        self,
        name: str,
        order: Mapping[str, Any],
        concurrency: int,
        limits: Limits,
        spawner: Spawning,
        max_answer_bytes: int = _MAX_ANSWER_BYTES,
    ) -> None:
        """`order`: what the worker is to load, as its `load` reads it; with `quiet`, first at low priority."""
        self._name, self._order, self._concurrency = name, order, concurrency
        self._max_answer_bytes = max_answer_bytes
        self._limits, self._spawner = limits, spawner
        self._lock = threading.Lock()
        self._closed = False
        self._settled = False
        self._runs = 0
        self._slowest_probe = 0.0
        self._last_probe: tuple[Mapping[str, Array], Sequence[str]] | None = None
        self.deaths = 0
        self._worker, answer = self._start(quiet=bool(order["quiet"]))
        self._free = self._channels(self._worker)
        try:
            self.platform = str(answer["platform"])
            self.facts: Mapping[str, Any] = dict(answer.get("facts", {}))
            self._generates = bool(answer.get("generates", False))
            self.layers = self._worker.layers or tuple(map(str, answer.get("layers", ())))
            self.inputs = tuple(_spec(entry) for entry in answer["inputs"])
            self.outputs = tuple(_spec(entry) for entry in answer["outputs"])
        except (KeyError, TypeError, ValueError) as error:
            self.close()
            raise ModelRefusedError("the process that loaded it does not say what it loaded.") from error

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._worker.pid

    def settle(self) -> None:
        """The probe is over: from now on runs are requests. Every serving thread runs once, for its first is slow."""
        self._hand_over(self._worker)
        if self._last_probe is not None:
            inputs, outputs = self._last_probe
            for channel in self._worker.channels[1:]:
                with contextlib.suppress(InputError, RunError):
                    self._run_on(self._worker, channel, inputs, outputs, self._limits.load_seconds)
        self._last_probe = None
        self._settled = True

    def _hand_over(self, worker: Worker) -> None:
        """End the worker's loading thread; its serving threads begin. WorkerDiedError."""
        try:
            worker.channels[0].settimeout(self._limits.load_seconds)
            wire.send(worker.channels[0], {}, {})
            wire.receive(worker.channels[0])
            worker.meter.settled()
        except (wire.Ended, OSError) as error:
            end = fate(self._spawner.kill(worker))
            raise WorkerDiedError(f"the model's process {end} before it served.") from error

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """See LoadedModel. A run whose worker died for another reason than this run is tried once more."""
        if not self._settled:
            with self._lock:
                started, control = time.monotonic(), self._worker.channels[0]
                answer = self._run_on(self._worker, control, inputs, outputs, self._limits.load_seconds)
                self._slowest_probe = max(self._slowest_probe, time.monotonic() - started)
                self._last_probe = (inputs, outputs)
            return answer
        for attempt in (1, 2):
            worker, free = self._serving_worker()
            try:
                with _taken(free) as channel:
                    answer = self._run_on(worker, channel, inputs, outputs, self._patience())
            except WorkerDiedError as error:
                self._replace(worker)
                if attempt == 2 or worker.verdict or isinstance(error.__cause__, TimeoutError):
                    raise
                continue
            self._runs += 1
            return answer
        raise AssertionError

    def generate(self, request: bytes, emit: Callable[[bytes], bool]) -> None:
        """See Generating. As with `run`, once more if the worker died for another reason, and before any part came."""
        parts = 0

        def counted(part: bytes) -> bool:
            nonlocal parts
            parts += bool(part)
            return emit(part)

        for attempt in (1, 2):
            worker, free = self._serving_worker()
            try:
                with _taken(free) as channel:
                    self._generate_on(worker, channel, request, counted)
            except WorkerDiedError as error:
                self._replace(worker)
                if attempt == 2 or parts or worker.verdict or isinstance(error.__cause__, TimeoutError):
                    raise
                continue
            self._runs += 1
            return

    def _generate_on(
        self, worker: Worker, channel: socket.socket, request: bytes, emit: Callable[[bytes], bool]
    ) -> None:
        if not self._generates:
            raise InputError("the model is no language model, so it writes nothing.")
        seconds = self._limits.generation_seconds
        with self._deaths_told(worker, seconds), worker.meter.asked():
            header = ask_in_parts(channel, request, emit, seconds, self._max_answer_bytes)
        _raise_if_told(header)

    def close(self) -> None:
        """End the worker, which gives all of its memory back."""
        with self._lock:
            self._closed = True
            worker = self._worker
        self._spawner.kill(worker)
        _close(worker)

    def _patience(self) -> float:
        if self._generates:
            return self._limits.generation_seconds
        if self._runs >= _FRESH_RUNS:
            return self._limits.run_seconds
        fresh = max(_MIN_FRESH_SECONDS, _FRESH_FACTOR * self._slowest_probe)
        return min(self._limits.run_seconds, fresh)

    def _run_on(
        self,
        worker: Worker,
        channel: socket.socket,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        seconds: float,
    ) -> dict[str, Array]:
        with self._deaths_told(worker, seconds):
            with worker.meter.asked():
                channel.settimeout(seconds)
                wire.send(channel, {"outputs": list(outputs)}, inputs)
                header, tensors = wire.receive(channel, seconds=seconds, limit=self._max_answer_bytes)
            if not header.keys() & {"input", "broke"}:
                return {name: _as_text(tensors[name]) for name in outputs}
        _raise_if_told(header)
        raise AssertionError

    @contextlib.contextmanager
    def _deaths_told(self, worker: Worker, seconds: float) -> Iterator[None]:
        """WorkerDiedError for a worker that is gone, talks nonsense or takes longer than `seconds`; it is ended."""
        try:
            yield
        except TimeoutError as error:
            self._spawner.kill(worker)
            raise WorkerDiedError(f"the model did not answer within {seconds:g} s; its process was ended.") from error
        except (wire.Ended, OSError, KeyError) as error:
            end = fate(self._spawner.kill(worker))
            raise WorkerDiedError(worker.verdict or f"the model's process {end} while it ran.") from error

    def _start(self, *, quiet: bool, again: bool = True) -> tuple[Worker, dict[str, Any]]:
        """Start a worker and load; ModelRefusedError. A quiet one that gets no time is tried at normal priority."""
        seconds = self._limits.load_seconds / _HASTE_SHARE if quiet else self._limits.load_seconds
        try:
            worker = self._spawner.spawn(self._concurrency + 1)
        except SpawnError as error:
            raise ModelRefusedError(str(error)) from error
        control = worker.channels[0]
        control.settimeout(seconds)
        try:
            wire.send(control, {**self._order, "quiet": quiet}, {})
            answer, _ = wire.receive(control, seconds=seconds)
        except TimeoutError as error:
            self._spawner.kill(worker)
            _close(worker)
            if quiet:
                return self._start(quiet=False)
            raise ModelRefusedError(f"loading it did not end within {seconds:g} s; its process was ended.") from error
        except wire.Ended as error:
            status = self._spawner.kill(worker)
            _close(worker)
            if status is None and again:  # it went with the process it was forked from, so the model is not to blame
                return self._start(quiet=quiet, again=False)
            raise LoaderDiedError(worker.verdict or f"the process that loaded it {fate(status)}.") from error
        if "refused" in answer:
            self._spawner.kill(worker)
            _close(worker)
            raise ModelRefusedError(str(answer["refused"]))
        return worker, answer

    def _channels(self, worker: Worker) -> queue.SimpleQueue[socket.socket]:
        free: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        for channel in worker.channels[1:]:
            free.put(channel)
        return free

    def _serving_worker(self) -> tuple[Worker, queue.SimpleQueue[socket.socket]]:
        with self._lock:
            return self._worker, self._free

    def _replace(self, dead: Worker) -> None:
        """Put a new worker in the place of `dead`, unless somebody else has; RunError if that can't be done."""
        with self._lock:
            if self._worker is not dead or self._closed:
                return
            self.deaths += 1
            _LOG.warning("the process of %s ended; it is started again.", self._name)
            try:
                worker, _ = self._start(quiet=False)
                self._hand_over(worker)
            except (ModelRefusedError, WorkerDiedError) as error:
                raise RunError(f"the model's process can't be started again: {error}") from error
            self._worker, self._free = worker, self._channels(worker)
        # Threads that still wait on the dead one's channels see its end and come here too; they may take their time.
        _close(dead)


@contextlib.contextmanager
def _taken(free: queue.SimpleQueue[socket.socket]) -> Iterator[socket.socket]:
    channel = free.get()
    try:
        yield channel
    finally:
        free.put(channel)


def _raise_if_told(header: Mapping[str, Any]) -> None:
    """What the worker says of a run that gave nothing."""
    if "input" in header:
        raise InputError(str(header["input"]))
    if "broke" in header:
        raise RunError(str(header["broke"]))


def _close(worker: Worker) -> None:
    for channel in worker.channels:
        channel.close()


def _spec(entry: list[Any]) -> TensorSpec:
    name, datatype, shape, *more = entry
    quantization = (float(more[0][0]), int(more[0][1])) if more and more[0] is not None else None
    return TensorSpec(str(name), str(datatype), None if shape is None else tuple(shape), quantization)


def _as_text(tensor: Array) -> Array:
    if tensor.dtype != np.object_:
        return tensor
    text = np.empty(tensor.size, dtype=np.object_)
    text[:] = [item.decode() if isinstance(item, bytes) else item for item in tensor.ravel().tolist()]
    return text.reshape(tensor.shape)
