"""Watches the lake, and says in Prometheus' text how far it is from what the version in the field has learnt.

The reference is in the signed metadata of each version, so a new version in the field changes what is compared with. No
device is asked for anything: the readings are in the lake anyway.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from argparse import ArgumentParser
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

import modelsync
from examples.vehicles import learning
from examples.vehicles.lake import Lake, in_a_sentence
from examples.vehicles.learning import MODEL
from modelsync_protocol.errors import ModelsyncError

_SECONDS = 0.5


class Monitor:
    """`step` takes what has landed. `recent`: over so many windows everything is computed."""

    def __init__(self, lake: Lake, store: str, recent: int) -> None:
        self.registry = CollectorRegistry()
        self._lake, self._store = lake, store
        self._number = 0
        self._rows: deque[dict[str, Any]] = deque(maxlen=recent)
        self._alarms: dict[tuple[str, int], frozenset[int]] = {}
        self._faults: dict[tuple[str, int], list[int]] = {}
        self._versions: dict[str, int] = {}
        self._references: dict[int, Any] = {}
        self._reference: Any = None

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"temperature_{name}", what, labels, registry=self.registry)

        self._drift = gauge(
            "drift_psi", "Population stability index against the reference of the version.", "statistic"
        )
        self._vehicles = gauge("vehicles", "Vehicles whose last scores came from the version.", "version")
        self._windows = gauge("windows", "Windows in the lake.")
        self._found = gauge("faults_found_ratio", "Of the faults that the workshop found, those that were alarmed.")
        self._false = gauge("false_alarms_ratio", "Of the sensors that were in order, those that were alarmed.")

    def step(self) -> None:
        """Take the commits since the last step."""
        commits = self._lake.commits(self._number)
        if not commits:
            return
        self._number = commits[-1].number
        live = [each for each in self._lake.read("readings", None, commits).to_pylist() if each["seq"] > 0]
        self._rows.extend(live)
        for each in self._lake.read("alarms", None, commits).to_pylist():
            self._alarms[each["vehicle"], each["window"]] = frozenset(each["sensors"])
        for each in self._lake.read("inspections", None, commits).to_pylist():
            self._faults[each["vehicle"], each["window"]] = each["faulty"]
        for each in self._lake.read("scores", ["vehicle", "version"], commits).to_pylist():
            self._versions[each["vehicle"]] = each["version"]
        self._windows.inc(len(live))
        self._tell()

    def _tell(self) -> None:
        counts = Counter(self._versions.values())
        for version in {*self._references, *counts}:
            self._vehicles.labels(str(version)).set(counts[version])
        if counts and self._rows:
            newest = max(counts, key=lambda version: (counts[version], version))
            rows = learning.samples([each["readings"] for each in self._rows])
            if reference := self._reference_of(newest):  # none is known of a version that nobody has published
                for name, value in learning.drift(reference, rows).items():
                    self._drift.labels(name).set(value)
        # The last windows may still be at the scoring module; they are judged when later ones are here.
        judged = list(self._rows)[: -max(1, len(self._versions)) * 2]
        hits = [
            (fault, sensor in self._alarms.get((each["vehicle"], each["window"]), frozenset()))
            for each in judged
            for sensor, fault in enumerate(self._faults.get((each["vehicle"], each["window"]), []))
        ]
        for metric, wanted in ((self._found, 1), (self._false, 0)):
            if of := [alarmed for fault, alarmed in hits if fault == wanted]:
                metric.set(float(np.mean(of)))
        kept = {(each["vehicle"], each["window"]) for each in self._rows}
        self._alarms = {key: value for key, value in self._alarms.items() if key in kept}
        self._faults = {key: value for key, value in self._faults.items() if key in kept}

    def _reference_of(self, version: int) -> Any:
        """What is signed with the version; one that was published without goes by that of the version before."""
        if version not in self._references:
            try:
                metadata = modelsync.open_store(self._store).show(MODEL, version, digests=False).metadata
            except ModelsyncError as error:  # withdrawn, or the store is away: vehicles serve it all the same
                logging.warning("no reference of version %d: %s", version, error)
                metadata = {}
            self._references[version] = metadata.get("drift_reference") or self._reference or {}
        self._reference = self._references[version]
        return self._reference


async def serve(monitor: Monitor) -> None:
    """Answer /metrics on any free port of the loopback, print where, and follow the lake until SIGTERM."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(monitor.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    json.dump({"address": "127.0.0.1:{1}".format(*runner.addresses[0])}, sys.stdout)
    sys.stdout.write("\n")
    sys.stdout.flush()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    while not over.is_set():
        await asyncio.to_thread(monitor.step)
        try:
            await asyncio.wait_for(over.wait(), _SECONDS)
        except TimeoutError:
            continue
    await runner.cleanup()


def main() -> None:
    """`python -m examples.vehicles.monitor`."""
    parser = ArgumentParser(description="Watches the lake for drift.")
    parser.add_argument("--lake", type=Path, required=True, help="the lake's folder")
    parser.add_argument("--store", required=True, help="the store, whose versions have references")
    parser.add_argument("--recent", type=int, required=True, help="over so many windows drift is computed")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    with in_a_sentence():
        asyncio.run(serve(Monitor(Lake(given.lake), given.store, given.recent)))


if __name__ == "__main__":
    main()
