"""What an SD card loses is found and mended: `modelsyncd scrub` and `gc`, beside a running daemon and without one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.demo.stage import Process
from modelsync_daemon.build.scrub import scrub
from modelsync_daemon.disk.datadir import DataDir
from modelsync_server.hub.hub import Hub, HubAddress
from tests.daemon.test_prepare_faults import KIB, flip, noise, stocked
from tests.support.addresses import loopback_address
from tests.support.pulling import Device
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop
from tests.support.waiting import until

BYTES = noise(7, 1024 * KIB)


async def modelsyncd(*arguments: str) -> tuple[int, str, str]:
    """Run the command; exit code, stdout, stderr."""
    command = [str(Path(sys.executable).with_name("modelsyncd")), *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout, done.stderr


def installed_file(data: Path, version: int = 1) -> Path:
    """The only file of that version of `m`."""
    return next(item.path for item in DataDir(data).installed("m") if item.version == version) / "model.bin"


@asynccontextmanager
async def followed(tmp_path: Path) -> AsyncIterator[tuple[Path, ScriptedOrigin, Hub]]:
    """A real daemon that has version 1 of `m` in service: its data directory, its origin and its hub."""
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", BYTES)
    data = tmp_path / "device"
    async with (
        Hub(tmp_path / "hub", HubAddress(loopback_address(), service_port=0)) as hub,
        ScriptedOrigin(shop.path) as origin,
    ):
        config = tmp_path / "modelsyncd.toml"
        config.write_text(
            f'data = "{data}"\ntrust = "{shop.trust}"\nca = "{hub.ca_path}"\n'
            f'connection_string = "{hub.add_device("pi")}"\nprobation_seconds = 0\nstartup_spread_seconds = 0\n'
        )
        daemon = Process("modelsyncd", tmp_path, {})
        await daemon.start("modelsyncd", "run", "--config", str(config), ready=False)
        try:
            hub.set_desired("pi", {"modelsync": {"origin": origin.url, "models": {"m": {"version": 1}}}})
            await until(lambda: reported(hub).get("state") == "active")
            yield data, origin, hub
        finally:
            await daemon.stop()


def reported(hub: Hub) -> dict[str, Any]:
    """What the twin says of `m`."""
    found: dict[str, Any] = hub.reported("pi").get("modelsync", {}).get("models", {}).get("m", {})
    return found


async def test_a_flipped_bit_is_found_and_only_its_chunk_is_fetched(tmp_path: Path) -> None:
    async with followed(tmp_path) as (data, origin, hub):
        file, generation = installed_file(data), reported(hub)["generation"]
        assert (await modelsyncd("scrub", "--data", str(data)))[:2] == (
            0,
            f"1 installed version(s), {len(BYTES)} bytes: 0 damaged.\n",
        )
        held = file.open("rb")  # as an inference process has it mapped
        flip(file, 300 * KIB)
        before = len(origin.exchanges)
        code, said, _ = await modelsyncd("scrub", "--data", str(data), "--json")
        assert code == 0 and json.loads(said)["damaged"][0]["files"] == ["model.bin"]
        assert json.loads(said)["damaged"][0]["mending"]
        await until(lambda: file.read_bytes() == BYTES)
        fetched = sum(
            exchange.sent for exchange in origin.exchanges[before:] if exchange.path.lstrip("/").startswith("packs/")
        )
        assert 0 < fetched <= 256 * KIB, "the damaged chunk's frame and no more"
        assert os.fstat(held.fileno()).st_ino != file.stat().st_ino, "the open file is left as it is"
        held.close()
        assert (reported(hub)["generation"], reported(hub)["state"]) == (generation, "active")
        assert (await modelsyncd("scrub", "--data", str(data)))[0] == 0
        await until(lambda: not any((data / "incoming").iterdir()))


@pytest.mark.parametrize("harm", ["truncated", "longer", "missing", "mode", "manifest"])
async def test_whatever_is_wrong_with_a_file_is_mended(tmp_path: Path, harm: str) -> None:
    async with followed(tmp_path) as (data, _, _hub):
        file = installed_file(data)
        manifest = file.parent.with_name(f"{file.parent.name}.manifest")
        sound = manifest.read_bytes()
        if harm == "truncated":
            os.truncate(file, len(BYTES) // 2)
        elif harm == "longer":
            file.write_bytes(BYTES + b"more")
        elif harm == "missing":
            file.unlink()
        elif harm == "mode":
            file.chmod(0o600)
        else:
            flip(manifest, 10)
        assert (await modelsyncd("scrub", "--data", str(data)))[0] == 0

        def whole() -> bool:
            return all(not finding.files for finding in scrub(DataDir(data))) and file.read_bytes() == BYTES

        await until(whole)
        assert manifest.read_bytes() == sound


async def test_damage_waits_for_an_origin_that_is_away(tmp_path: Path) -> None:
    async with followed(tmp_path) as (data, origin, _):
        file = installed_file(data)
        flip(file, 5)
        origin.fault = lambda exchange, answer, whole: type(answer)(503, b"", {})
        assert (await modelsyncd("scrub", "--data", str(data)))[0] == 0
        await asyncio.sleep(1)
        assert file.read_bytes() != BYTES
        origin.fault = None
        await until(lambda: file.read_bytes() == BYTES)


async def test_without_a_daemon_damage_is_said_and_refused(tmp_path: Path) -> None:
    _, device = await stocked(tmp_path, BYTES, BYTES[::-1])
    flip(installed_file(tmp_path / "device"), 5)
    code, said, complaint = await modelsyncd("scrub", "--data", str(tmp_path / "device"))
    assert code == 3 and said.endswith(": 1 damaged.\n")
    assert complaint == (
        "modelsyncd: damaged and not being mended: m version 1 (model.bin); start modelsyncd, then scrub again.\n"
    )
    assert device.files("m")["model.bin"] != BYTES, "it only read"


async def test_gc_removes_what_nothing_refers_to_and_nothing_else(tmp_path: Path) -> None:
    async with followed(tmp_path) as (data, _, _hub):
        stale = data / "incoming" / "m" / "tree"
        stale.mkdir(parents=True)
        (stale / "model.bin").write_bytes(b"half")
        lost = data / "models" / "m" / f"9-{'0' * 64}"
        lost.mkdir()
        lost.with_name(f"{lost.name}.manifest").write_bytes(b"{}")
        code, said, _ = await modelsyncd("gc", "--data", str(data), "--json")
        assert code == 0 and json.loads(said) == {"versions": ["m/9"], "builds": ["m"]}
        assert not lost.exists() and not (data / "incoming" / "m").exists()
        assert installed_file(data).read_bytes() == BYTES
        assert (await modelsyncd("gc", "--data", str(data)))[1] == "nothing to remove.\n"


async def test_gc_without_a_daemon_takes_the_lock(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", BYTES)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
    with DataDir(tmp_path / "device").lock():
        code, _, complaint = await modelsyncd("gc", "--data", str(tmp_path / "device"))
        assert code == 5 and "in use by another modelsyncd" in complaint
    assert (await modelsyncd("gc", "--data", str(tmp_path / "device")))[0] == 0
    assert device.files("m") == {"model.bin": BYTES}
