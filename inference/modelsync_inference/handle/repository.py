"""The models that a server has: which of a data directory's models are loaded, and loading and unloading by name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from modelsync_inference.errors import NotServingError, UnknownError
from modelsync_inference.handle.hot_model import HotModel
from modelsync_inference.handle.settings import Settings, make_runtime
from modelsync_inference.model.pointer import CURRENT, read_pointer
from modelsync_inference.processes.isolation import Isolation
from modelsync_inference.processes.spawner import Spawner
from modelsync_protocol import names
from modelsync_protocol.errors import ModelsyncError

_LOAD_SECONDS = 60.0


class Repository:
    """Models by name, each a HotModel that follows its pointer. Any thread may call.

    `make` prepares a HotModel for a name. Unloading stops following and serving; the daemon goes on keeping the
    model up to date on the disk.
    """

    def __init__(self, data: Path, make: Callable[[str], HotModel], end: Callable[[], None] = lambda: None) -> None:
        self._data, self._make, self._end = data, make, end
        self._lock = threading.Lock()
        self._models: dict[str, HotModel] = {}

    @classmethod
    def open(cls, data: Path, settings: Settings, forks: socket.socket | None = None) -> Repository:
        """The models below `data`, none loaded yet; worker processes of all of them are forked from one.

        `forks`: see Spawner's `parent`.
        """
        spawner = Spawner(forks) if settings.isolation is Isolation.PROCESS else None

        def make(name: str) -> HotModel:
            runtime = make_runtime(settings, data.absolute(), name, spawner)
            return HotModel(data, name, runtime=runtime, settings=settings)

        return cls(data, make, spawner.close if spawner is not None else lambda: None)

    @property
    def models(self) -> Sequence[HotModel]:
        """Those that are loaded."""
        with self._lock:
            return tuple(self._models.values())

    def get(self, name: str) -> HotModel:
        """The loaded model `name`; UnknownError."""
        with self._lock:
            model = self._models.get(name)
            known = ", ".join(repr(other) for other in self._models) or "none"
        if model is None:
            raise UnknownError(f"this server has no model {name!r:.80}; it serves {known}.")
        return model

    def add(self, name: str) -> HotModel:
        """Follow and serve `name` from now on, whether it has a version already or not; again does nothing."""
        with self._lock:
            model = self._models.get(name)
            if model is None:
                model = self._models[name] = self._make(name).start()
            return model

    def load(self, name: str) -> None:
        """Serve `name` and wait until it does; UnknownError if the data directory has no such model."""
        if not any(entry["name"] == name for entry in self.index()):
            raise UnknownError(f"the data directory has no model {name!r:.80}.")
        self.add(name).wait_ready(_LOAD_SECONDS)

    def unload(self, name: str) -> None:
        """Stop serving `name`; requests that it has begun are answered. UnknownError if it isn't loaded."""
        model = self.get(name)
        with self._lock:
            self._models.pop(name, None)
        model.close()

    def index(self, *, only_ready: bool = False) -> list[dict[str, str]]:
        """Every model of the data directory in the protocol's form: name, version, state and reason."""
        found = []
        folder = self._data / "models"
        present = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
        loaded = {model.name: model for model in self.models}
        for name in sorted(present | set(loaded)):
            try:
                names.check_model_name(name)
            except ModelsyncError:
                continue
            entry = _entry(name, loaded.get(name), folder / name)
            if entry["state"] == "READY" or not only_ready:
                found.append(entry)
        return found

    def close(self) -> None:
        """Unload everything."""
        for model in self.models:
            model.close()
        self._end()


def _entry(name: str, model: HotModel | None, folder: Path) -> dict[str, str]:
    if model is None:
        pointer = read_pointer(folder, name, CURRENT).pointer
        version = str(pointer.ref.version) if pointer is not None else ""
        return {"name": name, "version": version, "state": "UNAVAILABLE", "reason": "unloaded"}
    try:
        with model.lease() as lease:
            return {"name": name, "version": str(lease.version), "state": "READY", "reason": ""}
    except NotServingError as error:
        return {"name": name, "version": "", "state": "UNAVAILABLE", "reason": str(error)}
