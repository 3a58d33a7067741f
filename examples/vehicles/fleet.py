"""The fleet as the story sees it: cloud, lake, monitor, vehicles; starting, rolling out, watching. No acts."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families as families

from examples.demo.stage import Process, StageError, run
from examples.fleet.rings import available
from examples.stories import faults, sockets
from examples.stories.cloud import Cloud, Json
from examples.stories.supervisor import Module
from examples.stories.telling import Story
from examples.vehicles import landing, temperatures, verdict
from examples.vehicles.lake import Commit, Lake
from examples.vehicles.learning import DRIFTED, MODEL
from examples.vehicles.prometheus import Prometheus
from examples.vehicles.temperatures import Conditions
from examples.vehicles.vehicle import Vehicle
from examples.vehicles.verdict import Judged
from modelsync_server.rollout import reading
from modelsync_server.rollout.reading import RolloutStatus
from modelsync_server.rollout.record import OVER

BENCH_WINDOWS = 240
"""Windows of a test bench's winter, with which the lake begins."""
_STARTS_AT_ONCE = 3
_ROLLOUT_SECONDS = 100.0
_VEHICLE_BYTES = 450_000_000
"""What daemon, inference and the vehicle's own service take: an upper bound."""
_WINTER = datetime(2026, 1, 15, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Size:
    """The story's size. `rings`: vehicles by ring; windows are of a vehicle, that is of all its sensors."""

    rings: dict[str, int]
    window_seconds: float
    recent: int
    """Windows that a training job judges by."""
    watched: int
    """Windows that the monitor looks back."""


WHOLE = Size({"canary": 1, "north": 3, "rest": 4}, 1.0, 90, 40)
BUSY = Size({"canary": 1, "north": 1, "rest": 2}, 0.8, 60, 32)
"""The whole story on a machine that has little to spare."""
SHORT = Size({"canary": 1, "rest": 1}, 0.35, 60, 24)


def whole() -> Size:
    """Eight vehicles; four where the processors have other work already, or memory is short."""
    busy = os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)
    return BUSY if busy or available() < _VEHICLE_BYTES * sum(WHOLE.rings.values()) else WHOLE


