"""The model that answers requests: one reference, leases on it, and its replacement between two requests.

It loads nothing and reads no files. Every method may be called from any thread and only ever waits for a lock
that is held for some assignments.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from modelsync_inference.errors import InputError, NotServingError, RunError, UnknownError, WorkerDiedError
from modelsync_inference.model.lease import Lease, Loaded
from modelsync_inference.model.trial import Label, Trial
from modelsync_inference.runtimes.datatypes import Array

_SUSPICIOUS_ERRORS = 3
_MAX_QUEUED = 256
_FRESH_REQUESTS = 1000
_MAX_DEATHS = 3


@dataclass(frozen=True, slots=True)
class Counters:
    """Runs and broken runs of the serving version since the switch to it, and the mean time of a run of one request."""

    requests: int = 0
    errors: int = 0
    run_ms: float = 0.0


@dataclass(eq=False)
class Serving:
    """Holds the serving version. `wake` is called when there is work for the thread that frees and probes.

    While it is paused, because the old version had to make room for the new one, at most `_MAX_QUEUED` callers of
    `lease` wait up to `queue_seconds`.
    """

    wake: Callable[[], None]
    queue_seconds: float = 5.0
    _lock: threading.Condition = field(default_factory=lambda: threading.Condition(threading.Lock()))
    _loaded: Loaded | None = None
    _idle: list[Loaded] = field(default_factory=list)
    _paused: bool = False
    _queued: int = 0
    _tried: tuple[Loaded, Trial] | None = None
    _shadows: ThreadPoolExecutor | None = None

    def lease(self, label: Label | None = None, version: int | None = None) -> Lease:
        """Pin a version: the one with `label` or of number `version`; without either, whose turn it is.

        NotServingError if no version serves, UnknownError if there is none that has this label or number now.
        """
        with self._lock:
            if label is not None or version is not None:
                return self._lease_of(label, version)
            if self._tried is not None and self._loaded is not None and self._tried[1].takes_canary():
                loaded, trial = self._tried
                return self._pin(loaded, Label.CANARY, trial)
            return self._pin(self._stable(), Label.STABLE)

    def _lease_of(self, label: Label | None, version: int | None) -> Lease:
        if self._tried is not None and label is not Label.STABLE:
            loaded, trial = self._tried
            of_this_label = label in trial.labels if label is not None else loaded.ref.version == version
            if of_this_label:
                return self._pin(loaded, label or trial.labels[0], trial)
        if label not in (None, Label.STABLE):
            raise UnknownError(f"no version is on trial as {label}.")
        stable = self._stable()
        if version not in (None, stable.ref.version):
            raise UnknownError(f"version '{version}' does not serve; version {stable.ref.version} does.")
        return self._pin(stable, Label.STABLE)

    def _pin(self, loaded: Loaded, label: Label, trial: Trial | None = None) -> Lease:
        loaded.leases += 1
        return Lease(self, loaded, label, trial)

    def _stable(self) -> Loaded:
        if self._loaded is None and self._paused:
            self._wait_for_resume()
        if self._loaded is None:
            raise NotServingError("no version of the model serves yet; try again later.")
        return self._loaded

    def labels(self) -> dict[Label, int]:
        """Which version has which label now."""
        with self._lock:
            found = {} if self._loaded is None else {Label.STABLE: self._loaded.ref.version}
            if self._tried is not None:
                loaded, trial = self._tried
                found |= dict.fromkeys(trial.labels, loaded.ref.version)
            return found

    def _wait_for_resume(self) -> None:
        if self._queued >= _MAX_QUEUED:
            raise NotServingError(f"{_MAX_QUEUED} requests wait for the new version already; try again later.")
        self._queued += 1
        try:
            if not self._lock.wait_for(lambda: not self._paused, self.queue_seconds):
                raise NotServingError("the new version is still being loaded; try again later.")
        finally:
            self._queued -= 1

    def pause(self, seconds: float) -> bool:
        """Take the serving version out and wait until nobody uses it; False, and it serves on, if that takes longer.

        Afterwards it is among `take_idle`. `resume` ends the pause, with or without a new version.
        """
        with self._lock:
            old = self._loaded
            if old is None:
                self._paused = True
                return True
            self._paused, self._loaded, old.retired = True, None, True
            if old.leases == 0:
                self._idle.append(old)
            if self._lock.wait_for(lambda: old.leases == 0, seconds):
                return True
            self._paused, self._loaded, old.retired = False, old, False
            self._lock.notify_all()
            return False

    @property
    def paused(self) -> bool:
        """Whether callers of `lease` wait now."""
        with self._lock:
            return self._paused

    def resume(self) -> None:
        """Let those who wait in `lease` go on."""
        with self._lock:
            self._paused = False
            self._lock.notify_all()

    def swap(self, new: Loaded | None) -> None:
        """Let `new` answer from the next request on; the old one is idle once its last lease is released."""
        with self._lock:
            old, self._loaded = self._loaded, new
            self._tried = None
            if new is not None:
                self._restart(new)
            if old is not None:
                old.retired = True
                if old.leases == 0:
                    self._idle.append(old)

    def take_idle(self) -> list[Loaded]:
        """The retired versions that nobody uses any more; the caller closes them."""
        with self._lock:
            idle, self._idle = self._idle, []
            return idle

    @property
    def loaded(self) -> Loaded | None:
        """The serving version."""
        with self._lock:
            return self._loaded

    def counters(self) -> Counters:
        """Counters of the serving version."""
        with self._lock:
            loaded = self._loaded
            if loaded is None:
                return Counters()
            mean = loaded.busy_seconds * 1000 / loaded.timed if loaded.timed else 0.0
            return Counters(loaded.requests, loaded.errors, mean)

    def restart_counters(self) -> None:
        """Begin to count anew, as a new activation of the same version does."""
        with self._lock:
            if self._loaded is not None:
                self._restart(self._loaded)

    def _restart(self, loaded: Loaded) -> None:
        loaded.requests = loaded.errors = loaded.errors_in_a_row = 0
        loaded.timed, loaded.busy_seconds = 0, 0.0

    def begin_trial(self, loaded: Loaded, trial: Trial) -> None:
        """Let `loaded` have its share of the requests, beside the serving version."""
        with self._lock:
            self._tried = (loaded, trial)

    def trial_of(self, loaded: Loaded) -> Trial | None:
        """The trial that `loaded` is on."""
        with self._lock:
            return self._tried[1] if self._tried is not None and self._tried[0] is loaded else None

    def statistics(self) -> dict[str, Any] | None:
        """The counters of the trial that is on."""
        with self._lock:
            return None if self._tried is None else self._tried[1].statistics()

    def retire(self, loaded: Loaded) -> None:
        """Take a version that does not serve out of its trial; it is idle once its last lease is released."""
        with self._lock:
            if self._tried is not None and self._tried[0] is loaded:
                self._tried = None
            loaded.retired = True
            if loaded.leases == 0:
                self._idle.append(loaded)

    def shadow(self, feeds: Mapping[str, Array], outputs: Sequence[str], answers: dict[str, Array]) -> None:
        """Give the version on trial the same request, after the answer and in a thread of its own."""
        with self._lock:
            if self._tried is None or not self._tried[1].takes_shadow():
                return
            loaded, trial = self._tried
            loaded.leases += 1
            self._shadows = self._shadows or ThreadPoolExecutor(1, thread_name_prefix="modelsync-shadow")
            self._shadows.submit(self._run_shadow, loaded, trial, feeds, outputs, answers)

    def _run_shadow(
        self,
        loaded: Loaded,
        trial: Trial,
        feeds: Mapping[str, Array],
        outputs: Sequence[str],
        answers: dict[str, Array],
    ) -> None:
        shadow = None
        try:
            shadow = loaded.model.run(feeds, outputs)
        except (InputError, RunError):
            pass  # counted below
        finally:
            trial.end_shadow(answers, shadow)
            self.give_back(loaded)

    def suspicious(self) -> Loaded | None:
        """The serving version if it died, or broke several times in a row; asking resets the latter."""
        with self._lock:
            loaded = self._loaded
            if loaded is None or not (loaded.died or loaded.errors_in_a_row >= _SUSPICIOUS_ERRORS):
                return None
            loaded.errors_in_a_row = 0
            return loaded

    def count(self, loaded: Loaded, seconds: float, error: RunError | None = None, requests: int = 1) -> None:
        """Count a run of `loaded` that took so long, and what broke it.

        Runs of several requests are not timed: how long they take depends on how many those are.
        """
        with self._lock:
            loaded.requests += requests
            if requests == 1:
                loaded.timed += 1
                loaded.busy_seconds += seconds
            loaded.errors += error is not None
            loaded.errors_in_a_row = loaded.errors_in_a_row + 1 if error is not None else 0
            if isinstance(error, WorkerDiedError):
                loaded.deaths += 1
                # Later on it may be the request that is to blame: one bad client must not take a proven version out.
                if loaded.requests <= _FRESH_REQUESTS or loaded.deaths >= _MAX_DEATHS:
                    loaded.died = str(error)
            suspicious = bool(loaded.died) or loaded.errors_in_a_row == _SUSPICIOUS_ERRORS
            suspicious = suspicious and not loaded.retired
        if suspicious:
            self.wake()

    def give_back(self, loaded: Loaded) -> None:
        """End one lease of `loaded`."""
        with self._lock:
            loaded.leases -= 1
            idle = loaded.retired and loaded.leases == 0
            if idle:
                self._idle.append(loaded)
                self._lock.notify_all()
        if idle:
            self.wake()
