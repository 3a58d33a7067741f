"""Prometheus metrics, made from the status document when somebody asks. It keeps nothing."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from modelsync_daemon.activate.inference_processes import Processes
from modelsync_daemon.disk.states import State


def render(status: Mapping[str, Any], processes: Processes) -> tuple[bytes, str]:
    """The exposition text and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(status, processes))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collector:
    def __init__(self, status: Mapping[str, Any], processes: Processes) -> None:
        self._status, self._processes = status, processes

    def collect(self) -> Iterator[Metric]:
        gauges = {
            key: GaugeMetricFamily(f"modelsync_model_{key}", text, labels=["model"])
            for key, text in (
                ("version", "Version that the pointer names."),
                ("desired_version", "Version that the twin names."),
                ("generation", "Activations on this device."),
                ("update_bytes", "Planned bytes of the last update."),
                ("state_since_seconds", "When the state began, seconds since the epoch."),
                ("hold", "1 while a hold keeps updates out."),
                ("error", "1 while the model has an error to report."),
                ("processes", "Inference processes that are registered."),
                ("consumer_failed", "1 while the model's application does not load what is to serve."),
            )
        }
        state = GaugeMetricFamily("modelsync_model_state", "1 for the model's state.", labels=["model", "state"])
        requests = CounterMetricFamily(
            "modelsync_inference_requests", "Requests since the switch.", labels=["model", "pid"]
        )
        errors = CounterMetricFamily(
            "modelsync_inference_errors", "Failed requests since the switch.", labels=["model", "pid"]
        )
        for name, model in self._status["models"].items():
            since = model["since"] and calendar.timegm(time.strptime(model["since"], "%Y-%m-%dT%H:%M:%SZ"))
            values = {
                "version": model["version"],
                "desired_version": model["desired"],
                "generation": model["generation"],
                "update_bytes": model["bytes"],
                "state_since_seconds": since,
                "hold": int(model["hold"]),
                "error": int(model["error"] is not None),
                "processes": len(self._processes.registered(name)),
                "consumer_failed": int(model["consumer"]["result"] == "failed") if "consumer" in model else None,
            }
            for key, value in values.items():
                if value is not None:
                    gauges[key].add_metric([name], value)
            for each in State:
                state.add_metric([name, each.value], int(model["state"] == each.value))
            for report in self._processes.last(name):
                requests.add_metric([name, str(report.pid)], report.requests)
                errors.add_metric([name, str(report.pid)], report.errors)
        yield from (*gauges.values(), state, requests, errors)
        yield GaugeMetricFamily(
            "modelsync_hub_connected", "1 while the hub is connected.", int(self._status["daemon"]["connected"])
        )
        confined = GaugeMetricFamily(
            "modelsync_worker_confined", "1 for a layer that the last worker was confined by.", labels=["layer"]
        )
        for layer in self._status["daemon"]["confined_by"] or ():
            confined.add_metric([layer.split()[0]], 1)
        yield confined
        wire = GaugeMetricFamily(
            "modelsync_wire_bytes", "TCP payload of this day and month.", labels=["period", "direction"]
        )
        for period, amount in self._status["ledger"].items():
            for direction, value in amount.items():
                wire.add_metric([period, direction], value)
        yield wire
        yield from self._network()
        if "site" not in self._status:
            return
        yield GaugeMetricFamily(
            "modelsync_site_neighbours", "Devices of this site.", self._status["site"]["neighbours"]
        )
        shared = GaugeMetricFamily(
            "modelsync_site_bytes", "Bytes exchanged with neighbours.", labels=["period", "direction"]
        )
        for period in ("day", "month"):
            for direction, value in self._status["site"][period].items():
                shared.add_metric([period, direction], value)
        yield shared

    def _network(self) -> Iterator[Metric]:
        """Which network rule is in force, and what each carried; nothing without rules."""
        network = self._status.get("network")
        if network is None:
            return
        rule = GaugeMetricFamily("modelsync_network_rule", "1 for the network rule in force.", labels=["rule"])
        if network["rule"]:
            rule.add_metric([network["rule"]], 1)
        yield rule
        carried = GaugeMetricFamily(
            "modelsync_network_bytes", "modelsync_wire_bytes by network rule.", labels=["rule", "period", "direction"]
        )
        for name, periods in network["ledger"].items():
            for period, amount in periods.items():
                for direction, value in amount.items():
                    carried.add_metric([name, period, direction], value)
        yield carried
