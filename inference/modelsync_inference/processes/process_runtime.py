"""The runtime port on worker processes: each version in a process of its own, which may crash or hang by itself.

A version is loaded in its worker at low priority while this process serves on, its memory comes back when the
worker ends, and a worker that crashes or does not answer is killed, told apart by how it ended, and replaced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modelsync_inference.errors import InputError, ModelRefusedError, RunError, WorkerDiedError
from modelsync_inference.processes import wire
from modelsync_inference.processes.exit_reason import fate
from modelsync_inference.processes.spawner import Spawner, SpawnError, Worker
from modelsync_inference.runtimes.datatypes import Array
from modelsync_inference.runtimes.onnx_sessions import Choice
from modelsync_inference.runtimes.port import LoadedModel, Stated, TensorSpec

_LOG = logging.getLogger(__name__)
_HASTE_SHARE = 2
_MIN_FRESH_SECONDS = 1.0
_FRESH_RUNS = 100
_FRESH_FACTOR = 100.0
_MAX_ANSWER_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """`load_seconds`: for loading, and for each run of the probe. `run_seconds`: for a run that serves.

    A version that has only just begun to serve has less patience, measured by its probe (`_MIN_FRESH_SECONDS` at
    least), so that one that hangs is found out at its first requests.
    """

    load_seconds: float = 25.0
    run_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """`memory`: bytes that a worker may map beyond the libraries and the artifact. `require`: refuse to load where a
    layer of the confinement is missing.
    """

    memory: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    require: bool = False


class Spawning(Protocol):
    """What starts and ends worker processes."""

    def spawn(self, channels: int) -> Worker:
        """Start a worker with so many channels; SpawnError if it can't be done."""

    def kill(self, worker: Worker) -> int | None:
        """End a worker now and free what it held; its exit code, minus its signal, or None if that is unknown."""


class ProcessRuntime:
    """Loads ONNX files in worker processes with `concurrency` runs at a time each.

    `close` ends them all, unless the `spawner` is the caller's.
    """

    def __init__(
        self,
        choice: Choice | None = None,
        concurrency: int = 2,
        limits: Limits | None = None,
        spawner: Spawner | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self._bounds = bounds or Bounds()
        self._choice, self._concurrency, self._limits = choice or Choice(), concurrency, limits or Limits()
        self._spawner, self._shared = spawner or Spawner(), spawner is not None

    def load(self, path: Path) -> LoadedModel:
        """See Runtime. A crash or a load without end is a refusal like any other."""
        return self.load_as(path, path.parent, Stated())

    def load_as(self, path: Path, folder: Path, stated: Stated) -> LoadedModel:
        """See Guided: all that the worker can read is `folder`."""
        choice, bounds = self._choice, self._bounds
        order = {
            "path": str(path),
            "folder": str(folder),
            "memory": bounds.memory + _tree_bytes(folder),
            "require": bounds.require,
            "threads": choice.threads,
            "prepack": choice.prepack,
            "arena": choice.arena,
            "cache": str(choice.cache) if choice.cache is not None else None,
            "quiet": choice.threads == 1,
        }
        return ProcessModel(path.name, order, self._concurrency, self._limits, self._spawner)

    def pids(self) -> tuple[int, ...]:
        """The workers' process ids, and the one they are forked from."""
        return self._spawner.pids()

    def close(self) -> None:
        """End every process that is not somebody else's."""
        if not self._shared:
            self._spawner.close()


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

    def close(self) -> None:
        """End the worker, which gives all of its memory back."""
        with self._lock:
            self._closed = True
            worker = self._worker
        self._spawner.kill(worker)
        _close(worker)

    def _patience(self) -> float:
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
        try:
            with worker.meter.asked():
                channel.settimeout(seconds)
                wire.send(channel, {"outputs": list(outputs)}, inputs)
                header, tensors = wire.receive(channel, seconds=seconds, limit=self._max_answer_bytes)
            if not header.keys() & {"input", "broke"}:
                return {name: _as_text(tensors[name]) for name in outputs}
        except TimeoutError as error:
            self._spawner.kill(worker)
            raise WorkerDiedError(f"the model did not answer within {seconds:g} s; its process was ended.") from error
        except (wire.Ended, OSError, KeyError) as error:
            end = fate(self._spawner.kill(worker))
            raise WorkerDiedError(worker.verdict or f"the model's process {end} while it ran.") from error
        if "input" in header:
            raise InputError(str(header["input"]))
        raise RunError(str(header["broke"]))

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
            raise ModelRefusedError(worker.verdict or f"the process that loaded it {fate(status)}.") from error
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


def _tree_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def _close(worker: Worker) -> None:
    for channel in worker.channels:
        channel.close()


def _spec(entry: list[Any]) -> TensorSpec:
    name, datatype, shape = entry
    return TensorSpec(str(name), str(datatype), None if shape is None else tuple(shape))


def _as_text(tensor: Array) -> Array:
    if tensor.dtype != np.object_:
        return tensor
    text = np.empty(tensor.size, dtype=np.object_)
    text[:] = [item.decode() if isinstance(item, bytes) else item for item in tensor.ravel().tolist()]
    return text.reshape(tensor.shape)
