"""A publisher's memory: bounded, whatever the size of what it publishes."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from modelsync_protocol.plan import NOTHING
from modelsync_server.encode.encoder import Source, encode_update
from modelsync_server.encode.repeat_finder import repeats
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.packer import pack
from modelsync_server.publish.tasks import UpdateObject
from tests.server.tensors.worlds import source
from tests.support.memory_cgroup import CgroupMissing, MemoryCgroup
from tests.support.shop import Shop
from tests.support.sparse_models import sparse_model

MIB = 2**20
GB = 10**9
BOUND = 640 * MIB
"""Of a publisher with two workers."""


@pytest.fixture
def noise() -> Source:
    return source({"model.bin": np.random.default_rng(1).bytes(6 * MIB)})


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_packs_and_updates_are_no_bytes_in_memory(noise: Source, pool: ThreadPoolExecutor) -> None:
    """Of 6 MiB that no encoding makes smaller neither packs nor updates stay in memory once they are made."""
    tracemalloc.start()
    try:
        _, packs = pack(noise, {}, pool, lambda step, done, total: None)
        nothing = Source(NOTHING, memoryview(b""))
        made = UpdateObject.of(nothing, noise, encode_update(nothing, noise, pool))
        assert tracemalloc.get_traced_memory()[0] < MIB
    finally:
        tracemalloc.stop()
    assert sum(map(len, packs.values())) > 6 * MIB and len(made) > 6 * MIB


def test_the_index_of_repeats_does_not_grow_in_memory() -> None:
    random = np.random.default_rng(2)
    base, target = (memoryview(random.bytes(16 * MIB)) for _ in range(2))

    def peak(size: int) -> int:
        tracemalloc.start()
        try:
            assert repeats(base[:size], target[:size]) == []
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(16 * MIB) - peak(3 * MIB) < MIB // 2


def test_holes_of_an_artifact_take_no_disk(tmp_path: Path) -> None:
    """At its beginning, inside and at its end, of a file alone and of several, and a file that is nothing else."""
    for name, places, size in (("a", [3 * MIB], 8 * MIB), ("b", [], 4 * MIB), ("c", [0, MIB], 2 * MIB), ("d", [0], 3)):
        with (tmp_path / name).open("wb") as file:
            for place in places:
                file.seek(place)
                file.write(b"abc")
            file.truncate(size)
    with snapshot(tmp_path) as artifact:
        assert artifact.stream == b"".join((tmp_path / name).read_bytes() for name in "abcd")
        assert artifact.path.stat().st_blocks * 512 < MIB


async def published_within(tmp_path: Path, size: int, disk: int) -> None:
    """Publish a model of `size` bytes and an update of 1 % of its tensors in a cgroup without swap."""
    if shutil.disk_usage(tmp_path).free < disk + GB:
        pytest.skip(
            f"LOUD: publishing {size // GB} GB is not tested: it takes {disk // GB} GB of disk below {tmp_path}."
        )
    shop = await Shop.open(tmp_path)
    model = tmp_path / "model.safetensors"
    try:
        with MemoryCgroup("publisher") as cgroup:
            cgroup.limit = BOUND
            for share in (0.0, 0.01):
                sparse_model(model, size, share)
                program = Path(sys.executable).with_name("modelsync")
                arguments = ("publish", str(shop.path), "m", str(model), "--keys", str(shop.keys))
                process = await asyncio.create_subprocess_exec(program, *arguments, env={"TMPDIR": str(tmp_path)})
                cgroup.add(process.pid)
                assert await process.wait() == 0, f"{cgroup.kills} killed for want of memory"
            assert cgroup.kills == 0
    except CgroupMissing as error:
        pytest.skip(f"LOUD: the publisher's memory is not tested: {error}")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_2_gigabytes_are_published_in_640_mebibytes(tmp_path: Path) -> None:
    await published_within(tmp_path, 2 * GB, 6 * GB)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_10_gigabytes_are_published_in_640_mebibytes(tmp_path: Path) -> None:
    await published_within(tmp_path, 10 * GB, 30 * GB)
