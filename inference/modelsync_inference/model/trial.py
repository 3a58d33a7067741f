"""A new version on trial beside the one that serves. It counts and judges; it loads and frees nothing.

As canary it answers a share of the requests; as shadow it is given a share of them again, and its answers are compared,
not returned.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.runtimes.datatypes import Array
from modelsync_protocol.errors import UsageError

_MIN_ERRORS = 3
_MAX_ERROR_RATE = 0.1


class Label(StrEnum):
    """In which role a version answered."""

    STABLE = "stable"
    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class TrialRules:
    """`canary`, `shadow`: shares of the requests, 0 to 1. `seconds`: how long. `min_agreement`: of shadow rows."""

    canary: float = 0.0
    shadow: float = 0.0
    seconds: float = 30.0
    min_agreement: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.canary, self.shadow, self.min_agreement)) or self.seconds < 0:
            raise UsageError("canary, shadow and min_agreement are shares from 0 to 1, trial_seconds is not negative.")

    @property
    def wanted(self) -> bool:
        """Whether there is a trial at all."""
        return self.canary > 0 or self.shadow > 0


class Trial:
    """One version's trial. Any thread may call."""

    def __init__(self, rules: TrialRules, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules, self._clock, self._begin = rules, clock, clock()
        self._lock = threading.Lock()
        self._canary_turns, self._shadow_turns = itertools.count(), itertools.count()
        self._shadow_busy = threading.Lock()
        self.canary_requests = self.canary_errors = 0
        self.shadow_requests = self.shadow_errors = self.shadow_skipped = 0
        self.rows = self.agreed = 0

    @property
    def labels(self) -> tuple[Label, ...]:
        """In which roles the version is on trial."""
        shares = ((Label.CANARY, self._rules.canary), (Label.SHADOW, self._rules.shadow))
        return tuple(label for label, share in shares if share > 0)

    def takes_canary(self) -> bool:
        """Whether this request is the canary's."""
        return _due(next(self._canary_turns), self._rules.canary)

    def count_canary(self, requests: int = 1, *, errors: int = 0) -> None:
        """Count requests that the canary answered, and how many of them broke it."""
        with self._lock:
            self.canary_requests += requests
            self.canary_errors += errors

    def takes_shadow(self) -> bool:
        """Whether this request is given to the shadow too; if so, `end_shadow` has to follow. One at a time."""
        if not _due(next(self._shadow_turns), self._rules.shadow):
            return False
        if self._shadow_busy.acquire(blocking=False):
            return True
        with self._lock:
            self.shadow_skipped += 1
        return False

    def end_shadow(self, stable: dict[str, Array], shadow: dict[str, Array] | None) -> None:
        """Take in the shadow's answer; None: it broke."""
        with self._lock:
            self.shadow_requests += 1
            if shadow is None:
                self.shadow_errors += 1
            else:
                for name, expected in stable.items():
                    agreed, rows = agreement(expected, shadow[name])
                    self.agreed += agreed
                    self.rows += rows
        self._shadow_busy.release()

    def goes_on(self) -> bool:
        """Whether it needs more time; ModelRefusedError once the version has failed."""
        with self._lock:
            for what, errors, requests in (
                ("canary", self.canary_errors, self.canary_requests),
                ("shadow", self.shadow_errors, self.shadow_requests),
            ):
                if errors >= _MIN_ERRORS and errors > _MAX_ERROR_RATE * requests:
                    raise ModelRefusedError(f"as {what} it failed in {errors} of {requests} requests.")
            if self._clock() < self._begin + self._rules.seconds:
                return True
            if self.agreed < self._rules.min_agreement * self.rows:
                raise ModelRefusedError(
                    f"as shadow it agreed with the version that serves in {self.agreed} of {self.rows} rows; "
                    f"{self._rules.min_agreement:g} of them have to."
                )
            return False

    def statistics(self) -> dict[str, Any]:
        """The counters, as JSON for status and reports."""
        with self._lock:
            return {
                "canary": {"requests": self.canary_requests, "errors": self.canary_errors},
                "shadow": {
                    "requests": self.shadow_requests,
                    "errors": self.shadow_errors,
                    "skipped": self.shadow_skipped,
                    "rows": self.rows,
                    "agreed": self.agreed,
                },
            }


def agreement(expected: Array, actual: Array) -> tuple[int, int]:
    """In how many rows two answers agree, and how many there are.

    Rows of floats agree if their largest value stands in the same place (top 1); single floats, to one per cent;
    anything else, if it is the same. Another shape or type agrees in no row.
    """
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return 0, max(1, expected.shape[0] if expected.ndim else 1)
    if expected.dtype.kind != "f":
        return int((expected == actual).sum()), expected.size
    if expected.ndim >= 2 and expected.shape[-1] > 1:
        expected, actual = expected.argmax(axis=-1), actual.argmax(axis=-1)
        return int((expected == actual).sum()), expected.size
    return int(np.isclose(actual, expected, rtol=0.01, atol=1e-6, equal_nan=True).sum()), expected.size


def _due(turn: int, share: float) -> bool:
    """Every so-manieth turn, evenly spread."""
    return int((turn + 1) * share) > int(turn * share)
