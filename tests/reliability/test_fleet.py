"""A thousand devices do not stampede: after an outage, a hub's restart or a power cut they come back spread out."""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelsync_daemon.timing import start_spread
from modelsync_daemon.timing.backoff import Backoff
from tests.reliability.fleet import Curve, SimulatedDevice, Site, curve, fleet
from tests.support.figures import record
from tests.support.virtual_time import run_virtually

DEVICES = 1000
HOUR = 3600.0
pytestmark = pytest.mark.timeout(900)
FEW_OR_ALL = pytest.mark.parametrize("count", [200, pytest.param(DEVICES, marks=pytest.mark.long)])


def most(share: float, count: int) -> float:
    """Percent that the busiest bin may hold if each of `count` devices falls into it with chance `share`: 4 sigma."""
    return 100.0 * (share + 4.0 * math.sqrt(share * (1.0 - share) / count))


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder in memory where there is one: a thousand data directories are flushed often."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fleet-", dir=shared if shared.is_dir() else None))
    logging.disable(logging.WARNING)  # a thousand devices say a lot
    yield folder
    logging.disable(logging.NOTSET)
    shutil.rmtree(folder)


async def _all(devices: list[SimulatedDevice], version: int, limit: float, step: float = 1.0) -> float:
    """Wait until all serve `version`, looking every `step` seconds; returns the seconds that took."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while devices := [device for device in devices if device.version != version]:
        assert loop.time() - begin < limit, f"{len(devices)} devices do not serve {version}"
        await asyncio.sleep(step)
    return loop.time() - begin


async def _outage(root: Path, silent: float, count: int = DEVICES) -> tuple[Curve, Curve, float]:
    """Hub and origin go away for two hours, a version is published meanwhile, and they come back."""
    site = Site()
    site.wish(1)
    async with fleet(root, count, site) as devices:
        await _all(devices, 1, 100.0, 20.0)
        await asyncio.sleep(60.0)
        site.up, site.silent_seconds = False, silent
        for device in devices:
            device.plane.drop()
        site.wish(2)
        await asyncio.sleep(2 * HOUR)
        site.up, begin = True, asyncio.get_running_loop().time()
        took = await _all(devices, 2, 1000.0, 20.0)
        return curve(site.at_hub, begin, count), curve(site.at_origin, begin, count), took


@pytest.mark.parametrize("silent", [0.0, pytest.param(60.0, marks=pytest.mark.long)], ids=["refused", "no answer"])
def test_after_a_common_outage_devices_come_back_spread_over_ten_minutes(silent: float, root: Path) -> None:
    hub, origin, took = run_virtually(_outage(root, silent))
    _check_outage(hub, origin, took)
    row = f"{DEVICES} devices after 2 hours without hub and origin ({'no answer' if silent else 'refused'})"
    _note(row, hub, origin, took)


def _check_outage(hub: Curve, origin: Curve, took: float) -> None:
    # A device waits 300 s in the mean, so that in 10 s one in thirty comes.
    assert max(hub.busiest(10.0), origin.busiest(10.0)) <= most(1 / 30, hub.count)
    assert took <= 700.0


def _note(row: str, hub: Curve, origin: Curve, took: float) -> None:
    record(
        "fleet",
        row,
        busiest_second_at_hub=f"{hub.busiest(1.0):.1f} %",
        busiest_10_s_at_hub=f"{hub.busiest(10.0):.1f} %",
        busiest_10_s_at_origin=f"{origin.busiest(10.0):.1f} %",
        all_back_after_s=round(took),
    )


def test_without_jitter_the_outages_curve_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "seconds", lambda self, attempts: min(self.cap, self.base * 2.0 ** (attempts - 1)))
    with pytest.raises(AssertionError):
        _check_outage(*run_virtually(_outage(root, 0.0, 50)))


async def _origin_outage(root: Path, count: int) -> tuple[Curve, Curve, float]:
    """The origin alone is away, and every device knows of a version to fetch."""
    site = Site()
    async with fleet(root, count, site) as devices:
        site.origin_up = False
        site.wish(1)
        await asyncio.sleep(HOUR)
        site.origin_up, begin = True, asyncio.get_running_loop().time()
        took = await _all(devices, 1, 1000.0, 20.0)
        return curve(site.at_hub, begin, count), curve(site.at_origin, begin, count), took


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.long)])
def test_devices_that_wait_for_the_origin_alone_come_back_spread_over_ten_minutes(count: int, root: Path) -> None:
    hub, origin, took = run_virtually(_origin_outage(root, count))
    # One in six is within an attempt, which asks every few seconds for a minute; the others wait up to ten minutes.
    assert origin.busiest(10.0) <= most(1 / 6 + 1 / 30, count) and took <= 700.0 and not hub.arrivals
    _note(f"{count} devices after an hour without the origin", hub, origin, took)


async def _restart(root: Path, count: int = DEVICES) -> tuple[Curve, Curve, float]:
    """The hub drops every device and is there again at once."""
    site = Site()
    site.wish(1)
    async with fleet(root, count, site) as devices:
        await _all(devices, 1, 100.0, 20.0)
        await asyncio.sleep(HOUR)
        begin = asyncio.get_running_loop().time()
        for device in devices:
            device.plane.drop()
        await asyncio.sleep(60.0)
        assert all(device.plane.connected for device in devices)
        hub = curve(site.at_hub, begin, count)
        return hub, curve(site.at_origin, begin, count), max(hub.arrivals) - begin


def _check_restart(hub: Curve, origin: Curve, took: float) -> None:
    assert hub.busiest(1.0) <= most(1 / 10, hub.count)
    assert took <= 11.0 and not origin.arrivals


@FEW_OR_ALL
def test_a_hubs_restart_brings_a_tenth_of_the_fleet_a_second(count: int, root: Path) -> None:
    hub, origin, took = run_virtually(_restart(root, count))
    _check_restart(hub, origin, took)
    _note(f"{count} devices after the hub's restart", hub, origin, took)


def test_a_restart_without_a_spread_first_attempt_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "seconds", lambda self, attempts: self.floor)
    with pytest.raises(AssertionError):
        _check_restart(*run_virtually(_restart(root, 50)))


async def _power(root: Path, count: int = DEVICES) -> tuple[Curve, Curve, float]:
    """Power returns to every device at the same moment."""
    site = Site()
    site.wish(1)
    async with fleet(root, count, site, just_booted=True) as devices:
        took = await _all(devices, 1, 100.0)
        return curve(site.at_hub, 0.0, count), curve(site.at_origin, 0.0, count), took


def _check_power(hub: Curve, origin: Curve, took: float) -> None:
    assert max(hub.busiest(1.0), origin.busiest(1.0)) <= most(1 / 30, hub.count)
    assert took <= 35.0


@FEW_OR_ALL
def test_a_common_power_on_is_spread_over_half_a_minute(count: int, root: Path) -> None:
    hub, origin, took = run_virtually(_power(root, count))
    _check_power(hub, origin, took)
    _note(f"{count} devices after a common power-on", hub, origin, took)


def test_a_power_on_that_is_not_spread_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_spread, "first_pause", lambda spread, uptime: 0.0)
    with pytest.raises(AssertionError):
        _check_power(*run_virtually(_power(root, 50)))


def test_a_daemon_that_is_started_by_hand_connects_at_once() -> None:
    assert start_spread.first_pause(30.0, 10_000.0) == start_spread.first_pause(30.0, None) == 0.0
    pauses = [start_spread.first_pause(30.0, 20.0) for _ in range(1000)]
    assert 0.0 <= min(pauses) < 2.0 and 28.0 < max(pauses) <= 30.0
    uptime = start_spread.machine_uptime()
    assert uptime is None or uptime > 0.0


async def _attempts_in_silence(root: Path) -> int:
    site = Site(up=False, silent_seconds=60.0)
    async with fleet(root, 1, site):
        await asyncio.sleep(24 * HOUR)
        return len(site.at_hub)


def test_a_hub_that_does_not_answer_for_a_minute_is_no_steady_connection(root: Path) -> None:
    """Else each failed attempt would begin the pauses anew, and a day offline would mean 1,300 attempts."""
    assert run_virtually(_attempts_in_silence(root)) < 24 * HOUR / (60 + 300) * 1.3
