"""A vehicle: a real daemon that moves between a depot's network and a line that costs money. Linux, as root.

`unshare -n python -m tests.support.roaming ROOT` plays a journey and prints as JSON what each interface carried (bytes
of frames, both ways) and what the device said. Hub and origin have an address behind both networks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.local import socket_client
from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.shop import Shop
from tests.support.site_fleet import DAEMON, NAME, SERVER, run

SERVICES = "10.99.0.1"
DEPOT, LTE = "eth0", "wwan0"
SIZE = 14_000_000
"""Bytes of the large version: four frames, one after the other."""

RATE = 3_000_000
SMALL = 20_000
_PATIENCE_SECONDS = 90.0


class Vehicle:
    """A network namespace with two interfaces, each in a network of its own; both lead to hub and origin."""

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        ours = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self._keeper.pid}/ns/net").readlink() == ours:
            time.sleep(0.01)
        self._inside = ("nsenter", "-t", str(self._keeper.pid), "-n")
        run("ip", "link", "set", "lo", "up")
        run("ip", "addr", "add", f"{SERVICES}/32", "dev", "lo")
        self.run("ip", "link", "set", "lo", "up")
        for number, name in ((77, DEPOT), (78, LTE)):
            run(
                "ip",
                "link",
                "add",
                f"far{number}",
                "type",
                "veth",
                "peer",
                "name",
                name,
                "netns",
                str(self._keeper.pid),
            )
            run("ip", "addr", "add", f"10.{number}.0.1/24", "dev", f"far{number}")
            run("ip", "link", "set", f"far{number}", "up")
            self.run("ip", "addr", "add", f"10.{number}.0.2/24", "dev", name)
        self._links = {DEPOT: (77, "100"), LTE: (78, "200")}

    def run(self, *command: str) -> str:
        """Run a command there."""
        return run(*self._inside, *command)

    def wrap(self, *command: str) -> tuple[str, ...]:
        """The command that runs `command` there."""
        return (*self._inside, *command)

    def join(self, interface: str) -> None:
        """Come into that network; the depot's is preferred to the line."""
        number, metric = self._links[interface]
        self.run("ip", "link", "set", interface, "up")
        self.run("ip", "route", "add", "default", "via", f"10.{number}.0.1", "dev", interface, "metric", metric)

    def leave(self, interface: str) -> None:
        """Drive out of reach."""
        self.run("ip", "link", "set", interface, "down")

    def carried(self, interface: str) -> int:
        """Bytes of frames so far."""
        stats = json.loads(self.run("ip", "-s", "-j", "link", "show", "dev", interface))[0]["stats64"]
        return int(stats["rx"]["bytes"]) + int(stats["tx"]["bytes"])

    def close(self) -> None:
        """Let it go."""
        self._keeper.kill()
        self._keeper.wait()


