"""The runtime port on models that are code, and the port for devices on which a model's kind decides where it runs."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.processes.process_model import Limits, ProcessModel
from modelsync_inference.processes.sandbox import Allowance, Sandbox
from modelsync_inference.processes.spawner import Worker
from modelsync_inference.runtimes.model_kinds import Kind, kind_of
from modelsync_inference.runtimes.port import Guided, LoadedModel, Processes, Runtime, Stated, TensorSpec

_MAX_ANSWER_BYTES = 64 << 20
_LIBRARIES = ("joblib", "sklearn")
_UNCOMPRESSED = (b"\x80", b"(", b"c")


@dataclass(frozen=True, slots=True)
class _OfVersion:
    """Starts the workers of one version: see process_runtime.Spawning."""

    sandbox: Sandbox
    kind: Kind
    folder: Path
    libraries: tuple[str, ...]

    def spawn(self, channels: int) -> Worker:
        return self.sandbox.spawn(self.kind, self.folder, self.libraries, channels)

    def kill(self, worker: Worker) -> int | None:
        return self.sandbox.kill(worker)


class CodeRuntime:
    """Loads pickles and scoring scripts of the model `name`, each version in a confined process of its own."""

    def __init__(
        self, name: str, concurrency: int = 2, limits: Limits | None = None, allowance: Allowance | None = None
    ) -> None:
        self._concurrency, self._limits = concurrency, limits or Limits()
        self._sandbox = Sandbox(name, allowance)

    def load(self, path: Path) -> LoadedModel:
        """See Runtime."""
        return self.load_as(path, path.parent, Stated())

    def load_as(self, path: Path, folder: Path, stated: Stated) -> LoadedModel:
        """See Guided."""
        kind, folder = kind_of(path), folder.resolve()
        libraries = _libraries(path) if kind is Kind.PICKLE else ()
        order = {
            "kind": kind.value,
            "path": str(path.resolve()),
            "inputs": _specs(stated.inputs),
            "outputs": _specs(stated.outputs),
            "proven": stated.proven,
            "joblib": "joblib" in libraries,
            "quiet": not kind.single_threaded,
        }
        concurrency = 1 if kind.single_threaded else self._concurrency
        spawner = _OfVersion(self._sandbox, kind, folder, libraries)
        return ProcessModel(path.name, order, concurrency, self._limits, spawner, _MAX_ANSWER_BYTES)

    def pids(self) -> tuple[int, ...]:
        """See Processes."""
        return self._sandbox.pids()

    def close(self) -> None:
        """See Processes."""
        self._sandbox.close()


class KindRuntime:
    """Models that are data by `data`, code by `code`, or not at all if that is None: it is not allowed to `name`."""

    def __init__(self, name: str, data: Runtime, code: CodeRuntime | None) -> None:
        self._name, self._data, self._code = name, data, code

    def load(self, path: Path) -> LoadedModel:
        """See Runtime."""
        return self.load_as(path, path.parent, Stated())

    def load_as(self, path: Path, folder: Path, stated: Stated) -> LoadedModel:
        """See Guided."""
        kind = kind_of(path)
        if not kind.is_code:
            return self._data.load_as(path, folder, stated) if isinstance(self._data, Guided) else self._data.load(path)
        if self._code is None:
            raise ModelRefusedError(
                f"{kind.described}, and this device does not allow that: start modelsync-infer with --allow-code "
                f"{self._name} (MODELSYNC_ALLOW_CODE, Settings.allow_code), or publish an ONNX form."
            )
        return self._code.load_as(path, folder, stated)

    def pids(self) -> tuple[int, ...]:
        """See Processes."""
        return tuple(pid for runtime in self._holders() for pid in runtime.pids())

    def close(self) -> None:
        """See Processes."""
        for runtime in self._holders():
            runtime.close()

    def _holders(self) -> list[Processes]:
        runtimes: tuple[object, ...] = (self._data, self._code)
        return [runtime for runtime in runtimes if isinstance(runtime, Processes)]


def _libraries(path: Path) -> tuple[str, ...]:
    """Those that a pickle names, or all if it is compressed: they take seconds on a small device, and 300 MiB."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:1] not in _UNCOMPRESSED:
                return _LIBRARIES
            return tuple(name for name in _LIBRARIES if data.find(name.encode()) >= 0)
    except (OSError, ValueError) as error:
        raise ModelRefusedError(f"{path.name} can't be read: {error}.") from error


def _specs(specs: tuple[TensorSpec, ...]) -> list[list[object]]:
    return [[spec.name, spec.datatype, spec.shape] for spec in specs]
