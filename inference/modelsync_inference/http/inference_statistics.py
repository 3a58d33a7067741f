"""Counts of inference requests by model and version, in the terms of Triton's statistics extension.

Any thread may call. Durations are nanoseconds. Of each model the last `_MAX_VERSIONS` versions are kept.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_MAX_VERSIONS = 16


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the parts of one request took, seconds."""

    queue: float = 0.0
    compute_input: float = 0.0
    compute_infer: float = 0.0
    compute_output: float = 0.0


@dataclass(slots=True)
class Duration:
    """How often, and for how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.ns += round(seconds * 1e9)

    def as_json(self) -> dict[str, int]:
        """As the extension has it."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class VersionStatistics:
    """Of one version. `inferences` are rows, `executions` runs; a run may answer several requests."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    inferences: int = 0
    executions: int = 0
    last_ms: int = 0
    batches: defaultdict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

    def as_json(self, model: str, version: str) -> dict[str, Any]:
        """The extension's `model_stats` entry."""
        nothing = Duration().as_json()
        parts = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
        return {
            "name": model,
            "version": version,
            "last_inference": self.last_ms,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {part: getattr(self, part).as_json() for part in parts}
            | {"cache_hit": nothing, "cache_miss": nothing},
            "batch_stats": [
                {"batch_size": rows, "compute_infer": duration.as_json()}
                for rows, duration in sorted(self.batches.items())
            ],
        }


class InferenceStatistics:
    """All models of a server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, dict[str, VersionStatistics]] = {}

    def ran(self, model: str, version: str, rows: int, seconds: float) -> None:
        """One run of a model on so many rows."""
        with self._lock:
            found = self._of(model, version)
            found.inferences += rows
            found.executions += 1
            found.batches[rows].add(seconds)

    def succeeded(self, model: str, version: str, seconds: float, timing: Timing) -> None:
        """One request was answered."""
        with self._lock:
            found = self._of(model, version)
            found.success.add(seconds)
            found.queue.add(timing.queue)
            found.compute_input.add(timing.compute_input)
            found.compute_infer.add(timing.compute_infer)
            found.compute_output.add(timing.compute_output)
            found.last_ms = round(time.time() * 1000)

    def failed(self, model: str, version: str, seconds: float) -> None:
        """One request was not."""
        with self._lock:
            self._of(model, version).fail.add(seconds)

    def _of(self, model: str, version: str) -> VersionStatistics:
        versions = self._models.setdefault(model, {})
        found = versions.pop(version, None) or VersionStatistics()
        versions[version] = found  # at the end: the one that was used last
        while len(versions) > _MAX_VERSIONS:
            del versions[next(iter(versions))]
        return found

    def documents(self, model: str, version: str | None = None) -> list[dict[str, Any]]:
        """The `model_stats` entries of `model`; empty if nothing was counted."""
        with self._lock:
            versions = self._models.get(model, {})
            return [s.as_json(model, v) for v, s in versions.items() if version in (None, v)]

    def prometheus(self) -> Iterator[str]:
        """Lines of the text format, in Triton's names: counters in microseconds, without `_total` at their end."""
        with self._lock:
            for name, text, read in _TRITON:
                yield f"# HELP nv_inference_{name} {text}\n# TYPE nv_inference_{name} counter\n"
                for model, versions in self._models.items():
                    for version, found in versions.items():
                        yield f'nv_inference_{name}{{model="{model}",version="{version}"}} {read(found)}\n'


_TRITON: tuple[tuple[str, str, Callable[[VersionStatistics], int]], ...] = (
    ("request_success", "Number of successful inference requests, all batch sizes", lambda s: s.success.count),
    ("request_failure", "Number of failed inference requests, all batch sizes", lambda s: s.fail.count),
    ("count", "Number of inferences performed (does not include cached requests)", lambda s: s.inferences),
    ("exec_count", "Number of model executions performed (does not include cached requests)", lambda s: s.executions),
    (
        "request_duration_us",
        "Cumulative inference request duration in microseconds (includes cached requests)",
        lambda s: (s.success.ns + s.fail.ns) // 1000,
    ),
    ("queue_duration_us", "Cumulative inference queuing duration in microseconds", lambda s: s.queue.ns // 1000),
    (
        "compute_input_duration_us",
        "Cumulative compute input duration in microseconds",
        lambda s: s.compute_input.ns // 1000,
    ),
    (
        "compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds",
        lambda s: s.compute_infer.ns // 1000,
    ),
    (
        "compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds",
        lambda s: s.compute_output.ns // 1000,
    ),
)
