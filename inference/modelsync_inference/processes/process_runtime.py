"""The runtime port on worker processes: each version in a process of its own, which may crash or hang by itself.

A version is loaded in its worker at low priority while this process serves on, its memory comes back when the
worker ends, and a worker that crashes or does not answer is killed, told apart by how it ended, and replaced.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.processes.process_model import Limits, LoaderDiedError, ProcessModel
from modelsync_inference.processes.spawner import Spawner
from modelsync_inference.runtimes.engines import wants_session
from modelsync_inference.runtimes.onnx_sessions import Choice
from modelsync_inference.runtimes.port import LoadedModel, Stated
from modelsync_inference.runtimes.providers import Providers, Taken

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """`memory`: bytes that a worker may map beyond the libraries and the artifact. `require`: refuse to load where a
    layer of the confinement is missing.
    """

    memory: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    require: bool = False


class ProcessRuntime:
    """Loads models that are data in worker processes with `concurrency` runs at a time each.

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
        """See Guided: all that the worker can read is `folder`.

        Of a worker that dies while it loads on another provider than the CPU, that provider's library is suspected: the
        version is loaded without them, unless the first is required.
        """
        providers = self._choice.providers
        if not (providers.asked and wants_session(path, self._choice)):
            return self._load(path, folder, stated, Providers())
        try:
            return self._load(path, folder, stated, providers)
        except LoaderDiedError as error:
            if providers.required:
                raise ModelRefusedError(
                    f"--require-provider: {providers.asked[0].name} is not in use: {error}"
                ) from error
            _LOG.warning("%s is loaded on the CPU alone: with other providers, %s", path.name, error)
            model = self._load(path, folder, stated, Providers())
            taken = model.facts["providers"]
            names = [asked.name for asked in providers.asked]
            fallen = Taken(names, taken["available"], taken["in_use"], dict.fromkeys(names, str(error).rstrip(".")))
            model.facts = {**model.facts, "providers": fallen.document()}
            return model

    def _load(self, path: Path, folder: Path, stated: Stated, providers: Providers) -> ProcessModel:
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
            "runs": self._concurrency,
            "providers": providers.document(),
            "onnx_by": choice.onnx_by.value,
            "context": choice.context,
            "inputs": [[spec.name, spec.datatype, spec.shape] for spec in stated.inputs],
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


def _tree_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))
