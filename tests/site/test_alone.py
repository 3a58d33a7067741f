"""With all neighbours gone, a device does on the line exactly what it does without any."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_daemon.activate.inference_processes import Processes
from modelsync_daemon.local import metrics
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_protocol import twin
from tests.daemon.fakes import device as fake_device
from tests.support.addresses import free_port
from tests.support.lonely import VARIABLE
from tests.support.neighbours import noise
from tests.support.pulling import Device
from tests.support.scripted_origin import Answer, Exchange, ScriptedOrigin
from tests.support.shop import Shop

KIB = 1024


def gone(root: Path) -> SiteAccess:
    """A site of which nobody answers, not even this device's own server."""
    peers = tuple(f"127.0.0.1:{free_port()}" for _ in range(3))
    return SiteAccess("test", f"127.0.0.1:{free_port()}", peers, str(root / "site"), 1 << 30)


@pytest.mark.parametrize("parcels", [False, True])
async def test_the_line_carries_the_same(tmp_path: Path, parcels: bool) -> None:
    shop = await Shop.open(tmp_path)
    first = noise(300 * KIB)
    second = first[: 100 * KIB] + noise(200 * KIB)
    devices = {site: Device(tmp_path / f"device{site}", shop.trust) for site in (False, True)}
    async with ScriptedOrigin(shop.path, parcels=parcels) as origin:
        for data, cut in ((first, 0), (second, 70_000)):
            await shop.publish_bytes("m", data)
            seen = {}
            for site, device in devices.items():
                (device.data.root / "site").mkdir(parents=True, exist_ok=True)
                origin.exchanges.clear()
                left = [cut]

                def cutting(exchange: Exchange, answer: Answer, whole: bytes, left: list[int] = left) -> Answer:
                    if left[0] and exchange.path.startswith(("packs/", "updates/")):
                        answer.stop_after, left[0] = left[0], 0
                    return answer

                origin.fault = cutting
                await device.pull("m", origin.url, site=gone(device.data.root) if site else None)
                assert device.files("m") == {"model.bin": data}
                seen[site] = [(e.method, e.path, e.range) for e in origin.exchanges]
            assert seen[True] == seen[False]


EXISTING = (
    "tests/daemon/test_prepare_plans.py", "tests/daemon/test_prepare_pairs.py", "tests/daemon/test_prepare_faults.py",
    "tests/daemon/test_resume.py", "tests/daemon/test_parcels.py", "tests/daemon/test_refined.py",
    "tests/daemon/test_repeats.py", "tests/daemon/test_plain_views.py", "tests/daemon/test_connector.py",
    "tests/daemon/test_daemon_process.py", "tests/reliability/test_kill_matrix.py",
)  # fmt: skip
"""Tests of the way from the origin to the disk: plans and their bytes, faults, resuming, kills."""


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_daemons_own_tests_pass_with_all_neighbours_gone(tmp_path: Path) -> None:
    """The same tests with the feature on: what they say of bytes, requests and behaviour holds to the byte."""
    uses = tmp_path / "uses"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--timeout", "900",
         "-m", "not long", *EXISTING],
        env={**os.environ, VARIABLE: str(uses)}, capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:]
    assert len(uses.read_text().splitlines()) > 100, "the feature was on"


async def test_neighbours_that_go_in_the_middle_are_done_without(tmp_path: Path) -> None:
    """A listener that takes connections and closes them: nobody is waited for."""
    shop = await Shop.open(tmp_path)
    data = noise(100 * KIB)
    await shop.publish_bytes("m", data)
    port = free_port()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    hanging = await asyncio.start_server(hang_up, "127.0.0.1", port)
    device = Device(tmp_path / "device", shop.trust)
    access = SiteAccess("test", f"127.0.0.1:{free_port()}", (f"127.0.0.1:{port}",), str(tmp_path / "site"), 1 << 30)
    async with ScriptedOrigin(shop.path) as origin, hanging:
        await device.pull("m", origin.url, site=access)
    assert device.files("m") == {"model.bin": data}


async def test_uplink_and_site_are_counted_apart_everywhere(tmp_path: Path) -> None:
    async with fake_device(tmp_path) as pi:
        status = pi.resident.commands.status()
        assert "site" not in status and "site" not in twin.build_reported(status)["modelsync"]
        assert b"modelsync_site" not in metrics.render(status, Processes())[0]
        before = status["ledger"]["month"]
        pi.resident.device.site_ledger.add(1_000_000, 200, 30)
        status = pi.resident.commands.status()
        assert sum(status["ledger"]["month"].values()) < sum(before.values()) + 100_000
        assert status["site"]["day"] == {"received": 1_000_000, "sent": 200, "wasted": 30}
        assert twin.build_reported(status)["modelsync"]["site"] == status["site"]
        text = metrics.render(status, Processes())[0].decode()
        assert 'modelsync_site_bytes{direction="wasted",period="day"} 30.0' in text
