"""Memory for a small update: the family of the daemon's processes, `modelsyncd pull`, and plain `curl` with `zstd -d`.

`python -m bench.active_memory [--rounds N]` prints the least and the largest of N in MiB. A family's pages count once
(family_memory.py); its peak is the largest of what was seen every few milliseconds, so a shorter one escapes. For curl
and zstd it is the kernel's own count of each process, added: they run one beside the other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import zstandard

from bench import family_memory
from bench.active import _compiled, _model, _reported
from examples.demo.stage import Process, free_address
from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

Sizes = dict[str, list[int]]
_LOOK_SECONDS = 0.004


def _family(pid: int) -> list[int]:
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in below for each in _family(int(child)))]


def _until(done: asyncio.Event, pid: int) -> int | None:
    return None if done.is_set() else pid


def _resident(pid: int) -> int:
    return family_memory.resident(_family(pid))


async def _peak(pid: Callable[[], int | None]) -> int:
    """The largest that the family of `pid` was seen to have, until there is none any more."""
    peak = 0
    while (root := pid()) is not None:
        with contextlib.suppress(OSError, IndexError):  # one of them has just ended
            peak = max(peak, await asyncio.to_thread(_resident, root))
        await asyncio.sleep(_LOOK_SECONDS)
    return peak


async def daemon(root: Path, rounds: int, found: Sizes, *, ready: bool) -> None:
    """Idle, and at the peak of an update."""
    shop = await Shop.open(root)
    await shop.publish_bytes("m", _model(1), "model.txt")
    what = "modelsyncd run, ready_worker" if ready else "modelsyncd run"
    async with (
        Hub(root / "hub", HubAddress(free_address(8883), service_port=0)) as hub,
        ScriptedOrigin(shop.path, parcels=True, small_buffer=False) as origin,
    ):
        config = root / "modelsyncd.toml"
        config.write_text(
            f'data = "{root / "device"}"\ntrust = "{shop.trust}"\nca = "{hub.ca_path}"\n'
            f'connection_string = "{hub.add_device("pi")}"\nprobation_seconds = 0\n'
            f"ready_worker = {str(ready).lower()}\n"
        )
        hub.set_desired("pi", {"modelsync": {"origin": origin.url, "models": {"m": {"version": 1}}}})
        process = Process("modelsyncd", root, {})
        await process.start("modelsyncd", "run", "--config", str(config), ready=False)
        try:
            await _reported(hub, 1)
            for version in range(2, rounds + 2):
                await shop.publish_bytes("m", _model(version), "model.txt")
                await asyncio.sleep(25.0)  # what a notice made ready has ended again
                found.setdefault(f"{what}: idle", []).append(_resident(process.pid))
                done = asyncio.Event()
                peak = asyncio.ensure_future(_peak(partial(_until, done, process.pid)))
                hub.set_desired("pi", {"modelsync": {"models": {"m": {"version": version}}}})
                await _reported(hub, version)
                done.set()
                found.setdefault(f"{what}: peak of an update", []).append(await peak)
        finally:
            await process.stop()


async def pull(root: Path, rounds: int, found: Sizes) -> None:
    """A first pull and an update, and the same model's bytes by curl into zstd."""
    shop = await Shop.open(root)
    for version in (1, 2):
        await shop.publish_bytes("m", _model(version), "model.txt")
    (shop.path / "model.zst").write_bytes(zstandard.compress(_model(2), 19))
    async with ScriptedOrigin(shop.path, parcels=True, small_buffer=False) as origin:
        for number in range(rounds):
            for kind, version in (("first", 1), ("update", 2)):
                process = await asyncio.create_subprocess_exec(
                    Path(sys.executable).with_name("modelsyncd"), "pull", "m", "--origin", origin.url,
                    "--data", root / f"pull{number}", "--trust", shop.trust, "--version", str(version),
                    stdout=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
                done = asyncio.Event()
                peak = asyncio.ensure_future(_peak(partial(_until, done, process.pid)))
                if await process.wait():
                    raise SystemExit("a pull failed; see above")
                done.set()
                found.setdefault(f"modelsyncd pull, {kind}", []).append(await peak)
            both = await asyncio.to_thread(_curl_and_zstd, f"{origin.url}/model.zst", root / "out")
            found.setdefault("curl | zstd -d", []).append(both)


def _curl_and_zstd(url: str, out: Path) -> int:
    """By `time`, which is small: what a process was forked from counts for it too."""
    curl = subprocess.Popen(["time", "-f", "%M", "curl", "-s", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command = ["time", "-f", "%M", "zstd", "-q", "-d", "-f", "-o", str(out)]
    zstd = subprocess.run(command, stdin=curl.stdout, stderr=subprocess.PIPE, check=True)
    assert curl.stderr is not None
    return (int(curl.stderr.read()) + int(zstd.stderr)) * 1024


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    _compiled()
    found: Sizes = {}
    with tempfile.TemporaryDirectory(prefix="modelsync-active-") as scratch:
        folders = [Path(scratch) / name for name in ("plain", "ready", "pull")]
        for folder in folders:
            folder.mkdir()
        asyncio.run(daemon(folders[0], rounds, found, ready=False))
        asyncio.run(daemon(folders[1], rounds, found, ready=True))
        asyncio.run(pull(folders[2], rounds, found))
    print("| processes | least MiB | largest MiB |\n|---|---:|---:|")
    for what, sizes in found.items():
        print(f"| {what} | {min(sizes) / 2**20:.1f} | {max(sizes) / 2**20:.1f} |")


if __name__ == "__main__":
    main()
