"""A device without a clock: it boots in 1970, is set right by NTP, and set wrong and right again while it fetches."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.followed import followed
from tests.support.scripted_origin import Answer, Exchange

NAMES = ("libfaketimeMT.so.1", "libfaketime.so.1")
SIZE = 200 * 1024


class Clock:
    """What a process believes, by libfaketime: only the clock of the day; monotonic time goes on, as under NTP."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "TZ": "UTC",
        }
        self.jumps = 0

    def set(self, year: int) -> None:
        """Jump to January of that year, or to this one's real date."""
        self.jumps += 1
        now = datetime.now(UTC)
        if year == now.year:
            self._file.write_text("+0")
            return
        seconds = int((datetime(year, 1, 2, tzinfo=UTC) - now).total_seconds())
        self._file.write_text(f"{seconds:+d}")


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    library = next((path for name in NAMES for path in Path("/usr/lib").glob(f"*/faketime/{name}")), None)
    if library is None:
        assert not os.environ.get("CI"), "libfaketime is missing"
        pytest.skip("LOUD: clocks that jump are not tested: install Debian's faketime.")
    yield Clock(library, tmp_path / "clock")


@pytest.mark.long
async def test_a_clock_of_1970_and_jumps_in_mid_transfer_cost_nothing(tmp_path: Path, clock: Clock) -> None:
    this_year = datetime.now(UTC).year
    years = [1970, this_year, 2037, 1970, this_year]
    clock.set(1970)
    data, log = tmp_path / "device", tmp_path / "modelsyncd.log"
    async with followed(tmp_path, data, environment=clock.environment) as world:
        old, new = random.randbytes(SIZE), random.randbytes(SIZE)
        await world.shop.publish_bytes("m", old)
        world.want(m=1)
        for _ in range(300):
            if "not yet valid" in log.read_text():
                break
            await asyncio.sleep(0.1)
        said = "certificate is not yet valid); check the setting ca, and this device's clock, which says 1970-01-0"
        assert said in log.read_text(), "the hub's certificate is of the future"
        clock.set(this_year)
        await world.active(m=1)
        await world.shop.publish_bytes("m", new)
        pieces = 0

        async def jump(exchange: Exchange, honest: Answer, whole: bytes) -> Answer:
            """Let every answer with content take a second, with a jump in its midst."""
            nonlocal pieces
            if len(honest.body) > 8 * 1024:
                pieces += 1
                honest.drip = 2 * 1024 / len(honest.body)
                asyncio.get_running_loop().create_task(later(years[pieces % len(years)]))
            return honest

        async def later(year: int) -> None:
            await asyncio.sleep(0.5)
            clock.set(year)
            await asyncio.sleep(0.5)
            clock.set(1970 if year != 1970 else 2037)
            await asyncio.sleep(0.5)
            clock.set(this_year)

        world.origin.fault = jump
        world.want(m=2)
        await world.active(m=2)
        assert pieces and clock.jumps >= 4, "the clock jumped while it fetched"
        assert (data / "models" / "m" / "current" / "model.bin").read_bytes() == new
    said = log.read_text()
    assert "defect" not in said and "modelsync_daemon/" not in said, "no traceback through our own code"
