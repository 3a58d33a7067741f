"""From a notice to a model in service, stage by stage: the resident daemon on a direct line, and `modelsyncd pull`.

`python -m bench.active [--rounds N]` starts a local hub, an origin and the daemon as a process, has it go to a new
version of a small model in each round, and prints medians and minima in milliseconds. Stages are seen from outside: the
hub is told, the origin is asked first and last, the pointer is replaced, the hub hears of it. The pulls are processes
of their own, each into an empty directory (`first`) and from version 1 to 2 (`update`); their processor time is all of
it, with children. `fsync` is what as many durable writes as an update makes cost on this disk alone.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from examples.demo.stage import Process, free_address
from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.scripted_origin import Answer, Exchange, ScriptedOrigin
from tests.support.shop import Shop

Figures = dict[str, list[float]]

_SYNCS = 30
_PATIENCE_SECONDS = 30.0


def _model(version: int) -> bytes:
    """3 KB that change a little with each version."""
    return b"".join(b"weight %d of row %d\n" % (row * row + version * (row % 40 == 0), row) for row in range(150))


async def resident(root: Path, rounds: int) -> Figures:
    """Seconds of each stage, of `rounds` updates by one daemon without probation."""
    shop = await Shop.open(root)
    await shop.publish_bytes("m", _model(1), "model.txt")
    found: Figures = {}
    asked: list[float] = []

    def note(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
        asked.append(time.monotonic())
        return answer

    host = free_address(8883)
    async with (
        Hub(root / "hub", HubAddress(host, service_port=0)) as hub,
        ScriptedOrigin(shop.path, parcels=True, small_buffer=False) as origin,
    ):
        origin.fault = note
        config = root / "modelsyncd.toml"
        config.write_text(
            f'data = "{root / "device"}"\ntrust = "{shop.trust}"\nca = "{hub.ca_path}"\n'
            f'connection_string = "{hub.add_device("pi")}"\nprobation_seconds = 0\n'
        )
        hub.set_desired("pi", {"modelsync": {"origin": origin.url, "models": {"m": {"version": 1}}}})
        daemon = Process("modelsyncd", root, {})
        await daemon.start("modelsyncd", "run", "--config", str(config), ready=False)
        try:
            await _reported(hub, 1)
            for version in range(2, rounds + 2):
                await shop.publish_bytes("m", _model(version), "model.txt")
                await asyncio.sleep(1.0)
                asked.clear()
                begin = time.monotonic()
                hub.set_desired("pi", {"modelsync": {"models": {"m": {"version": version}}}})
                pointed = await _pointed(root / "device" / "models" / "m", version)
                told = await _reported(hub, version)
                for stage, seconds in (
                    ("notice, twin read, worker started, connected", asked[0] - begin),
                    ("trust, plan and fetch", asked[-1] - asked[0]),
                    ("verify, assemble, probe, pointer", pointed - asked[-1]),
                    ("notice → pointer", pointed - begin),
                    ("notice → reported active", told - begin),
                ):
                    found.setdefault(stage, []).append(seconds)
        finally:
            await daemon.stop()
    return found


async def pulls(root: Path, rounds: int) -> Figures:
    """Seconds of wall clock and of processor of `modelsyncd pull`, a first one and an update."""
    shop = await Shop.open(root)
    await shop.publish_bytes("m", _model(1), "model.txt")
    await shop.publish_bytes("m", _model(2), "model.txt")
    found: Figures = {}
    async with ScriptedOrigin(shop.path, parcels=True, small_buffer=False) as origin:
        for number in range(rounds):
            data = root / f"pull{number}"
            for kind, version in (("first", 1), ("update", 2)):
                before, begin = _children_seconds(), time.monotonic()
                command = ("pull", "m", "--origin", origin.url, "--data", data, "--trust", shop.trust)
                process = await asyncio.create_subprocess_exec(
                    Path(sys.executable).with_name("modelsyncd"), *command, "--version", str(version),
                    stdout=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
                if await process.wait() != 0:
                    raise SystemExit("a pull failed; see above")
                found.setdefault(f"pull, {kind}", []).append(time.monotonic() - begin)
                found.setdefault(f"pull, {kind}, processor", []).append(_children_seconds() - before)
    return found


def syncs(root: Path, rounds: int) -> Figures:
    """Seconds that durable writes of a small file cost, each with its rename and its folder."""
    from modelsync_daemon.disk.durable import durable_write

    found: list[float] = []
    for number in range(rounds):
        begin = time.monotonic()
        for _ in range(_SYNCS):
            durable_write(root / "file", str(number).encode())
        found.append((time.monotonic() - begin) / _SYNCS)
    return {"one durable write (file and folder)": found}


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def _pointed(folder: Path, version: int) -> float:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if (folder / "current").readlink().name.startswith(f"{version}-"):
                return time.monotonic()
        except OSError:
            pass
        await asyncio.sleep(0.0005)
    raise SystemExit(f"version {version} was not activated in time")


async def _reported(hub: Hub, version: int) -> float:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        model = hub.reported("pi").get("modelsync", {}).get("models", {}).get("m", {})
        if model.get("version") == version and model.get("state") == "active":
            return time.monotonic()
        await asyncio.sleep(0.0005)
    raise SystemExit(f"version {version} was not reported in time")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    print("| stage | median ms | least ms |\n|---|---:|---:|")
    for measure in (resident, pulls):
        with tempfile.TemporaryDirectory(prefix="modelsync-active-") as scratch:
            _print(asyncio.run(measure(Path(scratch), rounds)))
    with tempfile.TemporaryDirectory(prefix="modelsync-active-") as scratch:
        _print(syncs(Path(scratch), rounds))


def _print(found: Figures) -> None:
    for stage, seconds in found.items():
        print(f"| {stage} | {statistics.median(seconds) * 1000:.1f} | {min(seconds) * 1000:.1f} |", flush=True)


if __name__ == "__main__":
    main()
