"""What an idle `modelsyncd run` costs: memory, wake-ups, CPU, and bytes on the hub's line, measured from outside.

`python -m bench.idle [--seconds N]` starts a local hub, a counting relay before it and the daemon as a process with one
model installed, and prints a JSON document. Bytes a day are put together from measured parts: one connection with its
twin read, one keep-alive exchange (measured with a short keep-alive), and how often a day each happens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from examples.demo.relay import Counts, Relay
from examples.demo.stage import Process, free_address
from modelsync_daemon.config import Settings
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.origin.origin import application
from modelsync_server.publish.publisher import publish
from modelsync_server.store import create_store, open_store
from modelsync_server.trust.initialise import initialise

_HIDDEN_PORT = 28883
_SHORT_KEEP_ALIVE = 5
_DAY = 86400


async def measure(seconds: int) -> dict[str, Any]:
    """Run the whole thing once; sizes in bytes, memory in KiB."""
    from aiohttp import web

    with tempfile.TemporaryDirectory(prefix="modelsync-idle-") as scratch:
        root = Path(scratch)
        store = root / "store"
        trust = (await initialise(create_store(str(store)), str(root / "keys"))).trust_file
        model = Path(__file__).parents[1] / "examples" / "anomaly" / "v1" / "model.onnx"
        await publish(open_store(str(store)), str(root / "keys"), "anomaly", model)
        runner = web.AppRunner(application(store), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host = free_address(8883)
        address = HubAddress(host, _HIDDEN_PORT, 0)
        async with Hub(root / "hub", address) as hub, Relay(host, _HIDDEN_PORT, host, 8883) as relay:
            text = hub.add_device("pi")
            origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
            hub.set_desired("pi", {"modelsync": {"origin": origin, "models": {"anomaly": {"version": 1}}}})
            config = root / "modelsyncd.toml"
            base = (
                f'data = "{root / "device"}"\ntrust = "{trust}"\nca = "{hub.ca_path}"\nconnection_string = "{text}"\n'
            )
            config.write_text(base)
            idle = await _idle(hub, config, root, relay, seconds)
            config.write_text(base + f"keep_alive_seconds = {_SHORT_KEEP_ALIVE}\n")
            ping = await _keep_alive(hub, config, root, relay)
        await runner.cleanup()
    settings = Settings(data=Path("x"))
    connects = _DAY / settings.token_seconds + 1  # a renewal is a new connection; one more for the line's own breaks
    day = connects * idle["connection_bytes"] + _DAY / settings.keep_alive_seconds * ping
    return {
        **idle,
        "keep_alive_bytes": ping,
        "keep_alive_seconds": settings.keep_alive_seconds,
        "token_seconds": settings.token_seconds,
        "bytes_per_day": round(day),
        "connection_bytes_per_hour": round(day / 24),
    }


async def _idle(hub: Hub, config: Path, root: Path, relay: Relay, seconds: int) -> dict[str, Any]:
    daemon = Process("modelsyncd", root, {})
    await daemon.start("modelsyncd", "run", "--config", str(config), ready=False)
    try:
        await _settled(hub)
        processes = [daemon.pid, *children(daemon.pid)]
        before, spent = [usage(pid) for pid in processes], relay.counts()
        await asyncio.sleep(seconds)
        after, later = [usage(pid) for pid in processes], relay.counts()
        own = memory(daemon.pid)
        family = [own, *(memory(child) for child in children(daemon.pid))]
    finally:
        await daemon.stop()
    # A second start has nothing to fetch: all it does on the hub's line is to connect and read the twin.
    begin = relay.counts()
    await daemon.start("modelsyncd", "run", "--config", str(config), ready=False)
    try:
        await _settled(hub)
        await asyncio.sleep(3)
        connection = _bytes(relay.counts() - begin)
    finally:
        await daemon.stop()
    return {
        "seconds": seconds,
        "rss_kib": own["Rss"],
        "pss_of_all_processes_kib": sum(one["Pss"] for one in family),
        "wakeups_per_second": round((sum(a[0] for a in after) - sum(b[0] for b in before)) / seconds, 2),
        "cpu_seconds_per_hour": round((sum(a[1] for a in after) - sum(b[1] for b in before)) * 3600 / seconds, 1),
        "bytes_while_idle": _bytes(later - spent),
        "connection_bytes": connection,
    }


async def _keep_alive(hub: Hub, config: Path, root: Path, relay: Relay) -> int:
    """Bytes of one keep-alive exchange, from a minute with a short one."""
    daemon = Process("modelsyncd", root, {})
    await daemon.start("modelsyncd", "run", "--config", str(config), ready=False)
    try:
        await _settled(hub)
        await asyncio.sleep(3)
        begin = relay.counts()
        await asyncio.sleep(12 * _SHORT_KEEP_ALIVE)
        return round(_bytes(relay.counts() - begin) / 12)
    finally:
        await daemon.stop()


async def _settled(hub: Hub) -> None:
    """Wait until the model is active and the daemon has been quiet for a moment."""
    deadline = time.monotonic() + 60
    while True:
        reported = hub.reported("pi").get("modelsync", {}).get("models", {}).get("anomaly", {})
        if reported.get("state") == "active":
            break
        if time.monotonic() > deadline:
            raise SystemExit(f"the daemon did not settle; it reports {reported}")
        await asyncio.sleep(0.1)
    await asyncio.sleep(5)


def memory(pid: int) -> dict[str, int]:
    """The kernel's account of a process, KiB; Pss counts shared pages in part, so that processes add up."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith("kB")}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def usage(pid: int) -> tuple[int, float]:
    """Context switches that the process asked for (its wake-ups), and CPU seconds, over all threads."""
    switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                switches += int(line.split()[1])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return switches, (int(fields[11]) + int(fields[12])) / 100


def _bytes(counts: Counts) -> int:
    return counts.up + counts.down


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long to watch the idle daemon")
    json.dump(asyncio.run(measure(parser.parse_args().seconds)), sys.stdout, indent=2)
    sys.stdout.write("\n")
