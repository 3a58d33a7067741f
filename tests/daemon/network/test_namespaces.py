"""Real interfaces in network namespaces: the rule follows the route to the origin, and a vehicle's journey."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.roaming import RATE, SIZE, SMALL

NEEDED = ("unshare", "nsenter", "ip")
_MISSING = [name for name in NEEDED if shutil.which(name) is None]
_LACKING = f"this machine lacks {', '.join(_MISSING)} (apt install iproute2 util-linux)" if _MISSING else ""
if os.getuid() != 0:
    _LACKING = "only root may make network namespaces"
pytestmark = pytest.mark.skipif(bool(_LACKING), reason=f"NOT RUN: {_LACKING}")

FOLLOWING = """
import asyncio, subprocess
from modelsync_daemon.network import route
from modelsync_daemon.network.networks import Networks
from modelsync_protocol.policy.network_rules import parse_rules

def ip(*words):
    subprocess.run(["ip", *words], check=True)

async def seen(networks, name, told):
    async with asyncio.timeout(60):
        while networks.name() != name or networks.now.interface is None:
            await told.wait()
            told.clear()

async def main():
    ip("link", "set", "lo", "up")
    for name, net in (("eth0", 5), ("wwan0", 6)):
        ip("link", "add", name, "type", "veth", "peer", "name", f"far{net}")
        ip("addr", "add", f"10.{net}.0.2/24", "dev", name)
        ip("link", "set", f"far{net}", "up")
    ip("addr", "add", "fd00::2/64", "dev", "eth0", "nodad")
    rules = parse_rules([{"name": "lte", "interface": "wwan*"}, {"name": "depot", "interface": "eth[0-9]"}])
    networks, told, moved = Networks(lambda: rules, lambda: "http://models.example.invalid/"), asyncio.Event(), []
    networks.moved = lambda: moved.append(networks._place)
    await networks.look()
    assert "no network leads to the origin" in networks.closed() and networks.name() == ""
    watch = asyncio.ensure_future(networks.watch(told.set, waiting=False))
    await asyncio.sleep(0)
    ip("link", "set", "wwan0", "up")
    ip("route", "add", "default", "dev", "wwan0", "metric", "200")
    await seen(networks, "lte", told)
    assert moved == [] and networks.closed() == ""
    ip("link", "set", "eth0", "up")
    ip("route", "add", "default", "via", "10.5.0.1", "dev", "eth0", "metric", "100")
    await seen(networks, "depot", told)
    assert moved == [("eth0", "10.5.0.2")], moved
    assert route.lookup("10.5.0.9") == route.Route("eth0", True)
    assert route.lookup("10.7.0.9") == route.Route("eth0", False), "behind a gateway"
    assert route.lookup("fd00::9") == route.Route("eth0", True) and route.lookup("fd01::9") is None
    ip("link", "set", "eth0", "down")
    await seen(networks, "lte", told)
    assert route.lookup("10.7.0.9") == route.Route("wwan0", False), "a default route without a gateway is no link"
    ip("route", "add", "prohibit", "10.8.0.0/16")
    assert route.lookup("10.8.0.1") is None
    watch.cancel()

asyncio.run(main())
"""


async def _inside(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "unshare", "-n", sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_rule_follows_the_route_as_soon_as_the_kernel_says_so() -> None:
    await _inside("-c", FOLLOWING)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_large_updates_in_the_depot_small_ones_anywhere(tmp_path: Path) -> None:
    said = json.loads(await _inside("-m", "tests.support.roaming", str(tmp_path)))
    for place in ("on_the_line", "on_the_way"):
        assert f"the network rule lte allows {SMALL} an update" in said[place]
    assert said["line_before"] < 100_000, "the hub, and what the version is; none of its bytes"
    assert said["line_on_the_way"] < 100_000 + RATE // 20
    assert said["depot_first"] > SIZE // 3
    assert said["depot_first"] + said["depot_second"] < SIZE + 4.5 * 1024 * 1024, "no more than a frame came twice"
    assert said["small_on_the_line"] < 3 * SMALL
    depot, lte = (said["network"]["ledger"][name]["day"]["received"] for name in ("depot", "lte"))
    assert depot > SIZE > 20 * lte > 0
    assert said["reported"]["rule"] == "lte" and said["exit_code"] == 0
