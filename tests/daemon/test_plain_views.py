"""Updates of compressed containers: made on their plain bytes, packed again by the device to the very bytes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelsync_daemon.build import plain_views, zlib_trust
from modelsync_daemon.build.plain_views import ViewedTarget
from modelsync_protocol.plain import recipes, reference
from modelsync_server.publish.verifier import verify
from modelsync_server.store import open_store
from tests.support import packed_models
from tests.support.pulling import Device
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop


@pytest.mark.parametrize("file", packed_models.WRITERS)
async def test_a_compressed_container_costs_what_its_plain_bytes_cost(file: str, tmp_path: Path) -> None:
    write = packed_models.WRITERS[file]
    old, new = write(packed_models.weights(1)), write(packed_models.weights(1, 1e-4))
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", old, file)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
        published = await shop.publish_bytes("m", new, file)
        updated = await device.pull("m", origin.url)
    assert device.files("m") == {file: new}
    assert updated.plan.kind == "update"
    assert updated.plan.bytes == published.updates[0].bytes < 0.7 * len(new)
    assert device.leftovers() in ([], [str(device.data.root / "incoming" / "m")])
    report = await verify(open_store(str(shop.path)))
    assert not report.problems and report.updates == 1