class Fleet:
    """Everything that runs. `marks`: (Unix time, what) of what the picture tells."""

    def __init__(self, story: Story, size: Size) -> None:
        self.story, self.size = story, size
        self.cloud: Cloud
        self.lake = Lake(story.work / "lake")
        self.conditions = story.work / "conditions.json"
        self.models = story.work / "models"
        self.vehicles: dict[str, Vehicle] = {}
        self.marks: list[tuple[float, str]] = []
        self.began = time.time()
        self.spent: list[tuple[int, int, int]] = []
        """(version, bytes on the origin's line, bytes on the hub's line), for a vehicle, of each rollout."""
        self.small_disks: list[str] = []
        self.prometheus: Prometheus | None = None
        self.landing: Module
        self._rollouts: Process
        self._told = 0
        self._metrics = ""
        self._commits: list[Commit] = []

    async def start(self) -> None:
        """The cloud with its lake and what watches it; the vehicles are registered, and not started."""
        Conditions().write(self.conditions)
        self.cloud = await Cloud(self.story).start()
        fill(self.lake)
        await self._register()
        await self._services()

    async def _register(self) -> None:
        numbers = iter(range(1, 1 + sum(self.size.rings.values())))
        for ring, count in self.size.rings.items():
            for _ in range(count):
                name = f"car-{next(numbers):04}"
                vehicle = Vehicle(name, ring, self.story, self.cloud, self.conditions, self.size.window_seconds)
                await vehicle.prepare()
                self.vehicles[name] = vehicle
        tags = [
            {"id": each.name, "importMode": "updateTwin", "tags": {"ring": each.ring}}
            for each in self.vehicles.values()
        ]
        if refused := await self.cloud.service.change_registry(tags):
            raise StageError(f"the hub takes no tags: {refused}")

    async def _services(self) -> None:
        """Landing, monitor, Prometheus, and what carries rollouts on."""
        story = self.story
        self.landing = await story.module(
            "landing",
            *("python", "-m", "examples.vehicles.landing"),
            *("--hub-state", str(self.cloud.hub_state), "--lake", str(self.lake.folder)),
        )
        self._rollouts = story.process("rollouts")
        await self._rollouts.start(
            *("modelsync", "rollout", "run", "--store", self.cloud.store, "--poll", "0.3"), ready=False
        )
        monitor = await story.module(
            "monitor",
            *("python", "-m", "examples.vehicles.monitor", "--lake", str(self.lake.folder)),
            *("--store", self.cloud.store, "--recent", str(self.size.watched)),
            ready=True,
        )
        self._metrics = str(monitor.said["address"])
        if none := sockets.missing():
            story.not_tried(f"bytes on the hub's line: {none}")
        if none := Prometheus.missing():
            story.not_tried(f"drift in Prometheus: {none} The monitor's own text is read instead.")
        else:
            self.prometheus = await Prometheus(story).start({"temperature": self._metrics})

    def small_disk(self, size: int) -> None:
        """Put the last vehicle's data on a disk of its own of `size` bytes, so that it can be full."""
        last = list(self.vehicles.values())[-1]
        if refused := faults.small_disk(last.data, size):
            self.story.not_tried(f"a full disk: {refused}")
        else:
            self.small_disks.append(last.name)

    async def start_vehicles(self) -> None:
        """Start them, so many at once as a small machine can without making each slow."""
        turns = asyncio.Semaphore(_STARTS_AT_ONCE)

        async def start(vehicle: Vehicle) -> None:
            async with turns:
                await vehicle.start()

        await asyncio.gather(*(start(vehicle) for vehicle in self.vehicles.values()))

    def mark(self, what: str) -> None:
        """Remember, for the picture, that `what` happened now."""
        self.marks.append((time.time(), what))

    # What people do

    async def retrain(self, *options: str) -> Json:
        """Run the training job, as a schedule or the alert would."""
        found = await run(
            *("python", "-m", "examples.vehicles.retrain", "--lake", str(self.lake.folder)),
            *("--store", self.cloud.store, "--keys", str(self.cloud.keys), "--service", self.cloud.hub["service"]),
            *("--origin", self.cloud.inside, "--origin-ca", str(self.cloud.origin_ca)),
            *("--trust", str(self.cloud.trust)),
            *("--recent", str(self.size.recent), "--keep", str(self.models), *options),
            environment=self.story.environment,
        )
        made: Json = found
        return made

    async def roll(self, version: int, *rings: str) -> RolloutStatus | None:
        """A rollout through `rings` (none named: the fleet's own); None if it went through, else how it stopped."""
        rings = rings or tuple(f"{name}:tags.ring = '{name}'" for name in self.size.rings)
        await self.cloud.modelsync(
            *("rollout", "start", self.cloud.store, MODEL, "--version", str(version)),
            *(word for ring in rings for word in ("--ring", ring)),
            *("--active", "100%", "--failures", "2%", "--soak", "0s", "--yes", "--by", "ada"),
            "--no-push",  # the bill is of the line to the origin; pushed bytes would come by the hub
        )

        async def over() -> bool:
            rollouts = (await reading.overview(self.cloud.service)).rollouts
            return not rollouts or rollouts[0].record.state in OVER

        try:
            await self.story.until(f"the end of the rollout of version {version}", over, _ROLLOUT_SECONDS)
        finally:
            self._tell_rollouts()
        overview = await reading.overview(self.cloud.service)
        return await reading.status(self.cloud.service, MODEL) if overview.rollouts else None

    def _tell_rollouts(self) -> None:
        lines = self._rollouts.log.read_text().splitlines()
        for line in lines[self._told :]:
            self.story.console.print(f"  [dim]rollout:[/] {line}", highlight=False, soft_wrap=True)
        self._told = len(lines)

    async def through(self, version: int) -> bool:
        """A rollout through the fleet's rings; whether it went through all of them."""
        return await self.roll(version) is None

    def on_hub_line(self) -> int:
        """Bytes so far on the daemons' connections to the hub, by the kernel's count; 0 where it can't be read."""
        if sockets.missing():
            return 0
        return sockets.carried({vehicle.daemon.pid for vehicle in self.vehicles.values()}, 8883)

    async def serving(self) -> dict[str, int | None]:
        """By vehicle the version that it reports as active."""
        reports = await asyncio.gather(*(self.cloud.reported(name, MODEL) for name in self.vehicles))
        return {
            name: report.get("version") if report.get("state") == "active" else None
            for name, report in zip(self.vehicles, reports, strict=True)
        }

    async def series(self, query: str) -> list[dict[str, Any]]:
        """Of the whole run, from Prometheus; empty without it."""
        return [] if self.prometheus is None else await self.prometheus.series(query, self.began, time.time())

    # Waiting

    async def windows_at(self, count: int) -> None:
        """Wait until the lake has `count` windows."""

        async def reached() -> bool:
            return self.windows() >= count

        await self.story.until(f"{count} windows in the lake", reached)

    def judged(self) -> list[Judged]:
        """All windows but each vehicle's last two, whose alarms may still be on their way."""
        found = verdict.judged(self.lake)
        return found[: max(0, len(found) - 2 * len(self.vehicles))]

    def windows(self) -> int:
        """Windows of vehicles in the lake."""
        self._commits += self.lake.commits(len(self._commits))
        return sum(commit.rows("readings") for commit in self._commits) - BENCH_WINDOWS

    async def drift(self) -> float | None:
        """The largest drift score, as Prometheus has it; without Prometheus, as the monitor says it. None: none yet."""
        if self.prometheus is not None:
            return await self.prometheus.value("max(temperature_drift_psi)")
        async with aiohttp.ClientSession() as session, session.get(f"http://{self._metrics}/metrics") as answer:
            text = await answer.text()
        values = [s.value for family in families(text) for s in family.samples if s.name == "temperature_drift_psi"]
        return max(values, default=None)

    async def drifted(self, wanted: bool) -> float:
        """Wait until the alert fires (or is silent again); the drift score then."""
        score: float | None = None

        async def reached() -> bool:
            nonlocal score
            score = await self.drift()
            if score is None or (score > DRIFTED) is not wanted:
                return False
            return self.prometheus is None or await self.prometheus.firing("TemperatureDrift") is wanted

        await self.story.until(f"the alert of drift {'firing' if wanted else 'silent'}", reached)
        assert score is not None
        return score


def fill(lake: Lake) -> None:
    """Begin a lake with a test bench's winter, of vehicles 101 to 108."""
    rows: list[dict[str, Any]] = []
    for place in range(BENCH_WINDOWS):
        vehicle, window = 101 + place % 8, 1 + place // 8
        readings = temperatures.down_sample(temperatures.sample(vehicle, window, Conditions()).samples)
        rows.append(
            {
                "id": f"bench/{vehicle}/{window}", "seq": place - BENCH_WINDOWS, "time": _WINTER,
                "vehicle": f"bench-{vehicle}", "bytes": 0, "window": window, "readings": readings.tolist(),
            }
        )  # fmt: skip
    lake.append({"readings": rows} | landing.inspected(rows), 0, 0)
