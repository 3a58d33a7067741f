"""What publishers put into parcels: what devices ask next, always the newest, and nothing stale is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelsync_protocol import caps, names, parcel, trust
from modelsync_protocol.parcel import Parcel
from modelsync_server.trust.bundles import write_bundles
from modelsync_server.trust.metadata import read_state
from tests.support.shop import Shop
from tests.support.trust_world import World


@pytest.fixture
async def shop(tmp_path: Path) -> Shop:
    return await Shop.open(tmp_path)


def written(shop: Shop) -> dict[str, Parcel]:
    """Parcels of model m by base, as it is named."""
    found = [path for path in shop.objects("bundles") if "." in path.name]
    assert all(path.name.startswith("m.") for path in found)
    return {path.name.removeprefix("m."): parcel.decode(path.read_bytes()) for path in found}


async def publish(shop: Shop, count: int, size: int = 3000) -> list[str]:
    """Publish versions of m, each a little different; their manifests' digests."""
    return [
        (await shop.publish_bytes("m", b"%d" % number + bytes(range(250)) * (size // 250))).manifest
        for number in range(count)
    ]


async def test_each_known_base_finds_the_bundle_and_its_update_and_a_new_device_finds_all(shop: Shop) -> None:
    *older, newest = await publish(shop, 4)
    found = written(shop)
    readers = ["new", newest[:8], *(digest[:8] for digest in older)]
    assert set(found) == {*readers, *(f"{reader}.v2" for reader in readers)}
    bundle = (shop.path / "bundles" / "m").read_bytes()
    assert {one.bundle for one in found.values()} == {bundle}
    for base in older:
        path = names.update_object(newest, base)
        assert found[base[:8]].get(path) == (shop.path / path).read_bytes()
    assert found[newest[:8]].objects == {}
    targets = max(shop.path.glob("metadata/*.targets.json"))
    paths = [names.manifest_object(newest), f"metadata/{targets.name}"]
    assert all(found["new"].get(path) == (shop.path / path).read_bytes() for path in paths)
    assert len(found["new"].objects) == 3, "and its pack"


async def test_a_base_that_no_update_is_made_from_any_more_has_no_parcel(shop: Shop) -> None:
    first, second, *_ = await publish(shop, 7)
    assert first[:8] not in written(shop)
    assert second[:8] in written(shop)


async def test_large_objects_are_left_out(shop: Shop) -> None:
    first = await shop.publish_bytes("m", b"\0" * 100)
    import random

    await shop.publish_bytes("m", random.Random(1).randbytes(2 * caps.MAX_ENCLOSED_BYTES))
    found = written(shop)
    assert found[first.manifest[:8]].objects == {}
    assert len(found["new"].objects) == 1, "the list of models, which is small in any case"


async def test_after_a_withdrawal_they_lead_to_the_version_before(shop: Shop) -> None:
    _, second, third = await publish(shop, 3)
    await (await shop.repository()).withdraw("m", 3)
    found = written(shop)
    assert third[:8] not in found
    assert found["new"].get(names.manifest_object(second)) is not None
    assert found["new"].bundle == (shop.path / "bundles" / "m").read_bytes()


async def test_without_a_live_version_there_are_none(shop: Shop) -> None:
    await publish(shop, 1)
    await (await shop.repository()).withdraw("m", 1)
    assert written(shop) == {}


async def test_a_refresh_renews_all_and_mends_a_damaged_one(shop: Shop) -> None:
    await publish(shop, 2)
    before = written(shop)
    (shop.path / "bundles" / "m.new").write_bytes(b"damaged")
    await (await shop.repository()).refresh()
    after = written(shop)
    assert set(after) == set(before)
    assert {one.bundle for one in after.values()} == {(shop.path / "bundles" / "m").read_bytes()}
    assert all(after[base].objects == before[base].objects for base in before)
    assert after["new"].bundle != before["new"].bundle


async def test_a_version_whose_objects_are_damaged_does_not_stop_a_refresh(shop: Shop) -> None:
    (digest,) = await publish(shop, 1)
    (shop.path / names.manifest_object(digest)).write_bytes(b"damaged")
    await (await shop.repository()).refresh()
    assert written(shop)["new"].get(names.manifest_object(digest)) is None


async def test_a_slower_publishers_parcels_replace_and_remove_no_newer_ones(tmp_path: Path) -> None:
    world = await World.make(tmp_path)
    await world.publish("anomaly", 1)
    slow = await read_state(world.store)
    await world.publish("anomaly", 2)
    newer = world.copy()
    del world.store.objects["bundles/anomaly"]
    await write_bundles(world.store, slow, None)
    kept = {path: data for path, data in newer.items() if path.startswith("bundles/anomaly.")}
    assert kept and kept.items() <= world.store.objects.items()
    assert trust.TIMESTAMP_OBJECT in world.store.objects
