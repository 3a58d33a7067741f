"""The daemon's memory: a large update succeeds with 32 MiB beyond what the idle daemon uses, without swap."""

from __future__ import annotations

import asyncio
import compileall
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

import modelsync_daemon
import modelsync_protocol
from examples.demo.stage import Process
from modelsync_server.hub.hub import Hub, HubAddress
from tests.support import block_pairs, packed_models
from tests.support.addresses import loopback_address
from tests.support.budgets import within
from tests.support.corpus import corpus_folder
from tests.support.memory_cgroup import CgroupMissing, MemoryCgroup
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """What is installed is compiled. A confined worker of a fresh checkout compiles for itself, which takes MiBs."""
    for package in (modelsync_daemon, modelsync_protocol):
        compileall.compile_dir(Path(str(package.__file__)).parent, quiet=1)


def safetensors(seed: int, mebibytes: int, nudge: float, rank: int = 0) -> bytes:
    """A float32 model of that size in 4 MiB tensors; `nudge` moves every weight a little, if `rank` by that rank."""
    generator = np.random.default_rng(seed)
    header: dict[str, object] = {}
    blobs = []
    for number in range(mebibytes // 4):
        weights = generator.standard_normal((1024, 1024), np.float32) * np.float32(0.02)
        if rank:
            up, down = (generator.standard_normal(shape, np.float32) for shape in ((1024, rank), (rank, 1024)))
            weights += np.float32(nudge) * (up @ down) * np.float32(1e-4)
        else:
            weights += np.float32(nudge) * generator.standard_normal((1024, 1024), np.float32) * np.float32(1e-5)
        offset = number * 4 * MIB
        header[f"layer.{number:03}"] = {
            "dtype": "F32",
            "shape": [1024, 1024],
            "data_offsets": [offset, offset + 4 * MIB],
        }
        blobs.append(weights.tobytes())
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


@asynccontextmanager
async def running_daemon(tmp_path: Path, hub: Hub, shop: Shop) -> AsyncIterator[tuple[Process, MemoryCgroup]]:
    """`modelsyncd run` in a memory cgroup of its own, without a limit yet."""
    config = tmp_path / "modelsyncd.toml"
    config.write_text(
        f'data = "{tmp_path / "device"}"\ntrust = "{shop.trust}"\nca = "{hub.ca_path}"\n'
        f'connection_string = "{hub.add_device("pi")}"\nprobation_seconds = 0\n'
    )
    with MemoryCgroup("daemon") as cgroup:
        daemon = Process("modelsyncd", tmp_path, {})
        await daemon.start("modelsyncd", "run", "--config", str(config), ready=False)
        try:
            cgroup.add(daemon.pid)
            yield daemon, cgroup
        finally:
            await daemon.stop()


async def until_active(hub: Hub, version: int, cgroup: MemoryCgroup, seconds: float) -> None:
    """Wait until the twin reports that version as active."""
    for _ in range(int(seconds * 10)):
        found = hub.reported("pi").get("modelsync", {}).get("models", {}).get("m", {})
        if found.get("version") == version and found.get("state") == "active":
            return
        assert cgroup.kills == 0, "the kernel killed the update for want of memory"
        await asyncio.sleep(0.1)
    raise AssertionError(f"version {version} did not become active; reported: {found}")


async def check(tmp_path: Path, make: Callable[[int], bytes], suffix: str, seconds: float, what: str) -> None:
    """Install version 1 without a limit, then update to version 2 with idle + 32 MiB."""
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", make(1), f"model{suffix}")
    try:
        async with (
            Hub(tmp_path / "hub", HubAddress(loopback_address(), service_port=0)) as hub,
            ScriptedOrigin(shop.path) as origin,
            running_daemon(tmp_path, hub, shop) as (_, cgroup),
        ):
            hub.set_desired("pi", {"modelsync": {"origin": origin.url, "models": {"m": {"version": 1}}}})
            await until_active(hub, 1, cgroup, seconds)
            published = await shop.publish_bytes("m", make(2), f"model{suffix}")
            assert published.updates
            await asyncio.sleep(3)
            idle = cgroup.usage
            cgroup.limit = idle + 32 * MIB
            hub.set_desired("pi", {"modelsync": {"models": {"m": {"version": 2}}}})
            await until_active(hub, 2, cgroup, seconds)
            within(f"processes killed for want of memory, {what} in idle + 32 MiB", cgroup.kills, 0, "processes")
    except CgroupMissing as error:
        pytest.skip(f"LOUD: the memory limit is not tested: {error}")
    assert (tmp_path / "device" / "models" / "m" / "current" / f"model{suffix}").read_bytes() == make(2)


async def test_packed_update_fits_in_32_mebibytes(tmp_path: Path) -> None:
    def npz(version: int) -> bytes:
        return packed_models.npz(packed_models.weights(1, 1e-3 * (version - 1), rows=6000))

    await check(tmp_path, npz, ".npz", 60, "12 MB packed update")


@pytest.mark.long
async def test_update_in_blocks_fits_in_32_mebibytes(tmp_path: Path) -> None:
    def model(version: int) -> bytes:
        return block_pairs.model("q4_0", 2e-5 * (version - 1), 4608)

    await check(tmp_path, model, ".gguf", 120, "3 MB update in blocks")


async def test_20_megabyte_update_fits_in_32_mebibytes(tmp_path: Path) -> None:
    await check(tmp_path, lambda version: safetensors(1, 20, float(version - 1)), ".safetensors", 60, "20 MB update")


@pytest.mark.long
async def test_merged_adapter_of_large_rank_fits_in_32_mebibytes(tmp_path: Path) -> None:
    """Encoding 6 has the factors in memory beside base and target."""

    def model(version: int) -> bytes:
        return safetensors(1, 20, float(version - 1), rank=60)

    await check(tmp_path, model, ".safetensors", 120, "20 MB update of low rank")


@pytest.mark.long
async def test_200_megabyte_update_fits_in_32_mebibytes(tmp_path: Path) -> None:
    await check(tmp_path, lambda version: safetensors(1, 200, float(version - 1)), ".safetensors", 300, "200 MB update")


@pytest.mark.long
@pytest.mark.skipif(corpus_folder() is None, reason="no corpus of real model pairs: set MODELSYNC_CORPUS")
async def test_real_20_megabyte_pair_fits_in_32_mebibytes(tmp_path: Path) -> None:
    corpus = corpus_folder()
    assert corpus is not None
    folder = corpus / "mini_full_20"
    files = {1: folder / "old.safetensors", 2: folder / "new.safetensors"}
    await check(tmp_path, lambda version: files[version].read_bytes(), ".safetensors", 60, "real 20 MB update")


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_100_megabytes_are_enough_from_the_start_to_a_20_megabyte_update(tmp_path: Path) -> None:
    """All that the daemon's processes ever have, where no more is free."""
    shop = await Shop.open(tmp_path)
    try:
        async with (
            Hub(tmp_path / "hub", HubAddress(loopback_address(), service_port=0)) as hub,
            ScriptedOrigin(shop.path) as origin,
            running_daemon(tmp_path, hub, shop) as (_, cgroup),
        ):
            cgroup.limit = 100 * 1000 * 1000
            for version in (1, 2):
                await shop.publish_bytes("m", safetensors(1, 20, float(version - 1)), "model.safetensors")
                hub.set_desired("pi", {"modelsync": {"origin": origin.url, "models": {"m": {"version": version}}}})
                await until_active(hub, version, cgroup, 120)
            within("processes killed for want of memory, 20 MB update in 100 MB", cgroup.kills, 0, "processes")
    except CgroupMissing as error:
        pytest.skip(f"LOUD: the memory limit is not tested: {error}")
