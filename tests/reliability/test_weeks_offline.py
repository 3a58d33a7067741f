"""Weeks without a line, clocks that are wrong by decades: the version goes on serving, and all converges by itself."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.ledger import Ledger
from modelsync_daemon.reconcile import decision
from modelsync_daemon.transfer.errors import AccessRefused
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_protocol.errors import ModelsyncError, RefusedError
from modelsync_protocol.twin import Policy
from modelsync_server.trust import signing
from tests.reliability.fleet import EPOCH, SimulatedDevice, Site, fleet
from tests.support.figures import record
from tests.support.hostile_origin import HostileOrigin
from tests.support.pulling import Device
from tests.support.shop import Shop
from tests.support.virtual_time import run_virtually

HOUR, DAY = 3600.0, 86400.0
IN_1970, DECADES_AHEAD = 86400.0 - EPOCH, 30 * 365 * DAY


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong when the line is back: the device's clock, what the hub says then, and what the origin comes to.

    `within` is how long the device may take, seconds, once all is right again: the longest pause and a little.
    """

    name: str
    clock_error: float = 0.0
    hub: ModelsyncError | None = None
    origin: ModelsyncError | None = None
    within: float = HOUR + 60.0


TROUBLES = (
    Trouble("nothing but three weeks offline", within=11 * 60.0),
    Trouble("clock in 1970: the hub's token is long over", IN_1970, RefusedError("the hub refuses the credentials.")),
    Trouble("clock in 1970: the origin's certificate is not yet valid", IN_1970, None, RefusedError("not yet valid.")),
    Trouble("clock 30 years ahead: metadata have expired", DECADES_AHEAD, None, RefusedError("metadata expired.")),
    Trouble("the store's metadata have expired", origin=RefusedError("metadata expired.")),
    Trouble("the SAS of the blob store has expired", origin=AccessRefused("refused."), within=11 * 60.0),
)


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder in memory where there is one."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="weeks-", dir=shared if shared.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


async def _weeks(root: Path, trouble: Trouble) -> float:
    """Three weeks offline, a day of `trouble`, then all is right; returns the seconds until the new version serves."""
    site = Site()
    site.wish(1)
    async with fleet(root, 1, site) as [pi]:
        await _serves(pi, 1, 60.0)
        site.up, site.silent_seconds = False, 60.0
        pi.plane.drop()
        site.wish(2)
        await asyncio.sleep(21 * DAY)
        pi.clock_error, pi.plane.refuses, site.refuses = trouble.clock_error, trouble.hub, trouble.origin
        if trouble.hub or trouble.origin:
            site.up = True
            await asyncio.sleep(DAY)
        assert pi.version == 1, "the old version serves all the time"
        pi.clock_error, pi.plane.refuses, site.refuses, site.up = 0.0, None, None, True
        return await _serves(pi, 2, trouble.within)


async def _serves(pi: SimulatedDevice, version: int, limit: float) -> float:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while pi.version != version:
        assert loop.time() - begin < limit, f"{version} does not serve after {limit:.0f} s: {pi.database.models()}"
        await asyncio.sleep(1.0)
    return loop.time() - begin


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_after_weeks_offline_a_device_converges_without_help(trouble: Trouble, root: Path) -> None:
    took = run_virtually(_weeks(root, trouble))
    record("offline", trouble.name, serves_the_new_version_after_s=round(took), at_most_s=round(trouble.within))


def test_a_pause_that_a_wrong_clock_made_is_noticed_if_it_is_kept_to(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision, "MAX_WAIT_SECONDS", float("inf"))
    with pytest.raises(AssertionError):
        run_virtually(_weeks(root, next(trouble for trouble in TROUBLES if trouble.clock_error == DECADES_AHEAD)))


async def test_signed_metadata_and_the_devices_clock_over_the_years(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    error = datetime.timedelta()

    def at(days: float) -> None:
        nonlocal now
        now += datetime.timedelta(days=days)

    monkeypatch.setattr(signing, "now", lambda: now)
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", b"one" * 1000)
    device = Device(tmp_path / "device", shop.trust)
    device.open_trust = lambda folder: TrustStore(folder, lambda: (now + error).timestamp())
    async with HostileOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
        await shop.publish_bytes("m", b"two" * 1000)
        at(21.0)  # nobody refreshed the store meanwhile: its timestamp is good for 14 days
        for wrong in (0, 11_000):
            error = datetime.timedelta(days=wrong)
            with pytest.raises(RefusedError, match="expired"):
                await device.pull("m", origin.url)
            assert device.files("m") == {"model.bin": b"one" * 1000}
        await (await shop.repository()).refresh()
        error = datetime.timedelta(days=11_000)
        with pytest.raises(RefusedError, match="clock"):
            await device.pull("m", origin.url)
        error = datetime.timedelta(days=-18_000)  # in the seventies: what was signed says that it is later
        await device.pull("m", origin.url)
        assert device.files("m") == {"model.bin": b"two" * 1000}
        at(21.0)
        await shop.publish_bytes("m", b"three" * 1000)
        await (await shop.repository()).refresh()
        error = datetime.timedelta()
        await device.pull("m", origin.url)
        assert device.files("m") == {"model.bin": b"three" * 1000}


def test_days_that_a_clock_ahead_has_seen_do_not_make_the_ledger_forget_today(tmp_path: Path) -> None:
    clock = EPOCH
    database = Database(tmp_path / "state.db", lambda: clock)
    ledger = Ledger(database)
    for day in range(100):
        clock = EPOCH + DECADES_AHEAD + day * DAY
        ledger.add(10, 0)
        ledger.flush()
    clock = EPOCH
    for _ in range(3):
        ledger.add(100, 0)
        ledger.flush()
    assert Ledger(database).left(Policy(bytes_per_day=1000)) == 700
    database.close()
