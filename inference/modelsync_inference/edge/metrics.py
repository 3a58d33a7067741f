"""Prometheus metrics of the module's messages, for the server's `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class EdgeMetrics(Collector):
    """Counters that the module adds to on its loop, and gauges that are read when they are asked for."""

    def __init__(self, model: str, waiting: Callable[[], tuple[int, int]], connected: Callable[[], bool]) -> None:
        self._model, self._waiting, self._connected = model, waiting, connected
        self.received = self.scored = self.thinned = self.bad = self.sent = self.lost = 0

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        for name, text, value in (
            ("received", "Messages that came to the module's inputs.", self.received),
            ("scored", "Messages that the model answered.", self.scored),
            ("sampled_out", "Answers that down-sampling left out or put into a mean.", self.thinned),
            ("bad", "Messages that could not be scored.", self.bad),
            ("sent", "Answers and errors that edgeHub acknowledged.", self.sent),
            (
                "lost",
                "Messages and answers that were dropped because a queue was full or they were too long.",
                self.lost,
            ),
        ):
            counter = CounterMetricFamily(f"modelsync_edge_{name}", text, labels=["model"])
            counter.add_metric([self._model], value)
            yield counter
        queue = GaugeMetricFamily("modelsync_edge_queue", "Messages and answers that wait.", labels=["model", "queue"])
        for side, length in zip(("in", "out"), self._waiting(), strict=True):
            queue.add_metric([self._model, side], length)
        yield queue
        connected = GaugeMetricFamily("modelsync_edge_connected", "1 while edgeHub is connected.", labels=["model"])
        connected.add_metric([self._model], int(self._connected()))
        yield connected
