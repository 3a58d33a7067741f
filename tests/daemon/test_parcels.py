"""One request brings trust and update of a small model; nothing that can be wrong with a parcel stops a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelsync_daemon.build.request import OverBudget
from modelsync_protocol import caps, names, parcel
from modelsync_protocol.errors import RefusedError
from tests.support.pulling import Device
from tests.support.scripted_origin import Answer, Exchange, ScriptedOrigin
from tests.support.shop import Shop

OLD = b"".join(number.to_bytes(4, "little") for number in range(1500))
NEW = OLD[:3000] + b"changed" + OLD[3007:]


class Field:
    """A store with two small versions of m, and a device that holds the first of them."""

    def __init__(self, shop: Shop, device: Device, digests: list[str]) -> None:
        self.shop, self.device, self.digests = shop, device, digests

    @classmethod
    async def open(cls, root: Path) -> Field:
        """Publish, pull, publish."""
        shop = await Shop.open(root)
        first = await shop.publish_bytes("m", OLD)
        device = Device(root / "device", shop.trust)
        async with ScriptedOrigin(shop.path, parcels=True) as origin:
            await device.pull("m", origin.url)
        second = await shop.publish_bytes("m", NEW)
        return cls(shop, device, [first.manifest, second.manifest])

    def change(self, base: str, change: Callable[[bytes, dict[str, bytes]], bytes]) -> None:
        """Let `change(bundle, objects by path)` give the parcel for `base` anew."""
        path = self.shop.path / names.parcel_object("m", base, 2)
        update = names.update_object(self.digests[1], self.digests[0])
        found = parcel.decode(path.read_bytes())
        path.write_bytes(change(found.bundle, {update: found.get(update) or b""}))


@pytest.fixture
async def field(tmp_path: Path) -> Field:
    return await Field.open(tmp_path)


def asked(origin: ScriptedOrigin) -> list[str]:
    """Top folders of what was asked for."""
    return [exchange.path.partition("/")[0] for exchange in origin.exchanges]


async def test_a_small_update_is_one_request(field: Field) -> None:
    async with ScriptedOrigin(field.shop.path, parcels=True) as origin:
        prepared = await field.device.pull("m", origin.url)
        assert [exchange.path for exchange in origin.exchanges] == [names.parcel_object("m", field.digests[0], 2)]
    assert field.device.files("m") == {"model.bin": NEW}
    assert (prepared.plan.kind, prepared.wire.requests) == ("update", 1)


async def test_a_first_install_asks_for_nothing_more_but_the_next_root(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", OLD)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path, parcels=True) as origin:
        prepared = await device.pull("m", origin.url)
        assert [exchange.path for exchange in origin.exchanges] == ["bundles/m.new.v2", "metadata/2.root.json"]
    assert device.files("m") == {"model.bin": OLD}
    assert prepared.plan.kind == "pack"


async def test_a_device_that_is_up_to_date_fetches_a_bundle_and_no_object(field: Field) -> None:
    async with ScriptedOrigin(field.shop.path, parcels=True) as origin:
        await field.device.pull("m", origin.url)
        before = origin.body_bytes
        await field.device.pull("m", origin.url)
        fetched = origin.body_bytes - before
        assert len(origin.exchanges) == 2
    assert fetched < len((field.shop.path / "bundles" / "m").read_bytes()) + 10


async def test_an_origin_without_parcels_serves_as_before(field: Field) -> None:
    async with ScriptedOrigin(field.shop.path) as origin:
        await field.device.pull("m", origin.url)
        assert asked(origin) == ["bundles", "bundles", "bundles", "updates"], "parcels of both formats, the bundle"
    assert field.device.files("m") == {"model.bin": NEW}


async def test_whoever_asks_for_an_older_version_or_has_little_to_spend_fetches_no_parcel(field: Field) -> None:
    async with ScriptedOrigin(field.shop.path, parcels=True) as origin:
        await field.device.pull("m", origin.url, byte_limit=2 * caps.MAX_ENCLOSED_BYTES - 1)
        assert asked(origin) == ["bundles", "updates"] and origin.exchanges[0].path == "bundles/m"
        count = len(origin.exchanges)
        await field.device.pull("m", origin.url, 1)
        assert [exchange.path for exchange in origin.exchanges[count:]] == ["bundles/m"]
        with pytest.raises(OverBudget):
            await Device(field.shop.root / "other", field.shop.trust).pull("m", origin.url, byte_limit=10)
        assert not any("." in e.path for e in origin.exchanges if e.path.startswith("bundles/"))


async def test_a_quarantined_version_is_not_fetched_again_and_again(field: Field) -> None:
    async with ScriptedOrigin(field.shop.path, parcels=True) as origin:
        with pytest.raises(RefusedError, match="quarantined"):
            await field.device.pull("m", origin.url, quarantined=frozenset({field.digests[1]}))
        assert [exchange.path for exchange in origin.exchanges] == ["bundles/m"]


@pytest.mark.parametrize("place", [0, 1, 40, -1, -40])
async def test_a_damaged_parcel_costs_a_request_and_nothing_else(field: Field, place: int) -> None:
    def flipped(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
        if "." in exchange.path and exchange.path.startswith("bundles/") and answer.status == 200:
            body = bytearray(answer.body)
            body[place] ^= 0xFF
            answer.body = bytes(body)
        return answer

    async with ScriptedOrigin(field.shop.path, parcels=True) as origin:
        origin.fault = flipped
        await field.device.pull("m", origin.url)
    assert field.device.files("m") == {"model.bin": NEW}


async def test_an_update_of_another_target_or_length_in_it_is_no_danger(field: Field) -> None:
    other = await field.shop.publish_bytes("n", NEW + b"n")
    base = field.digests[0]
    right = names.update_object(field.digests[1], base)

    def longer(bundle: bytes, objects: dict[str, bytes]) -> bytes:
        return parcel.encode(bundle, {right: objects[right] + b"x"})

    def empty(bundle: bytes, objects: dict[str, bytes]) -> bytes:
        return parcel.encode(bundle, {right: b""})

    def wrong(bundle: bytes, objects: dict[str, bytes]) -> bytes:
        return parcel.encode(bundle, {names.update_object(other.manifest, base): objects[right]})

    for change in (longer, empty, wrong):
        field.change(base, change)
        device = Device(field.shop.root / change.__name__, field.shop.trust)
        async with ScriptedOrigin(field.shop.path, parcels=True) as origin:
            await device.pull("m", origin.url, 1)
            await device.pull("m", origin.url)
        assert device.files("m") == {"model.bin": NEW}


async def test_a_damaged_first_install_in_it_is_fetched_from_the_origin(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    published = await shop.publish_bytes("m", OLD)
    path = shop.path / "bundles" / "m.new.v2"
    found = parcel.decode(path.read_bytes())
    manifest = names.manifest_object(published.manifest)
    (pack,) = shop.objects("packs")
    objects = {manifest: found.get(manifest) or b"", names.pack_object(pack.name): pack.read_bytes()}
    for spoiled in objects:
        data = bytearray(objects[spoiled])
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(parcel.encode(found.bundle, {**objects, spoiled: bytes(data)}))
        device = Device(tmp_path / spoiled.partition("/")[0], shop.trust)
        async with ScriptedOrigin(shop.path, parcels=True) as origin:
            await device.pull("m", origin.url)
            assert spoiled in origin.objects()
        assert device.files("m") == {"model.bin": OLD}


async def test_a_stale_bundle_in_a_parcel_is_only_a_stale_cache(field: Field) -> None:
    """A device that has seen newer metadata asks the origin itself."""
    base = field.digests[0]
    old = (field.shop.path / names.parcel_object("m", base, 2)).read_bytes()
    await field.shop.publish_bytes("n", b"n")
    async with ScriptedOrigin(field.shop.path, parcels=True) as origin:
        await field.device.pull("n", origin.url)
        (field.shop.path / names.parcel_object("m", base, 2)).write_bytes(old)
        await field.device.pull("m", origin.url)
    assert field.device.files("m") == {"model.bin": NEW}
