"""Devices that find each other by mDNS, each in a network namespace of its own, and what that costs. Linux, as root.

`unshare -n python -m tests.support.mdns_fleet DEVICES --seconds N [--ttl S]` starts the discovery of so many devices on
one network, lets them find each other, and then prints as JSON how many frames and bytes of multicast DNS (Ethernet
headers included) each of them heard and sent in `N` seconds at rest, as counted by the first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.site_fleet import HUB, PORT, Host, run

_MDNS_PORT = 5353
_ALL_FRAMES = 0x0003
_OUTGOING = 4
_REST_SECONDS = 30.0
"""So long after they found each other they are at rest."""


class Searcher:
    """One device's discovery, in a process of its own on `host`; `found` is what it last said."""

    def __init__(self, host: Host, *options: str) -> None:
        self.host = host
        command = host.wrap(sys.executable, "-m", "tests.support.mdns_fleet", "--one", *options)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        self.found: list[str] = []

    def next(self) -> list[str]:
        """The next list that differs from the last one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"it ended with {self._process.wait()}")
        self.found = json.loads(line)
        return self.found

    def until(self, addresses: set[str]) -> None:
        """Wait until exactly these are found; the test's own limit ends it."""
        while set(self.found) != addresses:
            self.next()

    def end(self, *, kill: bool = False) -> None:
        """Stop it, with a goodbye or without."""
        (self._process.kill if kill else self._process.terminate)()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.contextmanager
def network(count: int) -> Iterator[list[Host]]:
    """So many hosts on one bridge, in the namespace of the caller."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    run("ip", "addr", "add", f"{HUB}/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")
    hosts = []
    try:
        for number in range(11, 11 + count):
            hosts.append(Host(number))
        yield hosts
    finally:
        for host in hosts:
            host.close()


async def _one(name: str, ttl: int) -> None:
    """Be one device's discovery, and say whenever what is found changes."""
    from modelsync_daemon.site.discovery import Discovery

    discovery = Discovery(lambda: name, "0.0.0.0", PORT, ttl)
    discovery.start()
    told: list[str] | None = None
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(15, stop.set)
    while not stop.is_set():
        found = sorted(discovery.found())
        if found != told:
            told = found
            _say(found)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05 if len(found) < 2 else 0.5):
                await stop.wait()
    await discovery.stop()


def _meter(seconds: float) -> dict[str, Any]:
    """Frames and bytes of multicast DNS on eth0 in so many seconds, heard and sent, addresses by IPv4."""
    counted = {"heard": 0, "sent": 0, "heard_bytes": 0, "sent_bytes": 0}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES)) as wire:
        wire.bind(("eth0", _ALL_FRAMES))
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            wire.settimeout(left)
            with contextlib.suppress(TimeoutError):
                frame, address = wire.recvfrom(2048)
                ip = frame[14:]
                body = 4 * (ip[0] & 15) if ip else 0
                ours = frame[12:14] == b"\x08\x00" and ip[9] == 17
                if ours and int.from_bytes(ip[body + 2 : body + 4], "big") == _MDNS_PORT:
                    way = "sent" if address[2] == _OUTGOING else "heard"
                    counted[way] += 1
                    counted[f"{way}_bytes"] += len(frame)
    return counted


def measure(devices: int, seconds: float, ttl: int) -> dict[str, Any]:
    """All find each other; then they rest for so long."""
    with network(devices) as hosts:
        searchers = [Searcher(host, "--ttl", str(ttl)) for host in hosts]
        try:
            everybody = {f"{host.address}:{PORT}" for host in hosts}
            for searcher in searchers:
                searcher.until(everybody)
            time.sleep(_REST_SECONDS)
            command = hosts[0].wrap(sys.executable, "-m", "tests.support.mdns_fleet", "--meter", str(seconds))
            counted = json.loads(run(*command))
        finally:
            for searcher in searchers:
                searcher.end()
    per_hour = (counted["heard_bytes"] + counted["sent_bytes"]) * 3600 / seconds
    return {"devices": devices, "seconds": seconds, "ttl": ttl, **counted, "bytes_an_hour": round(per_hour)}


def _say(document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Be one of the things above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("devices", nargs="?", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--ttl", type=int, default=4500)
    parser.add_argument("--site", default="site")
    parser.add_argument("--one", action="store_true")
    parser.add_argument("--meter", type=float)
    options = parser.parse_args()
    if options.one:
        asyncio.run(_one(options.site, options.ttl))
    elif options.meter is not None:
        _say(_meter(options.meter))
    else:
        _say(measure(options.devices, options.seconds, options.ttl))


if __name__ == "__main__":
    main()
