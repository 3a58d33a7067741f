"""Real daemons in network namespaces of their own behind one slow uplink: what a site costs beside one device.

Figures are of the wire: frames on the origin's link, both ways (tests/support/site_fleet.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("unshare", "nsenter", "ip", "tc")


def _lacking() -> str:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"this machine lacks {', '.join(missing)} (apt install iproute2 util-linux)"
    if os.getuid() != 0:
        return "only root may make network namespaces and bridges"
    script = "ip link add br9 type bridge && tc qdisc add dev lo root tbf rate 1mbit burst 16kb latency 1s"
    made = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True)
    return "" if made.returncode == 0 else f"no bridge or token bucket here: {made.stderr.decode().strip()}"


_LACKING = _lacking()
pytestmark = pytest.mark.skipif(bool(_LACKING), reason=f"NOT RUN: {_LACKING}")


async def play(root: Path, scenario: str, devices: int, *options: str) -> dict[str, Any]:
    """Play a scenario in a network namespace of its own."""
    process = await asyncio.create_subprocess_exec(
        "unshare", "-n", sys.executable, "-m", "tests.support.site_fleet", str(root), scenario, str(devices), *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    document = json.loads(out)
    assert isinstance(document, dict)
    return document


@pytest.mark.timeout(600)
async def test_three_devices_cost_the_uplink_little_more_than_one(tmp_path: Path) -> None:
    size = ("--size", "500000")
    one = await play(tmp_path / "one", "install", 1, "--alone", *size)
    three = await play(tmp_path / "three", "install", 3, *size)
    assert three["uplink"] <= 1.1 * one["uplink"]


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scenario", ["install", "update", "killed"])
async def test_twelve_devices_cost_the_uplink_little_more_than_one(tmp_path: Path, scenario: str) -> None:
    # Twelve daemons share this machine's processors, which twelve devices do not: the line has to be what is slow.
    size = ("--size", os.environ.get("SITE_BYTES", "8000000"), "--rate", os.environ.get("SITE_RATE", "125000"))
    one = await play(tmp_path / "one", "update" if scenario == "update" else "install", 1, "--alone", *size)
    twelve = await play(tmp_path / "twelve", scenario, 12, *size)
    assert twelve["uplink"] <= 1.1 * one["uplink"], (one, twelve)
    assert twelve["seconds"] <= 1.5 * one["seconds"], (one, twelve)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_tiny_update_costs_no_device_more_of_the_uplink_than_alone(tmp_path: Path) -> None:
    one = await play(tmp_path / "one", "tiny", 1, "--alone")
    twelve = await play(tmp_path / "twelve", "tiny", 12)
    assert max(twelve["own"]) <= 1.02 * one["own"][0], (one, twelve)
    assert sum(twelve["own"]) <= 1.1 * one["own"][0], (one, twelve)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_site_at_rest_is_silent(tmp_path: Path) -> None:
    """For 200 s: what devices say to each other, which is the site's doing (and not the hub's, or the kernel's)."""
    site = await play(tmp_path / "site", "idle", 12, "--size", "200")
    assert site["own"] == [0] * 12, site
    assert max(site["site"]) <= 20_000 * 200 / 3600, site
