"""`HotModel`: the handle that an application embeds. It owns the threads; the follower decides, `Serving` serves."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from modelsync_inference.errors import NotServingError
from modelsync_inference.follow.attempts import Attempts
from modelsync_inference.follow.daemon_link import DaemonLink, Report
from modelsync_inference.follow.follower import SERVING, Follower, Outcome
from modelsync_inference.follow.memory_policy import MemoryPolicy
from modelsync_inference.follow.watch import FolderWatch
from modelsync_inference.handle.environment import describe
from modelsync_inference.handle.settings import Settings, make_runtime
from modelsync_inference.model.lease import Lease, Loaded, Prediction
from modelsync_inference.model.memory import resident_bytes
from modelsync_inference.model.serving_model import Serving
from modelsync_inference.model.trial import Label
from modelsync_inference.processes.code_runtime import KindRuntime
from modelsync_inference.runtimes.port import Confined, Processes, Runtime, Telling
from modelsync_protocol import names

_LOG = logging.getLogger(__name__)


class HotModel:
    """The model `name` of the data directory `data`, always in the version that its pointer names.

        with HotModel("/var/lib/modelsync", "anomaly") as model:
            model.wait_ready(timeout=60)
            prediction = model.predict({"X": readings})

    Loading, probing and freeing happen in a background thread; `predict` and `lease` never wait for them and may be
    called from any thread. A version that doesn't load or whose probe fails never serves.
    """

    def __init__(
        self,
        data: Path | str,
        name: str,
        *,
        runtime: Runtime | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Prepare; nothing starts before `start` (or `with`). UsageError if `name` is not a model name."""
        self.name = names.check_model_name(name)
        self._settings = settings or Settings()
        data = Path(data).absolute()
        folder = data / "models" / name
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._serving = Serving(self._wake.set, self._settings.queue_seconds)
        self._runtime = runtime or make_runtime(self._settings, data, name)
        self._holds = 0
        self._holds_lock = threading.Lock()
        self._listeners: tuple[Callable[[Outcome], None], ...] = ()
        self._told: dict[str, Outcome | None] = {}
        policy = MemoryPolicy(
            self._settings.policy,
            self._settings.memory_budget,
            self._settings.memory_factor,
            self._settings.floor(name),
            self._resident,
        )
        self._follower = Follower(
            folder,
            name,
            self._runtime,
            self._serving,
            self._changed,
            policy=policy,
            deferred=lambda: self._holds > 0,
            trials=self._settings.trials,
            batches=self._settings.max_batch_size > 1,
            attempts=Attempts(data / "inference" / name),
        )
        self._watch = FolderWatch(folder, self._wake.set) if self._settings.watch else None
        self._link = None
        if self._settings.link:
            own = isinstance(self._runtime, KindRuntime)
            self._link = DaemonLink(
                data,
                name,
                self.reports,
                self._wake.set,
                self._settings.heartbeat_seconds,
                partial(describe, builtin=own),
            )
        self._thread = threading.Thread(target=self._follow, name="modelsync-follow", daemon=True)

    def start(self) -> HotModel:
        """Begin to follow the pointer; once."""
        self._thread.start()
        if self._link is not None:
            self._link.start()
        return self

    def close(self) -> None:
        """Stop following and serving; leases that are still out stay usable. May be repeated."""
        self._stop.set()
        self._wake.set()
        if self._link is not None:
            self._link.close()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until a version serves; NotServingError after `timeout` seconds says what stands in the way."""
        if not self._ready.wait(timeout):
            raise NotServingError(f"no version of {self.name} serves yet: {self._obstacle()}")

    @property
    def ready(self) -> bool:
        """Whether a version serves."""
        return self._serving.loaded is not None

    @property
    def version(self) -> int | None:
        """The version that serves."""
        loaded = self._serving.loaded
        return loaded.ref.version if loaded is not None else None

    @property
    def platform(self) -> str | None:
        """The Open Inference Protocol's name of what serves; None if no version does."""
        loaded = self._serving.loaded
        return loaded.model.platform if loaded is not None else None

    @property
    def batches(self) -> bool:
        """Whether requests to the version that serves may be run together."""
        loaded = self._serving.loaded
        return loaded is not None and loaded.unbatched is None

    @property
    def paused(self) -> bool:
        """Whether a version is being exchanged for another, and requests wait."""
        return self._serving.paused

    def lease(self, label: Label | None = None, *, version: int | None = None) -> Lease:
        """Pin a version for several runs, and release it soon. Without `label` or `version`: whose turn it is.

        NotServingError if no version serves; UnknownError if no version has this label or number now.
        """
        return self._serving.lease(label, version)

    @property
    def labels(self) -> dict[Label, int]:
        """Which version has which label now: `stable` serves, `canary` and `shadow` are on trial beside it."""
        return self._serving.labels()

    def predict(
        self, inputs: Mapping[str, object], outputs: Sequence[str] | None = None, *, label: Label | None = None
    ) -> Prediction:
        """Run once on `inputs` (arrays or lists by name). Raises what `lease` raises, InputError or RunError."""
        with self.lease(label) as lease:
            return lease.run(inputs, outputs)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """While this lasts, what serves is not replaced: a new version is loaded and waits for the end.

        The daemon is told so. Holds may be nested and taken by several threads. A version that breaks is still left.
        """
        with self._holds_lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._holds_lock:
                self._holds -= 1
            self._wake.set()

    def subscribe(self, listener: Callable[[Outcome], None]) -> Callable[[], None]:
        """Have `listener` called with every new outcome, by the thread that follows; returns how to end that.

        A listener that raises is logged and goes on being called; one that blocks holds up the next swap.
        """
        self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

        return unsubscribe

    @property
    def swaps(self) -> int:
        """How many times a version began to serve."""
        return self._follower.swaps

    @property
    def refusals(self) -> int:
        """How many times a version was refused."""
        return self._follower.refusals

    def status(self) -> dict[str, Any]:
        """What serves, what became of the pointers, and what is wrong, as a JSON object for people and tests."""
        loaded, counters, follower = self._serving.loaded, self._serving.counters(), self._follower
        return {
            "model": self.name,
            "serving": loaded and {"version": loaded.ref.version, "digest": loaded.ref.digest},
            "batching": loaded and {"on": loaded.unbatched is None, "reason": loaded.unbatched or ""},
            "requests": counters.requests,
            "errors": counters.errors,
            "run_ms": round(counters.run_ms, 3),
            "rss_bytes": self._resident(),
            "confined_by": _layers(loaded),
            "providers": _providers(loaded),
            "labels": {str(label): version for label, version in self.labels.items()},
            "trial": self._serving.statistics(),
            "current": _outcome_json(follower.current),
            "candidate": _outcome_json(follower.candidate),
            "problems": dict(follower.problems),
            "swaps": follower.swaps,
            "refusals": follower.refusals,
            "daemon": {
                "connected": self._link is not None and self._link.connected,
                "problem": self._link and self._link.problem,
            },
        }

    def reports(self) -> list[Report]:
        """The reports for the daemon (interfaces §3) as things stand; sending one twice does no harm."""
        rss = self._resident()
        return [self._report(o, rss) for o in (self._follower.candidate, self._follower.current) if o is not None]

    def _report(self, outcome: Outcome, rss: int) -> Report:
        serves = outcome.state == SERVING
        counters = self._serving.counters() if serves else None
        return {
            "pid": os.getpid(),
            "pointer": outcome.pointer,
            "generation": outcome.generation,
            "version": outcome.ref.version,
            "digest": outcome.ref.digest,
            "state": outcome.state,
            "reason": outcome.reason,
            "load_ms": outcome.load_ms,
            "probe_ms": outcome.probe_ms,
            "requests": counters.requests if counters else 0,
            "errors": counters.errors if counters else 0,
            "run_us": round(counters.run_ms * 1000) if counters else 0,
            "rss_bytes": rss,
            "trial": self._follower.trial_of(outcome.ref),
            "restarts": self._settings.restarts,
            "ended": self._settings.ended,
            "confined_by": _layers(self._serving.loaded) or [],
        }

    def _changed(self) -> None:
        if self.ready:
            self._ready.set()
        if self._link is not None:
            self._link.changed()
        for outcome in (self._follower.candidate, self._follower.current):
            if outcome is not None and self._told.get(outcome.pointer) != outcome:
                self._told[outcome.pointer] = outcome
                self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        for listener in self._listeners:
            try:
                listener(outcome)
            except Exception:  # somebody else's code must not end the thread that follows
                _LOG.exception("a listener of %s failed", self.name)

    def _resident(self) -> int:
        return resident_bytes(self._runtime.pids() if isinstance(self._runtime, Processes) else ())

    def _follow(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            if self._watch is not None:
                self._watch.renew()
            try:
                self._follower.reconcile()
            except Exception:  # this thread is the only one that follows: it must outlive what nobody foresaw
                _LOG.exception("following the pointers of %s failed; trying again", self.name)
            self._wake.wait(self._settings.poll_seconds)
        if self._watch is not None:
            self._watch.close()
        self._follower.close()
        if isinstance(self._runtime, Processes):
            self._runtime.close()

    def _obstacle(self) -> str:
        current = self._follower.current
        if current is not None and current.reason:
            return f"version {current.ref.version} was refused: {current.reason}"
        return " ".join(self._follower.problems.values()) or "there is no current.json; publish or pull a version."

    def __enter__(self) -> HotModel:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _layers(loaded: Loaded | None) -> list[str] | None:
    """What confines the model that serves; None if nothing does."""
    if loaded is None or not isinstance(loaded.model, Confined):
        return None
    return list(loaded.model.layers) or None


def _providers(loaded: Loaded | None) -> dict[str, Any] | None:
    """Execution providers of the model that serves (providers.Taken); None if its runtime has none."""
    if loaded is None or not isinstance(loaded.model, Telling):
        return None
    return loaded.model.facts.get("providers")


def _outcome_json(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return {
        "version": outcome.ref.version,
        "generation": outcome.generation,
        "state": outcome.state,
        "reason": outcome.reason,
        "load_ms": outcome.load_ms,
        "probe_ms": outcome.probe_ms,
    }
