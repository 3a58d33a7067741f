"""Follows the pointers: decides what is loaded, switched to, refused and freed. One thread calls `reconcile`.

No threads, no timers, no network here: whoever owns this decides when to look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.follow.attempts import Attempts
from modelsync_inference.follow.memory_policy import MemoryPolicy
from modelsync_inference.model.artifact import open_artifact
from modelsync_inference.model.lease import Loaded
from modelsync_inference.model.loader import load_version, probe_again
from modelsync_inference.model.memory import give_back
from modelsync_inference.model.pointer import CANDIDATE, CURRENT, Pointer, PointerRead, VersionRef, read_pointer
from modelsync_inference.model.serving_model import Serving
from modelsync_inference.model.trial import Trial, TrialRules
from modelsync_inference.runtimes.port import Runtime

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS = 30.0
_DRAIN_SECONDS = 10.0
_PROOF_SECONDS = 10.0
_MAX_REASON = 1000

READY = "ready"
SERVING = "serving"
REFUSED = "refused"
FAILED = "failed"
DEFERRED = "deferred"
_ON_TRIAL = "it is on trial beside the version that serves."


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a pointer: one of the states of interfaces §3, and for a refusal or failure the reason."""

    pointer: str
    generation: int
    ref: VersionRef
    state: str
    reason: str = ""
    load_ms: int = 0
    probe_ms: int = 0

    def answers(self, pointer: Pointer) -> bool:
        """Whether this is the outcome of `pointer` as it stands."""
        return (self.generation, self.ref) == (pointer.generation, pointer.ref)


