"""What docs/sites.md says happens: two sites of one name, a network in two parts, clocks that differ, a full table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelsync_daemon.disk import spool as spools
from tests.support.addresses import free_port
from tests.support.neighbours import Neighbour, Site, all_pull, noise
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

KIB = 1024


def know(neighbours: Sequence[Neighbour], *others: str) -> None:
    """These know of each other, and of addresses where nobody is."""
    addresses = [neighbour.access.me for neighbour in neighbours]
    for neighbour in neighbours:
        peers = tuple(address for address in addresses if address != neighbour.access.me)
        neighbour.access = replace(neighbour.access, peers=(*peers, *others))


def gone() -> str:
    """An address where nobody is."""
    return f"127.0.0.1:{free_port()}"


async def test_two_sites_of_one_name_help_each_other_and_each_gets_its_own(tmp_path: Path) -> None:
    """Two publishers with a model of the same name, and devices of both that take each other for neighbours."""
    shops = [await Shop.open(tmp_path / name) for name in ("one", "other")]
    models = [noise(150 * KIB), noise(150 * KIB)]
    for shop, data in zip(shops, models, strict=True):
        await shop.publish_bytes("m", data)
    async with (
        ScriptedOrigin(shops[0].path, parcels=True) as first,
        ScriptedOrigin(shops[1].path, parcels=True) as second,
        Site(tmp_path / "a", shops[0].trust, 2) as ours,
        Site(tmp_path / "b", shops[1].trust, 2) as theirs,
    ):
        know([*ours, *theirs])
        await asyncio.gather(all_pull(ours, "m", first.url), all_pull(theirs, "m", second.url))
        for devices, data, origin in ((ours, models[0], first), (theirs, models[1], second)):
            assert all(device.device.files("m") == {"model.bin": data} for device in devices)
            assert sum(device.device.listener.wasted for device in devices) == 0
            assert origin.body_bytes < 1.2 * len(data), "each once"


async def test_devices_of_a_site_of_another_name_are_refused(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    data = noise(150 * KIB)
    await shop.publish_bytes("m", data)
    async with ScriptedOrigin(shop.path) as origin, Site(tmp_path / "a", shop.trust, 2) as (first, second):
        await first.pull("m", origin.url)
        second.access = replace(second.access, name="another")
        await second.pull("m", origin.url)
        assert second.device.files("m") == {"model.bin": data}
        assert second.device.listener.received > 150 * KIB


async def test_each_part_of_a_split_network_fetches_once_and_goes_on_when_it_heals(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    old = noise(200 * KIB)
    await shop.publish_bytes("m", old)
    async with ScriptedOrigin(shop.path) as origin, Site(tmp_path / "site", shop.trust, 4) as devices:
        for part in (devices[:2], devices[2:]):
            know(part, gone(), gone())
        await all_pull(devices, "m", origin.url)
        assert origin.object_bytes() <= 2 * 1.1 * 200 * KIB
        know(devices)
        new = noise(200 * KIB)
        await shop.publish_bytes("m", new)
        origin.exchanges.clear()
        await all_pull(devices, "m", origin.url, 2)
        assert origin.object_bytes() <= 1.1 * 200 * KIB
        assert all(device.device.files("m") == {"model.bin": new} for device in devices)


@pytest.mark.parametrize("hours", [-5000, 5000])
async def test_a_neighbour_whose_clock_was_wrong_shares_objects_and_no_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """How old its copies are it can't know once its clock was put right; what others' clocks say matters to nobody."""
    shop = await Shop.open(tmp_path)
    data = noise(150 * KIB)
    await shop.publish_bytes("m", data)
    async with ScriptedOrigin(shop.path) as origin, Site(tmp_path / "site", shop.trust, 2) as (first, second):
        with monkeypatch.context() as wrong:
            wrong.setattr(spools, "time", SimpleNamespace(time=lambda: time.time() + 3600 * hours))
            await first.pull("m", origin.url)
        before = origin.object_bytes()
        origin.exchanges.clear()
        await second.pull("m", origin.url)
        assert second.device.files("m") == {"model.bin": data}
        assert before > 150 * KIB and origin.object_bytes() == 0, "objects have no age"
        assert "bundles/m" in [exchange.path for exchange in origin.exchanges]
