"""Which bytes a device fetches: only what is missing, whatever it holds."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.support.pulling import Device
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

KIB = 1024


def noise(seed: int, size: int) -> bytes:
    """Bytes that don't compress."""
    return random.Random(seed).randbytes(size)


async def test_one_changed_file_of_2000_costs_its_delta_and_at_most_three_requests(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    tree = tmp_path / "tree"
    for number in range(2000):
        folder = tree / f"package{number % 40:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"module{number:04}.py").write_bytes(noise(number, 40).hex().encode() * 4)
    (tree / "package00" / "tool").symlink_to("module0000.py")
    (tree / "package00" / "empty").touch()
    (tree / "package01" / "run").write_bytes(b"#!/bin/sh\n")
    (tree / "package01" / "run").chmod(0o755)
    await shop.publish("env", tree)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        first = await device.pull("env", origin.url)
        changed = tree / "package07" / "module0007.py"
        changed.write_bytes(changed.read_bytes() + b"print('new')\n")
        await shop.publish("env", tree)
        before, count = origin.object_bytes(), len(origin.exchanges)
        second = await device.pull("env", origin.url)
        assert origin.object_bytes() - before < 1000
        assert len(origin.exchanges) - count <= 4, "two of them for parcels, which this origin does not have"
        assert second.plan.kind == "update"
    root = second.path
    assert (root / "package07" / "module0007.py").read_bytes() == changed.read_bytes()
    assert (root / "package00" / "tool").readlink() == Path("module0000.py")
    assert (root / "package00" / "empty").read_bytes() == b""
    assert os.access(root / "package01" / "run", os.X_OK)
    linked = [f"package{n % 40:02}/module{n:04}.py" for n in range(2000) if n != 7]
    assert all((root / path).samefile(first.path / path) for path in linked), "unchanged files are hard links"
    assert not (root / "package07" / "module0007.py").samefile(first.path / "package07" / "module0007.py")


async def test_device_that_skipped_versions_fetches_only_what_is_missing(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    blocks = [noise(n, 64 * KIB) for n in range(12)]
    await shop.publish_bytes("m", b"".join(blocks))
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
        for version in range(7):
            blocks[version] = noise(100 + version, 64 * KIB)
            published = await shop.publish_bytes("m", b"".join(blocks))
        assert 1 not in [update.base for update in published.updates], "version 1 is too old for an update object"
        before = origin.object_bytes()
        prepared = await device.pull("m", origin.url)
        fetched = origin.object_bytes() - before
    assert prepared.plan.kind == "chunks"
    assert prepared.plan.bytes == fetched
    assert device.files("m") == {"model.bin": b"".join(blocks)}
    assert 7 * 64 * KIB < fetched < 7 * 64 * KIB + 150 * KIB


async def test_device_that_holds_another_model_with_shared_chunks_fetches_only_the_rest(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    shared, own, other = noise(1, 2048 * KIB), noise(2, 256 * KIB), noise(3, 256 * KIB)
    await shop.publish_bytes("first", shared + own)
    await shop.publish_bytes("second", other + shared)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("first", origin.url)
        before = origin.object_bytes()
        prepared = await device.pull("second", origin.url)
        fetched = origin.object_bytes() - before
    assert device.files("second") == {"model.bin": other + shared}
    assert prepared.plan.kind == "chunks"
    assert prepared.plan.bytes == fetched < 256 * KIB + 300 * KIB


async def test_same_bytes_under_another_number_cost_nothing(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    for content in (b"one" * 1000, b"two" * 1000, b"one" * 1000):
        await shop.publish_bytes("m", content)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url, 1)
        before = origin.object_bytes()
        third = await device.pull("m", origin.url, 3)
        assert origin.object_bytes() == before
    assert (third.plan.kind, third.plan.bytes) == ("held", 0)
    assert third.path.name.startswith("3-")


async def test_version_that_is_not_the_newest_is_reached_by_its_update(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    data = bytearray(noise(5, 512 * KIB))
    for version in range(6):
        data[1000 * version] ^= 1
        await shop.publish_bytes("m", bytes(data))
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url, 1)
        prepared = await device.pull("m", origin.url, 2)
    assert prepared.plan.kind == "update"
    assert prepared.plan.bytes < 2000
    assert prepared.version == 2


async def test_budget_is_checked_before_the_first_byte(tmp_path: Path) -> None:
    import pytest

    from modelsync_daemon.build.request import OverBudget

    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", noise(1, 300 * KIB))
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        with pytest.raises(OverBudget):
            await device.pull("m", origin.url, byte_limit=100 * KIB)
        fetched = [exchange.path for exchange in origin.exchanges if exchange.method == "GET"]
        assert not [path for path in fetched if path.startswith(("packs/", "updates/"))]
        await device.pull("m", origin.url, byte_limit=400 * KIB)


async def test_files_with_odd_but_legal_names_and_modes_arrive_as_they_are(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    tree = tmp_path / "tree"
    (tree / "ä b").mkdir(parents=True)
    (tree / "ä b" / "model ü.onnx").write_bytes(b"x" * 70000)
    (tree / "ä b" / "secret").write_bytes(b"y")
    (tree / "ä b" / "secret").chmod(0o600)
    (tree / "hollow").mkdir()
    await shop.publish("m", tree)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        prepared = await device.pull("m", origin.url)
    assert device.files("m") == {"ä b/model ü.onnx": b"x" * 70000, "ä b/secret": b"y"}
    assert (prepared.path / "ä b" / "secret").stat().st_mode & 0o777 == 0o600
    assert (prepared.path / "hollow").is_dir()
