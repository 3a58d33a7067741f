"""A device builds targets whose operations end inside chunks, exactly and for what was announced."""

from __future__ import annotations

from pathlib import Path

from bench.repeats import pairs
from modelsync_server.publish.verifier import verify
from modelsync_server.store import open_store
from tests.support.pulling import Device
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop


async def test_a_target_that_holds_its_tensors_by_turns_is_built_exactly(tmp_path: Path) -> None:
    suffix, old, new = pairs(2)["by_turns"]
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", old, f"m.{suffix}")
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
        published = await shop.publish_bytes("m", new, f"m.{suffix}")
        updated = await device.pull("m", origin.url)
    assert device.files("m") == {f"m.{suffix}": new}
    assert updated.plan.kind == "update"
    price = published.updates[0]
    assert updated.plan.bytes == price.bytes and price.older_bytes is not None and price.bytes < price.older_bytes
    report = await verify(open_store(str(shop.path)))
    assert not report.problems