class Follower:
    """Keeps `serving` in line with the pointers in `folder` (models/NAME).

    `changed` is called after every change of an outcome; while `deferred`, what serves is not replaced.
    `current`, `candidate`, `problems`, `swaps` and `refusals` may be read from any thread.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        runtime: Runtime,
        serving: Serving,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        policy: MemoryPolicy | None = None,
        deferred: Callable[[], bool] = lambda: False,
        trials: TrialRules | None = None,
        batches: bool = False,
        attempts: Attempts | None = None,
    ) -> None:
        self._folder, self._model, self._runtime, self._serving = folder, model, runtime, serving
        self._changed, self._clock = changed, clock
        self._policy, self._deferred = policy or MemoryPolicy(), deferred
        self._trials, self._batches = trials or TrialRules(), batches
        self._attempts = attempts or Attempts(None)
        self._unproven: tuple[Pointer, float] | None = None
        self._passed: VersionRef | None = None
        self._beside: Loaded | None = None
        self._last_trial: tuple[VersionRef, Trial] | None = None
        self._retry_at = 0.0
        self.current: Outcome | None = None
        self.candidate: Outcome | None = None
        self.problems: dict[str, str] = {}
        self.swaps = 0
        self.refusals = 0

    def reconcile(self) -> None:
        """Look at both pointers once and act; never raises for what it finds on the disk."""
        # The candidate first: when it is gone because it became current, current.json already says so.
        candidate = self._read(CANDIDATE)
        current = self._read(CURRENT)
        if current.pointer is not None:
            self._follow_current(current.pointer)
        self._follow_candidate(candidate, current.pointer)
        self._check_health(current.pointer)
        self._prove()
        self._free()

    def trial_of(self, ref: VersionRef) -> dict[str, Any] | None:
        """The counters of the last trial if it was of version `ref`; its verdict does not end them."""
        last = self._last_trial
        return last[1].statistics() if last is not None and last[0] == ref else None

    def close(self) -> None:
        """Stop serving and let go of what nobody uses."""
        self._drop_beside()
        self._serving.swap(None)
        self._free()
        if self._unproven is not None:
            self._attempts.end(self._unproven[0])

    def _read(self, kind: str) -> PointerRead:
        read = read_pointer(self._folder, self._model, kind)
        if read.problem is None:
            self.problems = {key: text for key, text in self.problems.items() if key != kind}
        elif self.problems.get(kind) != read.problem:
            _LOG.warning("%s: %s It is ignored.", self._model, read.problem)
            self.problems = {**self.problems, kind: read.problem}
        return read

    def _follow_current(self, pointer: Pointer) -> None:
        old = self._serving.loaded
        settled = self.current is not None and self.current.answers(pointer) and self.current.state != DEFERRED
        if settled and (old is not None or self._clock() < self._retry_at):
            return
        if old is not None and old.ref == pointer.ref:
            self._serving.restart_counters()
            self._settle(CURRENT, pointer, SERVING)
            return
        if old is not None and self._deferred():
            if self.current is None or not self.current.answers(pointer):
                self._settle(CURRENT, pointer, DEFERRED, "the application holds the version that serves.")
            return
        if old is None:
            suspect = self._attempts.of(pointer)
            if (suspect.deadly or suspect.refused) and self._begin_with_previous(pointer):
                old = self._serving.loaded
                if suspect.deadly:
                    reason = (
                        f"its process ended {suspect.begun} times while it was loaded or had only just begun to serve."
                    )
                    self._settle(CURRENT, pointer, REFUSED, suspect.refused or reason)
                    return
        self._attempts.begin(pointer)
        try:
            new = self._take_beside(pointer.ref)
            if new is None and old is not None and not self._policy.fits_beside(self._folder / pointer.ref.path):
                new = self._load_instead(pointer.ref, old.ref)
                if new is None:
                    self._attempts.end(pointer)
                    return  # still in use; the next look tries again
            new = new or self._load(pointer.ref)
            if old is not None and self._serving.loaded is old and self._on_trial(new):
                self._beside = new
                self._attempts.end(pointer)
                if self.current is None or not self.current.answers(pointer):
                    self._settle(CURRENT, pointer, DEFERRED, _ON_TRIAL)
                return
        except ModelRefusedError as error:
            reason = str(error)
            self._attempts.end(pointer, refused=reason[:_MAX_REASON])
            old = self._serving.loaded
            if old is None:
                reason = self._serve_previous(pointer, reason)
            self._settle(CURRENT, pointer, REFUSED, reason)
            return
        self._switch(new)
        self._settle(CURRENT, pointer, SERVING, loaded=new)
        self._unproven = (pointer, self._clock() + _PROOF_SECONDS)

    def _prove(self) -> None:
        """A version that has served for a while is not to blame if this process ends."""
        if self._unproven is None or self._clock() < self._unproven[1]:
            return
        pointer, _ = self._unproven
        self._unproven = None
        if self.current is not None and self.current.answers(pointer) and self.current.state == SERVING:
            self._attempts.succeed(pointer)

    def _begin_with_previous(self, pointer: Pointer) -> bool:
        """At a start, serve the last good version before one that was trouble the last time; whether that worked."""
        if pointer.previous is None:
            return False
        try:
            self._switch(self._load(pointer.previous))
        except ModelRefusedError as error:
            _LOG.warning("%s: version %s can't serve either: %s", self._model, pointer.previous.version, error)
            return False
        return True

    def _load_instead(self, ref: VersionRef, old: VersionRef) -> Loaded | None:
        """Load `ref` where there is no room for two: the old version goes first, and comes back if the new is refused.

        None: the old one is still in use after `_DRAIN_SECONDS`, and serves on.
        """
        if not self._serving.pause(_DRAIN_SECONDS):
            return None
        try:
            self._free()
            try:
                new = self._load(ref)
            except ModelRefusedError:
                self._switch(self._load(old))
                raise
            self._serving.swap(new)  # before the pause ends
            return new
        finally:
            self._serving.resume()

    def _serve_previous(self, pointer: Pointer, reason: str) -> str:
        self._retry_at = self._clock() + _RETRY_SECONDS
        if pointer.previous is None:
            return reason
        try:
            self._switch(self._load(pointer.previous))
        except ModelRefusedError as error:
            return f"{reason} Version {pointer.previous.version}, the previous one, can't serve either: {error}"
        return reason

    def _follow_candidate(self, read: PointerRead, current: Pointer | None) -> None:
        if read.problem is not None:
            return
        pointer = read.pointer
        taken = pointer is not None and current is not None and pointer.ref == current.ref
        if pointer is None or (taken and current is not None and current.generation >= pointer.generation):
            if self._beside is None or current is None or self._beside.ref != current.ref:
                self._drop_beside()
            if self.candidate is not None:
                self.candidate = None
                self._changed()
            return
        answered = self.candidate is not None and self.candidate.answers(pointer)
        if answered and self.candidate is not None and self.candidate.state != DEFERRED:
            return
        serving = self._serving.loaded
        if serving is not None and serving.ref == pointer.ref:
            self._drop_beside()
            self._settle(CANDIDATE, pointer, READY, loaded=serving)
            return
        if self._beside is None or self._beside.ref != pointer.ref:
            self._drop_beside()
            try:
                if serving is not None and not self._policy.fits_beside(self._folder / pointer.ref.path):
                    open_artifact(self._folder, pointer.ref)
                    self._settle(CANDIDATE, pointer, READY)  # as far as can be known before the switch
                    return
                self._beside = self._load(pointer.ref)
            except ModelRefusedError as error:
                self._settle(CANDIDATE, pointer, REFUSED, str(error))
                return
        try:
            if serving is not None and self._on_trial(self._beside):
                if not answered:
                    self._settle(CANDIDATE, pointer, DEFERRED, _ON_TRIAL, loaded=self._beside)
                return
        except ModelRefusedError as error:
            self._settle(CANDIDATE, pointer, REFUSED, str(error))
            self._drop_beside()
            return
        self._settle(CANDIDATE, pointer, READY, loaded=self._beside)

    def _on_trial(self, loaded: Loaded) -> bool:
        """Whether `loaded` goes on with its trial, which begins now if it has had none; ModelRefusedError."""
        if not self._trials.wanted or self._passed == loaded.ref:
            return False
        trial = self._serving.trial_of(loaded)
        if trial is None:
            trial = Trial(self._trials, self._clock)
            self._serving.begin_trial(loaded, trial)
            self._last_trial = (loaded.ref, trial)
        try:
            if trial.goes_on():
                return True
        except ModelRefusedError:
            self._serving.retire(loaded)
            raise
        self._passed = loaded.ref
        return False

    def _check_health(self, pointer: Pointer | None) -> None:
        """Go back, without waiting for anybody, from a version that died or that its probe no longer passes."""
        loaded = self._serving.suspicious()
        if loaded is None or self.current is None or self.current.ref != loaded.ref:
            return
        if self.current.state != SERVING:
            return
        reason = loaded.died
        if not reason:
            try:
                probe_again(self._folder, loaded)
                return
            except ModelRefusedError as error:
                reason = str(error)
        _LOG.error("%s: version %s broke: %s", self._model, loaded.ref.version, reason)
        generation = self.current.generation
        if pointer is not None and pointer.ref == loaded.ref and pointer.previous is not None:
            try:
                self._switch(self._load(pointer.previous))
            except ModelRefusedError as error:
                _LOG.error("%s: version %s can't serve either: %s", self._model, pointer.previous.version, error)
            self._attempts.condemn(pointer, reason[:_MAX_REASON])
        self.current = Outcome(CURRENT, generation, loaded.ref, FAILED, reason)
        self._changed()

    def _load(self, ref: VersionRef) -> Loaded:
        try:
            return load_version(self._folder, ref, self._runtime, batches=self._batches)
        finally:
            give_back()  # what parsing took, which is more than the model

    def _switch(self, new: Loaded) -> None:
        if self._serving.loaded is not new:
            self._serving.swap(new)
        self.swaps += 1

    def _take_beside(self, ref: VersionRef) -> Loaded | None:
        if self._beside is None or self._beside.ref != ref:
            return None
        taken, self._beside = self._beside, None
        return taken

    def _drop_beside(self) -> None:
        beside, self._beside = self._beside, None
        if beside is not None and not beside.retired:
            self._serving.retire(beside)  # a canary's last answers are still to come
        self._free()

    def _free(self) -> None:
        idle = self._serving.take_idle()
        for loaded in idle:
            loaded.model.close()
        if idle:
            give_back()

    def _settle(self, kind: str, pointer: Pointer, state: str, reason: str = "", loaded: Loaded | None = None) -> None:
        load_ms, probe_ms = (loaded.load_ms, loaded.probe_ms) if loaded else (0, 0)
        outcome = Outcome(kind, pointer.generation, pointer.ref, state, reason, load_ms, probe_ms)
        log = _LOG.warning if state == REFUSED else _LOG.info
        log("%s: version %s is %s%s", self._model, pointer.ref.version, state, f": {reason}" if reason else "")
        if kind == CURRENT:
            self.current = outcome
        else:
            self.candidate = outcome
        if state == REFUSED:
            self.refusals += 1
        self._changed()
