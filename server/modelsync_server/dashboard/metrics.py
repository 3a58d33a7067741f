"""The fleet in Prometheus' text: what the first page counts, for programs that draw curves. It asks nothing of its own.

Devices are not scraped for it: it costs their lines nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from modelsync_server.dashboard.tables import View

__all__ = ["CONTENT_TYPE", "render"]
_MOST_PAGES = 50
_MOST_VALUES = 40
"""Of a kind and a model, most devices first; the others are one: what devices report makes no series without end."""
_OTHERS = "(others)"
_KINDS = {
    "version": ("modelsync_fleet_version_devices", "Devices by the version that serves."),
    "wanted": ("modelsync_fleet_desired_devices", "Devices by the version that their twin names."),
    "state": ("modelsync_fleet_state_devices", "Devices by the model's state."),
    "error": ("modelsync_fleet_error_devices", "Devices by the code of the error that they report."),
}


async def render(page: Callable[[Mapping[str, str]], Awaitable[View]]) -> bytes:
    """The exposition of the fleet, all models. `page`: the first page, by its query. Raises what `page` raises."""
    views = [await page({})]
    while views[-1].data["next"] is not None and len(views) < _MOST_PAGES:
        views.append(await page({"from": str(views[-1].data["next"])}))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(views))
    return generate_latest(registry)


class _Collector:
    def __init__(self, views: list[View]) -> None:
        self._views = views

    def collect(self) -> Iterator[Metric]:
        first = self._views[0]
        yield GaugeMetricFamily("modelsync_fleet_devices", "Devices of the hub.", first.data["devices"])
        yield GaugeMetricFamily("modelsync_fleet_connected", "Devices that are connected.", first.data["connected"])
        age = max(view.age for view in self._views)
        yield GaugeMetricFamily("modelsync_fleet_answer_age_seconds", "Age of the oldest count here.", age)
        trouble = int(any(view.troubles for view in self._views))
        yield GaugeMetricFamily("modelsync_fleet_hub_trouble", "1 while the hub can't be asked again.", trouble)
        spent = GaugeMetricFamily(
            "modelsync_fleet_wire_bytes", "Bytes that all devices count, by period.", labels=["period"]
        )
        for period, size in first.data["spent"].items():
            if size is not None:
                spent.add_metric([period], size)
        yield spent
        heard = GaugeMetricFamily(
            "modelsync_fleet_last_heard_devices", "Devices by when they were heard of last.", labels=["heard"]
        )
        for label, devices in first.table("contact").rows:
            heard.add_metric([str(label)], _number(devices))
        yield heard
        for kind, (name, text) in _KINDS.items():
            label = {"wanted": "version", "error": "code"}.get(kind, kind)
            yield self._counted(name, text, label, self._rows(kind))
        stuck: dict[tuple[str, ...], float] = {}
        for view in self._views:
            for devices, reason, _, model, module, *_ in view.table("stuck").rows:
                stuck[str(model), str(module), str(reason)] = _number(devices)  # those of no model are on each page
        yield self._counted(
            "modelsync_fleet_stuck_devices", "Devices that are stuck, by reason.", "reason",
            ((*key, devices) for key, devices in stuck.items()),
        )  # fmt: skip
        yield from self._rollouts(first.data["overview"])

    def _rows(self, kind: str) -> Iterator[tuple[str, str, str, float]]:
        for view in self._views:
            for row in view.table("fleet").rows:
                if row[2] == kind:
                    yield str(row[0]), str(row[1]), str(row[3]), _number(row[4])

    @staticmethod
    def _counted(name: str, text: str, label: str, rows: Any) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["model", "module", label])
        groups: dict[tuple[str, str], dict[str, float]] = {}
        for model, module, value, devices in rows:
            group = groups.setdefault((model, module), {})
            value = value if value in group or len(group) < _MOST_VALUES else _OTHERS
            group[value] = group.get(value, 0) + devices
        for (model, module), group in groups.items():
            for value, devices in group.items():
                family.add_metric([model, module, value], devices)
        return family

    @staticmethod
    def _rollouts(overview: Any) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "modelsync_rollout_state", "1 for the state of a model's rollout.", labels=["model", "version", "state"]
        )
        for each in overview.rollouts:
            record = each.record
            state.add_metric([record.model, str(record.version), str(record.state.value)], 1)
        yield state


def _number(cell: object) -> float:
    return float(cell) if isinstance(cell, int | float) else 0.0
