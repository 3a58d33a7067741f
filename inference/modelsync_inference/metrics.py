"""Prometheus metrics of the inference server, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelsync_inference.hot_model import HotModel

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Counts requests, and reads the rest off the model at each scrape."""

    def __init__(self, model: HotModel) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ModelCollector(model))
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
        ).labels(model.name)
        self._seconds = Histogram(
            "modelsync_inference_request_seconds",
            "Time from the request's arrival to its answer, seconds.",
            ["model"],
            buckets=_BUCKETS,
            registry=self._registry,
        ).labels(model.name)
        self._name = model.name

    def observe(self, status: int, seconds: float) -> None:
        """Count one inference request."""
        self._requests.labels(self._name, str(status)).inc()
        self._seconds.observe(seconds)
        if status >= 500:
            self._failures.inc()

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)


class _ModelCollector(Collector):
    def __init__(self, model: HotModel) -> None:
        self._model = model

    def collect(self) -> Iterator[Metric]:
        name = self._model.name
        swaps = CounterMetricFamily(
            "modelsync_inference_swaps", "Times that a version began to serve.", labels=["model"]
        )
        swaps.add_metric([name], self._model.swaps)
        refused = CounterMetricFamily(
            "modelsync_inference_refused", "Times that a version was refused.", labels=["model"]
        )
        refused.add_metric([name], self._model.refusals)
        info = GaugeMetricFamily(
            "modelsync_inference_model_info", "The serving version.", labels=["model", "version", "digest"]
        )
        serving = self._model.status()["serving"]
        if serving is not None:
            info.add_metric([name, str(serving["version"]), serving["digest"]], 1)
        ready = GaugeMetricFamily("modelsync_inference_ready", "1 if a version serves, else 0.", labels=["model"])
        ready.add_metric([name], 1 if self._model.ready else 0)
        yield from (swaps, refused, info, ready)
