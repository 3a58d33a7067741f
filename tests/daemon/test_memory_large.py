"""A version of 10 GB on a device, in idle + 32 MiB: its index, its plan and its journal do not grow with it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from modelsync_server.hub.hub import Hub, HubAddress
from tests.daemon.test_memory import compiled, running_daemon, until_active
from tests.support.addresses import loopback_address
from tests.support.budgets import within
from tests.support.memory_cgroup import CgroupMissing
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop
from tests.support.sparse_models import sparse_model

MIB = 2**20
GB = 10**9

__all__ = ["compiled"]


async def check(tmp_path: Path, size: int, seconds: float) -> None:
    """Install a model of `size` bytes and update 1 % of its tensors, both with 32 MiB beyond the idle daemon."""
    needed = 4 * size  # the publisher's copy and base, and both versions on the device; the source is sparse
    if shutil.disk_usage(tmp_path).free < needed + GB:
        pytest.skip(f"LOUD: the 10 GB update is not tested: it takes {needed // GB} GB of disk below {tmp_path}.")
    shop = await Shop.open(tmp_path)
    model = tmp_path / "model.safetensors"
    try:
        async with (
            Hub(tmp_path / "hub", HubAddress(loopback_address(), service_port=0)) as hub,
            ScriptedOrigin(shop.path) as origin,
            running_daemon(tmp_path, hub, shop) as (_, cgroup),
        ):
            for version, length, share in ((1, 0, 0.0), (2, size, 0.0), (3, size, 0.01)):
                sparse_model(model, length, share)  # the first is small: it wakes what an idle daemon has awake
                await shop.publish("m", model)
                await asyncio.sleep(3)
                if version > 1:
                    cgroup.limit = cgroup.usage + 32 * MIB
                desired = {"origin": origin.url, "models": {"m": {"version": version}}}
                hub.set_desired("pi", {"modelsync": desired})
                await until_active(hub, version, cgroup, seconds)
                cgroup.limit = -1
            within(f"processes killed, {size // GB} GB in idle + 32 MiB", cgroup.kills, 0, "processes")
    except CgroupMissing as error:
        pytest.skip(f"LOUD: the memory limit is not tested: {error}")
    installed = tmp_path / "device" / "models" / "m" / "current" / model.name
    with model.open("rb") as ours, installed.open("rb") as theirs:
        assert model.stat().st_size == installed.stat().st_size
        while block := ours.read(4 * MIB):
            assert theirs.read(4 * MIB) == block


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_10_gigabytes_fit_in_32_mebibytes(tmp_path: Path) -> None:
    await check(tmp_path, 10 * GB, 900)
