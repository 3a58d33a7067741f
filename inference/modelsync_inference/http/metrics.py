"""Prometheus metrics of the inference server, in a registry of their own.

Beside our names stand those of Triton (`nv_inference_…`, inference_statistics.py), which dashboards of the field know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelsync_inference.handle.hot_model import HotModel
from modelsync_inference.handle.repository import Repository
from modelsync_inference.http.inference_statistics import InferenceStatistics, Timing

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counts requests, and reads the rest off the models and the `collectors` at each scrape. Any thread may call."""

    def __init__(self, models: Repository, collectors: Iterable[Collector] = ()) -> None:
        self._models = models
        self.statistics = InferenceStatistics()
        self._registry = CollectorRegistry()
        for collector in (_ModelCollector(models), *collectors):
            self._registry.register(collector)
        self._requests = Counter(
            "modelsync_inference_requests",
            "Inference requests, by HTTP status of the answer.",
            ["model", "status"],
            registry=self._registry,
        )
        self._failures = Counter(
            "modelsync_inference_failures",
            "Inference requests that failed through no fault of the caller (status 500 and above).",
            ["model"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "modelsync_inference_request_seconds",
            "Time from the request's arrival to its answer, seconds.",
            ["model"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._rows = Histogram(
            "modelsync_inference_batch_rows",
            "Rows that ran together.",
            ["model"],
            buckets=_BATCH_BUCKETS,
            registry=self._registry,
        )

        self.pending = Gauge(
            "modelsync_inference_pending_requests",
            "Inference requests that have come in and are not answered yet.",
            registry=self._registry,
        )

    def observe(self, name: str, status: int, seconds: float, done: tuple[str, Timing] | None) -> None:
        """Count one inference request for model `name`; names that no model has share the label `unknown`.

        `done`: the version that answered and how long the parts took; None: nobody did.
        """
        model = next((model for model in self._models.models if model.name == name), None)
        name = name if model is not None else "unknown"
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)
        self._failures.labels(name).inc(status >= 500)
        if done is not None:
            version, timing = done
            self.statistics.succeeded(name, version, seconds, timing)
        else:
            version = str(model.version or "") if model is not None else ""
            self.statistics.failed(name, version, seconds)

    def ran(self, name: str, version: int, rows: int, seconds: float) -> None:
        """Count one run of a model on so many rows."""
        self._rows.labels(name).observe(rows)
        self.statistics.ran(name, str(version), rows, seconds)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry) + "".join(self.statistics.prometheus()).encode()


def _add_providers(model: HotModel, provider: GaugeMetricFamily, fallback: GaugeMetricFamily) -> None:
    """For models for which providers were asked: every model runs on the CPU."""
    found = model.status()["providers"]
    if not found or not found["asked"]:
        return
    for state in ("asked", "available", "in_use"):
        for name in found[state]:
            provider.add_metric([model.name, name, state], 1)
    fallback.add_metric([model.name], 0 if found["fallback"] is None else 1)


class _ModelCollector(Collector):
    def __init__(self, models: Repository) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        swaps = CounterMetricFamily(
            "modelsync_inference_swaps", "Times that a version began to serve.", labels=["model"]
        )
        refused = CounterMetricFamily(
            "modelsync_inference_refused", "Times that a version was refused.", labels=["model"]
        )
        info = GaugeMetricFamily(
            "modelsync_inference_model_info", "The serving version.", labels=["model", "version", "digest"]
        )
        ready = GaugeMetricFamily("modelsync_inference_ready", "1 if a version serves, else 0.", labels=["model"])
        provider = GaugeMetricFamily(
            "modelsync_inference_provider",
            "1 for each execution provider of the serving version, by what is true of it: asked, available, in_use.",
            labels=["model", "provider", "state"],
        )
        fallback = GaugeMetricFamily(
            "modelsync_inference_provider_fallback",
            "1 if the first provider that was asked for is not in use, else 0.",
            labels=["model"],
        )
        for model in self._models.models:
            self._add(model, swaps, refused, info, ready)
            _add_providers(model, provider, fallback)
        yield from (swaps, refused, info, ready, provider, fallback)

    def _add(
        self,
        model: HotModel,
        swaps: CounterMetricFamily,
        refused: CounterMetricFamily,
        info: GaugeMetricFamily,
        ready: GaugeMetricFamily,
    ) -> None:
        swaps.add_metric([model.name], model.swaps)
        refused.add_metric([model.name], model.refusals)
        serving = model.status()["serving"]
        if serving is not None:
            info.add_metric([model.name, str(serving["version"]), serving["digest"]], 1)
        ready.add_metric([model.name], 1 if model.ready else 0)
