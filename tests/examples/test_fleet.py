"""`make fleet` with nine devices, and (long) as it is: what it reports is what its devices' disks show."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from examples.demo.report import Promise
from examples.fleet.devices import MODEL
from examples.fleet.report import FleetReport
from examples.fleet.rings import fleet
from modelsync_daemon.api import status

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"ok", "devices", "stopped_in_ring", "untouched_ring", "returned", "predicted_bytes", "spent_bytes"}


@asynccontextmanager
async def running(out: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELSYNC_")}
    with (out / "said").open("w") as said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.fleet", "--out", str(out), *options),
            cwd=ROOT,
            stdout=said,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def check(out: Path, sizes: Iterable[int]) -> dict[str, Any]:
    """The report's figures against what lies on the devices' disks."""
    report: dict[str, Any] = json.loads((out / "fleet-report.json").read_text())
    assert report["ok"], (out / "said").read_text()
    assert report.keys() >= KEYS
    canary, north, rest = sizes
    assert (report["devices"], report["stopped_in_ring"], report["untouched_ring"]) == (canary + north + rest, 2, 3)
    assert report["returned"] == north
    assert report["spent_bytes"] == pytest.approx(report["predicted_bytes"], rel=0.02)
    served, holds = [], []
    for folder in sorted((out / "fleet-run" / "devices").iterdir()):
        model = status(folder / "data").models[MODEL]
        assert model.state == "active"
        served.append(model.version)
        holds.append(any((folder / "data" / "models" / MODEL).glob("3-*")))
    assert served[:canary] == [3] * canary, "a ring that has passed keeps the version"
    assert set(served[canary:]) == {1, 2}, "what ring two had, and ring three has, differs"
    assert not any(holds[canary + north :]), "ring three never had it"
    return report


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_nine_devices_and_it_stays_until_it_is_told_to_end(tmp_path: Path) -> None:
    async with running(tmp_path, "--small", "--keep") as process:
        for _ in range(2400):
            if (tmp_path / "fleet-report.json").exists() or process.returncode is not None:
                break
            await asyncio.sleep(0.1)
        said = (tmp_path / "said").read_text()
        assert process.returncode is None, said
        page = next(line.split()[-1] for line in said.splitlines() if "operator's page:" in line)
        async with aiohttp.ClientSession() as session, session.get(f"{page}rollout/{MODEL}?format=json") as answer:
            assert (answer.status, "north" in await answer.text()) == (200, True)
        check(tmp_path, (2, 4, 3))
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert "Traceback" not in (tmp_path / "said").read_text()


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_thirty_devices_in_under_four_minutes(tmp_path: Path) -> None:
    began = time.monotonic()
    async with running(tmp_path) as process:
        assert await asyncio.wait_for(process.wait(), 270) == 0, (tmp_path / "said").read_text()
    assert time.monotonic() - began < 240, "the issue's own limit"
    assert check(tmp_path, (4, 10, 16))["daemons"] in (3, 8)


def test_where_memory_is_short_there_are_fewer_daemons_and_as_many_devices() -> None:
    much, little = fleet(False, 8 * 10**9), fleet(False, 10**9)
    assert [sum(part.daemons for part in parts) for parts in (much, little)] == [8, 3]
    assert [sum(part.devices for part in parts) for parts in (much, little)] == [30, 30]


def test_a_report_without_promises_or_with_a_broken_one_is_not_ok(tmp_path: Path) -> None:
    report = FleetReport(devices=30, daemons=8)
    assert not report.ok
    report.promises = [Promise("it stops", True, "yes"), Promise("it returns", False, "no")]
    report.write(tmp_path / "fleet-report.json")
    assert json.loads((tmp_path / "fleet-report.json").read_text())["ok"] is False
