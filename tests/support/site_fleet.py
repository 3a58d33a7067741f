"""Real daemons of one site in network namespaces of their own, behind one rate-limited uplink. Linux, as root.

`python -m tests.support.site_fleet ROOT SCENARIO DEVICES [--alone]` in a network namespace of its own plays a scenario
and prints what it cost as JSON: bytes on the uplink's wire (frames, both ways) in all and each device's own, seconds to
the last device, bytes on each device's link, and at rest what it exchanged with other devices. A hub, the origin and
each device are hosts on one bridge; only the origin's link is slow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelsync_daemon.disk.datadir import DataDir
from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.shop import Shop

NAME = "anomaly"
RATE = 250_000
"""Bytes a second of the uplink, each way."""

HUB, ORIGIN = "10.77.0.1", "10.77.0.2"
PORT = 8444
DAEMON = "from modelsync_daemon.cli import main; main()"
SERVER = "from modelsync_server.cli import main; main()"


def run(*command: str) -> str:
    """Run a command that must succeed; what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Host:
    """A network namespace on the bridge, with address 10.77.0.`number`."""

    def __init__(self, number: int) -> None:
        self.address = f"10.77.0.{number}"
        self._keeper = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        self._inside = ("nsenter", "-t", str(self._keeper.pid), "-n")
        self._wait_for_namespace()
        link = f"v{number}"
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self._keeper.pid))
        run("ip", "link", "set", link, "master", "br0", "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        for name in ("lo", "eth0"):
            self.run("ip", "link", "set", name, "up")

    def _wait_for_namespace(self) -> None:
        ours = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self._keeper.pid}/ns/net").readlink() == ours:
            time.sleep(0.01)

    def run(self, *command: str) -> str:
        """Run a command there."""
        return run(*self._inside, *command)

    def wrap(self, *command: str) -> tuple[str, ...]:
        """The command that runs `command` there."""
        return (*self._inside, *command)

    def carried(self) -> int:
        """Bytes of frames on its link, both ways."""
        names = ("rx_bytes", "tx_bytes")
        base = "/sys/class/net/eth0/statistics"
        # sysfs shows the namespace of who mounted it, so it is mounted anew.
        script = f"mount -t sysfs sysfs /sys && cat {' '.join(f'{base}/{name}' for name in names)}"
        return sum(map(int, self.run("unshare", "-m", "sh", "-c", script).split()))

    def speaks_with(self, address: str) -> bool:
        """Whether a connection to `address` is open."""
        wanted = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
        lines = self.run("cat", "/proc/net/tcp").splitlines()[1:]
        return any(line.split()[2].startswith(wanted) and line.split()[3] == "01" for line in lines)

    def watch(self) -> subprocess.Popen[bytes]:
        """Begin to count what its link carries to and from each address; see `watched`."""
        watcher = subprocess.Popen(
            self.wrap(sys.executable, "-c", _WATCH), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert watcher.stdout is not None
        watcher.stdout.readline()  # it listens
        return watcher

    def close(self) -> None:
        """Let it go."""
        self._keeper.kill()
        self._keeper.wait()


_WATCH = """
import collections, json, select, socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
link.bind(("eth0", 0))
counted = collections.Counter()
print(flush=True)
while link in select.select([link, sys.stdin], [], [])[0]:
    frame, about = link.recvfrom(1 << 17)
    if frame[12:14] == b"\\x08\\x00":
        at = 30 if about[2] == socket.PACKET_OUTGOING else 26
        counted[socket.inet_ntoa(frame[at : at + 4])] += len(frame)
print(json.dumps(counted))
"""
"""Counts IPv4 frames on eth0 by the other end's address, until its input ends."""


def watched(watcher: subprocess.Popen[bytes]) -> dict[str, int]:
    """Bytes of frames by address since `watch`."""
    found = json.loads(watcher.communicate(timeout=30)[0])
    return {str(address): int(count) for address, count in found.items()}


@dataclass
class Machine:
    """One device."""

    number: int
    host: Host
    config: Path
    data: Path
    daemon: subprocess.Popen[bytes] | None = None
    log: Any = None

    @property
    def id(self) -> str:
        """As the hub knows it."""
        return f"device{self.number}"

    def start(self) -> None:
        """Start its daemon."""
        self.log = self.data.with_suffix(".log").open("ab")
        command = self.host.wrap(sys.executable, "-c", DAEMON, "run", "--config", str(self.config))
        self.daemon = subprocess.Popen(command, stderr=self.log, stdout=self.log)

    def kill(self) -> None:
        """As the kernel would."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def end(self) -> None:
        """Stop its daemon, if it runs."""
        _end(self.daemon)

    def has(self, version: int) -> bool:
        """Whether that version is in service."""
        pointer = DataDir(self.data).read_pointer(NAME)
        return pointer is not None and pointer.version == version


@dataclass
class Fleet:
    """All of it."""

    root: Path
    shop: Shop
    hub: Hub
    origin_host: Host
    url: str
    machines: list[Machine] = field(default_factory=list)

    def wish(self, version: int) -> None:
        """Tell every twin."""
        section = {"origin": self.url, "models": {NAME: {"version": version}}}
        for machine in self.machines:
            self.hub.set_desired(machine.id, {"modelsync": section})

    async def until_all_have(self, version: int, limit: float, but: Machine | None = None) -> float:
        """Wait; seconds that it took."""
        begin = time.monotonic()
        while not all(machine.has(version) for machine in self.machines if machine is not but):
            if time.monotonic() - begin > limit:
                lacking = [machine.id for machine in self.machines if not machine.has(version)]
                raise TimeoutError(f"{', '.join(lacking)} lack version {version} after {limit:.0f} s")
            await asyncio.sleep(0.05)
        return time.monotonic() - begin

    async def fetching(self) -> Machine:
        """The one that has a connection to the origin open for a while."""
        while True:
            for machine in self.machines:
                if machine.host.speaks_with(ORIGIN):
                    await asyncio.sleep(1.0)
                    if machine.host.speaks_with(ORIGIN):
                        return machine
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def fleet(root: Path, devices: int, *, alone: bool, rate: int) -> Any:
    """`devices` daemons behind `rate` bytes a second; `alone`: without neighbours."""
    async with AsyncExitStack() as stack:
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "addr", "add", f"{HUB}/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        run("ip", "link", "set", "lo", "up")
        hub = await stack.enter_async_context(Hub(root / "hub", HubAddress(HUB, service_port=0)))
        shop = await Shop.open(root)
        await shop.publish_bytes(NAME, _noise(1, 20_000))
        origin_host = Host(2)
        stack.callback(origin_host.close)
        serving = _started(origin_host.wrap(sys.executable, "-c", SERVER, "serve", str(shop.path), "--host", ORIGIN))
        stack.callback(_end, serving)
        assert serving.stdout is not None
        url = json.loads(await asyncio.to_thread(serving.stdout.readline))["url"]
        origin_host.run(
            "tc",
            "qdisc",
            "add",
            "dev",
            "eth0",
            "root",
            "tbf",
            "rate",
            f"{rate * 8}bit",
            "burst",
            "16kb",
            "latency",
            "200ms",
        )
        made = Fleet(root, shop, hub, origin_host, url)
        addresses = [f'"10.77.0.{number + 10}:{PORT}"' for number in range(devices)]
        for number in range(devices):
            host = Host(number + 10)
            stack.callback(host.close)
            data = root / f"device{number}"
            config = root / f"device{number}.toml"
            lines = [
                f'data = "{data}"', f'trust = "{shop.trust}"', f'ca = "{hub.ca_path}"', "probation_seconds = 0",
                "startup_spread_seconds = 0", f'connection_string = "{hub.add_device(f"device{number}")}"',
            ]  # fmt: skip
            if not alone:
                lines += ["[site]", f'address = "0.0.0.0:{PORT}"', f"peers = [{', '.join(addresses)}]"]
            config.write_text("\n".join(lines) + "\n")
            machine = Machine(number, host, config, data)
            stack.callback(machine.end)
            machine.start()
            made.machines.append(machine)
        yield made


def _started(command: tuple[str, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def play(root: Path, scenario: str, devices: int, *, alone: bool, size: int, rate: int = RATE) -> dict[str, Any]:
    """Play `scenario`: install, update, tiny, killed (the fetching one, amid a first install), idle."""
    async with fleet(root, devices, alone=alone, rate=rate) as made:
        version, data = 1, _noise(2, size)
        if scenario in ("install", "killed"):
            await made.shop.publish_bytes(NAME, data)
            version = 2
        else:
            made.wish(1)
            await made.until_all_have(1, 120)
        await _connected(made)
        if scenario == "update":
            await made.shop.publish_bytes(NAME, data)
            version = 2
        elif scenario == "tiny":
            await made.shop.publish_bytes(NAME, _noise(1, 18_000) + _noise(3, 2_000))
            version = 2
        uplink, watcher = made.origin_host.carried(), made.origin_host.watch()
        lan = [machine.host.carried() for machine in made.machines]
        if scenario == "idle":
            watchers = [machine.host.watch() for machine in made.machines]
            await asyncio.sleep(size)
            spent = [machine.host.carried() - before for machine, before in zip(made.machines, lan, strict=True)]
            return {
                "uplink": made.origin_host.carried() - uplink,
                "own": _shares(made, watched(watcher)),
                "lan": spent,
                "site": [sum(_shares(made, watched(each))) for each in watchers],
                "seconds": size,
            }
        made.wish(version)
        victim = None
        begin = time.monotonic()
        if scenario == "killed":
            victim = await made.fetching()
            await asyncio.sleep(size / rate / 3)
            victim.kill()
        await made.until_all_have(version, 120 + 2 * size / rate, but=victim)
        took = time.monotonic() - begin
        if victim is not None:
            victim.start()
            await made.until_all_have(version, 60)
        await asyncio.sleep(0.5)
        spent = [machine.host.carried() - before for machine, before in zip(made.machines, lan, strict=True)]
        return {
            "uplink": made.origin_host.carried() - uplink,
            "own": _shares(made, watched(watcher)),
            "seconds": round(took, 2),
            "lan": spent,
            "victim": None if victim is None else victim.id,
        }


def _shares(made: Fleet, by_address: dict[str, int]) -> list[int]:
    """What of a link's bytes each device sent or was sent."""
    return [by_address.get(machine.host.address, 0) for machine in made.machines]


async def _connected(made: Fleet) -> None:
    """Wait until every device listens to its hub."""
    for machine in made.machines:
        while not made.hub.reported(machine.id).get("modelsync"):  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("scenario", choices=("install", "update", "tiny", "killed", "idle"))
    parser.add_argument("devices", type=int)
    parser.add_argument("--size", type=int, default=5_000_000, help="bytes of the model; seconds for idle")
    parser.add_argument("--rate", type=int, default=RATE, help="bytes a second of the uplink")
    parser.add_argument("--alone", action="store_true")
    arguments = parser.parse_args()
    arguments.root.mkdir(parents=True, exist_ok=True)
    os.environ.pop("http_proxy", None)
    played = play(
        arguments.root,
        arguments.scenario,
        arguments.devices,
        alone=arguments.alone,
        size=arguments.size,
        rate=arguments.rate,
    )
    sys.stdout.write(json.dumps(asyncio.run(played)) + "\n")


if __name__ == "__main__":
    main()
