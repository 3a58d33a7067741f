"""How a HotModel keeps up, and the runtime that its settings ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelsync_inference.follow.memory_policy import MEMORY_FLOOR, Policy
from modelsync_inference.model.trial import TrialRules
from modelsync_inference.processes.code_runtime import CodeRuntime, KindRuntime
from modelsync_inference.processes.isolation import Isolation
from modelsync_inference.processes.process_model import Limits
from modelsync_inference.processes.process_runtime import Bounds, ProcessRuntime
from modelsync_inference.processes.sandbox import Allowance
from modelsync_inference.processes.spawner import Spawner
from modelsync_inference.runtimes.engines import EngineRuntime
from modelsync_inference.runtimes.onnx_sessions import Choice, OnnxBy
from modelsync_inference.runtimes.port import Runtime
from modelsync_inference.runtimes.providers import Providers
from modelsync_protocol.errors import UsageError

_CACHE = "inference"
_CODE_FLOOR = 160 << 20
"""An interpreter with scikit-learn of its own has 130 MiB."""

_MAPPED_FACTOR, _INLINE_FACTOR = 1.1, 3.0


@dataclass(frozen=True, slots=True)
class EngineRules:
    """What runs models. Of `providers` (of ONNX Runtime) and `onnx_by` the name "" is for models without their own.

    `context_tokens`: of one generation of a language model, with its prompt. `generation_seconds`: its longest time.
    """

    providers: Mapping[str, Providers] = field(default_factory=dict)
    onnx_by: Mapping[str, OnnxBy] = field(default_factory=dict)
    context_tokens: int = 4096
    generation_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.context_tokens < 1 or self.generation_seconds <= 0:
            raise UsageError("context_tokens and generation_seconds must be positive.")

    def choice(self, name: str, settings: Settings, cache: Path | None) -> Choice:
        """What is chosen for model `name`."""
        return Choice(
            settings.threads,
            settings.prepack,
            settings.arena,
            cache,
            settings.concurrency,
            self.providers.get(name, self.providers.get("", Providers())),
            self.onnx_by.get(name, self.onnx_by.get("", OnnxBy.ONNX_RUNTIME)),
            self.context_tokens,
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """How a HotModel keeps up. With `watch` and `link` off it only polls.

    `threads`: per session, inside one run. `concurrency`: runs at the same time in a worker process.
    `map_weights`: lay large weights out for mapping, in DATA/inference/NAME. `prepack`, `arena`: see Choice.
    `policy`, `memory_budget` (bytes): see MemoryPolicy. `queue_seconds`: how long a request waits for a version
    that had to be unloaded first. `load_seconds`, `run_seconds`: see Limits; for worker processes only.
    `trials`: see TrialRules. `max_batch_size`: the most rows run together, 1 being none (batch_rules.py).
    `allow_code`: names of models that may be code (pickles, scoring scripts), confined;
    `code_memory`: bytes that each of their processes may take beyond its libraries. `require_confinement`: load nothing
    where a layer of the workers' confinement is missing (docs/confinement.md). `engines`: see EngineRules.
    `restarts`, `ended`: how many processes did this one's work before, and how the last one ended, as a supervisor
    knows it; the daemon is told.
    """

    threads: int = 1
    poll_seconds: float = 2.0
    heartbeat_seconds: float = 5.0
    watch: bool = True
    link: bool = True
    isolation: Isolation = Isolation.THREAD
    concurrency: int = 2
    map_weights: bool = True
    prepack: bool | None = None
    arena: bool | None = None
    policy: Policy = Policy.AUTO
    memory_budget: int | None = None
    queue_seconds: float = 5.0
    load_seconds: float = 25.0
    run_seconds: float = 30.0
    trials: TrialRules = field(default_factory=TrialRules)
    allow_code: frozenset[str] = frozenset()
    code_memory: int = 512 << 20
    require_confinement: bool = False
    max_batch_size: int = 1
    engines: EngineRules = field(default_factory=EngineRules)
    restarts: int = 0
    ended: str = ""

    def __post_init__(self) -> None:
        if min(self.threads, self.concurrency) < 1 or self.poll_seconds <= 0 or self.heartbeat_seconds <= 0:
            raise UsageError("threads, concurrency, poll_seconds and heartbeat_seconds must be positive.")
        if min(self.queue_seconds, self.load_seconds, self.run_seconds) <= 0:
            raise UsageError("queue_seconds, load_seconds and run_seconds must be positive.")
        if self.require_confinement and self.isolation is not Isolation.PROCESS:
            raise UsageError("confinement needs models in processes of their own: choose isolation process.")

    @property
    def memory_factor(self) -> float:
        """Memory that a load takes, in sizes of the model."""
        return _MAPPED_FACTOR if self.map_weights and not self.prepack else _INLINE_FACTOR

    def floor(self, name: str) -> int:
        """Memory that a load of model `name` takes however small it is, bytes."""
        return _CODE_FLOOR if name in self.allow_code else MEMORY_FLOOR


def make_runtime(settings: Settings, data: Path, name: str, spawner: Spawner | None = None) -> Runtime:
    """The runtime for model `name` of directory `data`; `spawner`: one for several models, the caller closes it."""
    models = _data_runtime(settings, data, name, spawner)
    code = None
    if name in settings.allow_code:
        limits, allowance = Limits(settings.load_seconds, settings.run_seconds), Allowance(memory=settings.code_memory)
        code = CodeRuntime(name, settings.concurrency, limits, allowance)
    return KindRuntime(name, models, code)


def _data_runtime(settings: Settings, data: Path, name: str, spawner: Spawner | None) -> Runtime:
    cache = data / _CACHE / name if settings.map_weights else None
    choice = settings.engines.choice(name, settings, cache)
    if settings.isolation is Isolation.PROCESS:
        limits = Limits(settings.load_seconds, settings.run_seconds, settings.engines.generation_seconds)
        bounds = Bounds(require=settings.require_confinement)
        return ProcessRuntime(choice, settings.concurrency, limits, spawner, bounds)
    # Only here: a server whose models run in workers does not need ONNX Runtime in its own memory.
    from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime

    return EngineRuntime(choice, OnnxRuntime(choice))
