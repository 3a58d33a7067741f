"""Many real resident daemons in one process and in virtual time, against a hub and an origin that count who comes.

The daemons' own code decides when they come (hublink, resident, update, origin_client's retries); only the wire and the
worker's assembling are stood in for, by the ports that exist for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelsync_daemon.activate.activation import Patience
from modelsync_daemon.config import Settings
from modelsync_daemon.control.plane import Twin
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.resident import Resident
from modelsync_daemon.timing import start_spread
from modelsync_daemon.transfer.download import Transient
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_daemon.workers.messages import EventCallback, Job, Outcome
from modelsync_protocol.errors import ModelsyncError, UnreachableError
from tests.daemon.fakes import NAME, MemoryControlPlane, install

EPOCH = 1_800_000_000.0
"""Wall-clock time (Unix s) at which a simulation begins."""


@dataclass
class Site:
    """Hub and origin as the devices see them; whoever comes is noted with the loop's time."""

    up: bool = True
    origin_up: bool = True
    silent_seconds: float = 0.0
    """How long a call hangs while the site is down, before it fails."""
    twin: dict[str, Any] = field(default_factory=lambda: {"$version": 1})
    at_hub: list[float] = field(default_factory=list)
    at_origin: list[float] = field(default_factory=list)
    refuses: ModelsyncError | None = None
    """What the origin's metadata comes to, while that is no good."""

    def wish(self, version: int) -> None:
        """Set the desired version for every device."""
        model = {"version": version}
        self.twin = {
            "$version": self.twin["$version"] + 1,
            "modelsync": {"origin": "http://origin.invalid", "models": {NAME: model}},
        }

    async def reach(self, visits: list[float]) -> None:
        """Note a visit; Transient if the site is down."""
        visits.append(asyncio.get_running_loop().time())
        if not self.up or (visits is self.at_origin and not self.origin_up):
            await asyncio.sleep(self.silent_seconds)
            raise Transient("the site is down.")


class SitePlane(MemoryControlPlane):
    """One device's line to the site's hub."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site
        self.refuses: ModelsyncError | None = None

    async def connect(self) -> None:
        try:
            await self._site.reach(self._site.at_hub)
        except Transient as error:
            raise UnreachableError(str(error)) from error
        if self.refuses:
            raise self.refuses
        await super().connect()

    async def read_twin(self) -> Twin:
        self.desired = self._site.twin
        return await super().read_twin()

    async def patch_reported(self, patch: Mapping[str, Any]) -> None:
        await super().patch_reported(patch)
        self.patches.clear()


class SitePreparer:
    """A worker that asks the site's origin as persistently as the real one, and then puts the version onto the disk."""

    def __init__(self, site: Site, data: DataDir) -> None:
        self._site, self._data = site, data

    async def prepare(self, job: Job, on_event: EventCallback) -> Outcome:
        await Origin(job.origin, stall_seconds=job.stall_seconds).persist(
            lambda: self._site.reach(self._site.at_origin)
        )
        if self._site.refuses:
            raise self._site.refuses
        assert job.version is not None
        made = install(self._data, job.version, name=job.name)
        return Outcome(job.name, made.version, made.digest, False, "update", 900, 1, 1000, 100, 2)


class SimulatedDevice:
    """A resident daemon, and a wall clock that may be wrong by `clock_error` seconds."""

    def __init__(self, root: Path, site: Site, settings: Mapping[str, Any], first_pause: float = 0.0) -> None:
        self.clock_error = 0.0
        self.data = DataDir(root)
        self.data.create()
        self.database = Database(None, self.clock)
        self.plane = SitePlane(site)
        self.resident = Resident(
            Settings(data=root, **settings),
            self.data,
            self.database,
            SitePreparer(site, self.data),
            self.plane,
            Patience(probation=0.0, settle=0.0),
            first_pause=first_pause,
        )
        self.task = asyncio.ensure_future(self.resident.run())

    def clock(self) -> float:
        """What the device believes the time to be, Unix seconds."""
        return EPOCH + asyncio.get_running_loop().time() + self.clock_error

    @property
    def version(self) -> int | None:
        """The version that serves."""
        current = self.data.read_pointer(NAME)
        return current.version if current else None

    async def end(self) -> None:
        """Stop."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.database.close()


@contextlib.asynccontextmanager
async def fleet(
    root: Path, count: int, site: Site, *, seed: int = 1, just_booted: bool = False, **settings: Any
) -> AsyncIterator[list[SimulatedDevice]]:
    """`count` devices that start at the same moment; `just_booted`: with their machines."""
    random.seed(seed)  # the daemon's jitter is the module's
    spread = Settings(data=root, **settings).startup_spread_seconds
    uptime = 20.0 if just_booted else 1e6
    devices = [
        SimulatedDevice(root / str(number), site, settings, start_spread.first_pause(spread, uptime))
        for number in range(count)
    ]
    try:
        yield devices
    finally:
        await asyncio.gather(*(device.end() for device in devices))


@dataclass(frozen=True, slots=True)
class Curve:
    """Arrivals after `begin` (loop seconds), of `count` devices."""

    begin: float
    arrivals: tuple[float, ...]
    count: int

    def busiest(self, seconds: float) -> float:
        """The share of the fleet that came in the busiest bin of `seconds`, in percent (one device may count twice)."""
        bins: dict[int, int] = {}
        for arrival in self.arrivals:
            number = int((arrival - self.begin) // seconds)
            bins[number] = bins.get(number, 0) + 1
        return 100.0 * max(bins.values(), default=0) / self.count


def curve(visits: list[float], begin: float, count: int) -> Curve:
    """The visits at or after `begin`."""
    return Curve(begin, tuple(visit for visit in visits if visit >= begin), count)