class Journey:
    """What the daemon says on the way."""

    def __init__(self, data: Path, vehicle: Vehicle) -> None:
        self._data, self.vehicle = DataDir(data), vehicle

    def status(self) -> dict[str, Any]:
        """`modelsyncd status --json`."""
        found: dict[str, Any] = socket_client.call(self._data.socket, "GET", "/v1/status")
        return found

    def model(self) -> dict[str, Any]:
        """The model's part of it."""
        found: dict[str, Any] = self.status()["models"].get(NAME) or {}
        return found

    def progress(self) -> int:
        """Bytes that are decoded."""
        return int((self.model().get("progress") or {}).get("done", 0))

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for it."""
        begin = time.monotonic()
        while True:
            try:
                if condition():
                    return
            except socket_client.NoDaemon:
                pass
            if time.monotonic() - begin > _PATIENCE_SECONDS:
                raise TimeoutError(f"waited in vain for {what}: {self.status()}")
            await asyncio.sleep(0.05)

    async def waits(self) -> str:
        """Until the model waits because it is too large for this network; the sentence."""

        def told() -> bool:
            found = self.model()
            error = found.get("error") or {}
            return (
                found.get("state") == "waiting" and error["code"] == "network" and "max_update_bytes" in error["text"]
            )

        await self.until(told, "the network's word")
        return str(self.model()["error"]["text"])

    async def serves(self, version: int) -> None:
        """Until that version serves."""
        await self.until(
            lambda: self.model().get("version") == version and self.model()["state"] == "active", f"version {version}"
        )


RULES = [
    {"name": "depot", "interface": "eth*", "rate_limit": RATE},
    {"name": "lte", "interface": "wwan*", "max_update_bytes": SMALL, "bytes_per_day": 400_000},
    {"name": "elsewhere", "downloads": False},
]


async def journey(root: Path) -> dict[str, Any]:
    """Large on the line: waits. Into the depot: begins. Out in the middle: stops, resumes there. Small: anywhere."""
    async with AsyncExitStack() as stack:
        vehicle = Vehicle()
        stack.callback(vehicle.close)
        hub = await stack.enter_async_context(Hub(root / "hub", HubAddress(SERVICES, service_port=0)))
        shop = await Shop.open(root)
        large = random.Random(1).randbytes(SIZE)
        await shop.publish_bytes(NAME, large)
        serve: tuple[str, ...] = (sys.executable, "-c", SERVER, "serve", str(shop.path), "--host", SERVICES)
        serving = await asyncio.create_subprocess_exec(*serve, stdout=asyncio.subprocess.PIPE)
        stack.callback(_end, serving)
        assert serving.stdout is not None
        url = json.loads(await serving.stdout.readline())["url"]
        data, config = root / "device", root / "device.toml"
        config.write_text(
            f'data = "{data}"\ntrust = "{shop.trust}"\nca = "{hub.ca_path}"\nprobation_seconds = 0\n'
            f'startup_spread_seconds = 0\nconnection_string = "{hub.add_device("vehicle")}"\n'
        )
        said: dict[str, Any] = {}
        made = Journey(data, vehicle)
        vehicle.join(LTE)
        section = {"origin": url, "policy": {"networks": RULES}, "models": {NAME: {"version": 1}}}
        hub.set_desired("vehicle", {"modelsync": section})
        with (root / "device.log").open("ab") as log:
            command = vehicle.wrap(sys.executable, "-c", DAEMON, "run", "--verbose", "--config", str(config))
            daemon = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        stack.callback(_end, daemon)
        said["on_the_line"] = await made.waits()
        said["rule_on_the_line"] = made.status()["network"]["rule"]
        said["line_before"] = vehicle.carried(LTE)
        vehicle.join(DEPOT)
        await made.until(lambda: made.progress() >= SIZE // 3, "a third")
        vehicle.leave(DEPOT)
        said["depot_first"] = vehicle.carried(DEPOT)
        said["on_the_way"] = await made.waits()
        said["line_on_the_way"] = vehicle.carried(LTE) - said["line_before"]
        vehicle.join(DEPOT)
        await made.serves(1)
        said["depot_second"] = vehicle.carried(DEPOT) - said["depot_first"]
        vehicle.leave(DEPOT)
        line = vehicle.carried(LTE)
        await shop.publish_bytes(NAME, large[:-2000] + random.Random(2).randbytes(2000))
        hub.set_desired("vehicle", {"modelsync": {"models": {NAME: {"version": 2}}}})
        await made.serves(2)
        said["small_on_the_line"] = vehicle.carried(LTE) - line
        said["network"] = made.status()["network"]
        await made.until(lambda: hub.reported("vehicle")["modelsync"]["models"][NAME]["version"] == 2, "the report")
        said["reported"] = hub.reported("vehicle")["modelsync"]["network"]
        daemon.terminate()
        said["exit_code"] = await daemon.wait()
        return said


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(json.dumps(asyncio.run(journey(options.root))) + "\n")


if __name__ == "__main__":
    main()
