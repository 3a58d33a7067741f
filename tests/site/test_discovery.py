"""Neighbours by mDNS: found with real zeroconf in network namespaces, beside lists, and bounded whoever announces."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_daemon import config
from modelsync_daemon.site.membership import Membership
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_protocol.errors import UsageError
from modelsync_protocol.twin import MAX_PEERS, SitePolicy

_MISSING = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
_LACKING = f"this machine lacks {', '.join(_MISSING)} (apt install iproute2 util-linux)" if _MISSING else ""
if os.getuid() != 0:
    _LACKING = "only root may make network namespaces and bridges"
in_namespaces = pytest.mark.skipif(bool(_LACKING), reason=f"NOT RUN: {_LACKING}")


async def play(script: str) -> None:
    """Run a script in a network namespace of its own."""
    process = await asyncio.create_subprocess_exec(
        "unshare", "-n", sys.executable, "-c", script,
        cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode()


FINDING = """
from tests.support.mdns_fleet import Searcher, network

with network(3) as hosts:
    a, b, other = Searcher(hosts[0]), Searcher(hosts[1]), Searcher(hosts[2], "--site", "mine-4")
    both = {"10.77.0.11:8444", "10.77.0.12:8444"}
    try:
        a.until(both)
        b.until(both)
        other.until({"10.77.0.13:8444"})
        b.end()
        a.until({"10.77.0.11:8444"})
        hosts[1].run("ip", "addr", "add", "10.99.0.12/24", "dev", "eth0")
        b = Searcher(hosts[1])
        a.until(both)
    finally:
        for searcher in (a, b, other):
            searcher.end()
"""


@in_namespaces
@pytest.mark.long
async def test_devices_of_one_site_find_each_other_and_see_who_goes() -> None:
    """Another site's announcement is nobody's, and of two addresses the one that can be reached counts."""
    await play(FINDING)


FLOOD = """
import asyncio, socket, sys
from zeroconf import IPVersion
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
from modelsync_daemon.site import discovery
from modelsync_daemon.site.discovery import SERVICE, Discovery
from tests.support.mdns_fleet import network

WRONG = [  # address, port, site
    ("192.0.2.7", 8444, b"site"), ("10.77.9.1", 8444, b"site"), ("127.0.0.1", 8444, b"site"),
    ("10.77.0.77", 0, b"site"), ("10.77.0.78", 8444, b"mine-4"), ("10.77.0.79", 8444, None),
    ("224.0.0.9", 8444, b"site"),
]

async def announce(liar, address, port, name, count=0):
    label = f"x{count}-{address}-{port}".replace(".", "-")
    info = AsyncServiceInfo(
        SERVICE, f"{label}.{SERVICE}", port=port, server=f"{label}.local.", addresses=[socket.inet_aton(address)],
        properties={} if name is None else {b"site": name},
    )
    liar.zeroconf.send(liar.zeroconf.generate_service_broadcast(info, None))

def sockets():
    return sum(line.split()[1].endswith(":14E9") for line in open("/proc/net/udp"))

async def main():
    with network(0):
        me = Discovery(lambda: "site", "10.77.0.1", 8444)
        me.start()
        liar = AsyncZeroconf(interfaces=["10.77.0.1"], ip_version=IPVersion.V4Only)
        async with asyncio.timeout(60):
            while me.found() != {"10.77.0.1:8444"}:
                await asyncio.sleep(0.05)
            assert sockets() > 2
            for wrong in WRONG:
                await announce(liar, *wrong)
            await announce(liar, "10.77.0.80", 8444, b"site")
            while "10.77.0.80:8444" not in me.found():
                await asyncio.sleep(0.05)
            assert me.found() == {"10.77.0.1:8444", "10.77.0.80:8444"}, me.found()
            for count in range(300):
                await announce(liar, f"10.77.0.{count % 200 + 20}", 1000 + count, b"site", count)
                await asyncio.sleep(0)
            while len(me.found()) < 64:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            assert len(me.found()) == 64, "more than that it does not keep"
            discovery._MOST_RECORDS = 1500
            for count in range(300, 1500):
                await announce(liar, f"10.77.0.{count % 200 + 20}", 1000 + count, b"site", count)
                await asyncio.sleep(0)
            while sockets() > 2:  # the liar's own
                await asyncio.sleep(0.05)
            assert not me._task.done() and len(me.found()) == 64, "it will look again"
        await me.stop()
        await liar.async_close()

asyncio.run(main())
"""


@in_namespaces
async def test_what_anybody_announces_is_bounded() -> None:
    """Addresses behind a gateway or of this machine, other sites, no port, no name; 300 announcers; then a flood."""
    await play(FLOOD)


def _members(listed: int, found: int, policy: SitePolicy | None = None) -> Membership:
    local = SiteAccess("site", "10.0.0.1:8444", (), "/x", 1)
    peers = tuple(f"10.0.1.{number}:8444" for number in range(listed))
    announced = [f"10.0.2.{number}:8444" for number in range(found)]
    return Membership(local, peers, lambda: policy, lambda: announced)


def test_who_was_named_goes_before_who_named_himself() -> None:
    access = _members(3, 2).access()
    assert access is not None and access.peers == (
        *(f"10.0.1.{n}:8444" for n in range(3)),
        "10.0.2.0:8444",
        "10.0.2.1:8444",
    )
    access = _members(40, 64).access()
    assert access is not None and len(access.peers) == MAX_PEERS
    assert sum(peer.startswith("10.0.1.") for peer in access.peers) == 40
    twin = _members(3, 2, SitePolicy(peers=("10.0.3.1:8444",))).access()
    assert twin is not None and twin.peers == ("10.0.3.1:8444", "10.0.2.0:8444", "10.0.2.1:8444")
    assert _members(3, 2, SitePolicy(off=True)).access() is None and _members(0, 0, SitePolicy(off=True)).name() is None
    assert _members(0, 0, SitePolicy(name="mine-3")).name() == "mine-3"


def test_it_is_off_and_not_imported_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('data = "d"\n[site]\naddress = "0.0.0.0:8444"\ndiscover = true\n')
    assert config.load(path).site_discover is True
    for text, says in (("discover = true", "needs site_address"), ('address = "[::]:1"\ndiscover = true', "IPv4")):
        path.write_text(f'data = "d"\n[site]\n{text}\n')
        with pytest.raises(UsageError, match=says):
            config.load(path)
    script = "import sys, modelsync_daemon.site.neighbourhood; print({'zeroconf', 'ifaddr'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "set()"


async def test_where_zeroconf_is_not_installed_the_daemon_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelsync_daemon.config import Settings
    from modelsync_daemon.disk.datadir import DataDir
    from modelsync_daemon.site.neighbourhood import Neighbourhood

    monkeypatch.delitem(sys.modules, "modelsync_daemon.site.discovery", raising=False)
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    settings = Settings(data=tmp_path, site_address="127.0.0.1:1", site_discover=True)
    with pytest.raises(UsageError, match="apt install python3-zeroconf"):
        Neighbourhood(settings, DataDir(tmp_path))._discover()
