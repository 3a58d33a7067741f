"""Updates of compressed containers: made on their plain bytes, packed again by the device to the very bytes."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelsync_daemon.disk import zlib_verdict
from modelsync_protocol.plain import recipes
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
    assert not report.problems and report.updates >= 1


async def test_unchanged_files_are_linked_and_unchanged_members_copied(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "a_large_file.bin").write_bytes(np.random.default_rng(1).bytes(700_000))
    (artifact / "b.npz").write_bytes(packed_models.npz(packed_models.weights(1)))
    (artifact / "z_other.bin").write_bytes(np.random.default_rng(2).bytes(300_000))
    changed = {**packed_models.weights(1), "b": packed_models.weights(1, 1e-4)["b"]}
    await shop.publish("m", artifact)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        first = await device.pull("m", origin.url)
        (artifact / "b.npz").write_bytes(packed_models.npz(changed))
        await shop.publish("m", artifact)
        second = await device.pull("m", origin.url)
    assert device.files("m")["b.npz"] == packed_models.npz(changed)
    assert second.plan.bytes < 60_000, "one of four members changed a little"
    for name in ("a_large_file.bin", "z_other.bin"):
        assert (first.path / name).samefile(second.path / name)


def _other_zlib(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A zlib that compresses otherwise, from `after` plain bytes of a member on."""

    class Compressor:
        def __init__(self, level: int, *more: Any) -> None:
            self._ways = [zlib.compressobj(way, *more) for way in (level, 1 if level > 2 else 9)]
            self._seen = 0

        def compress(self, data: bytes) -> bytes:
            self._seen += len(data)
            first, second = (way.compress(data) for way in self._ways)
            return second if self._seen > after else first

        def flush(self, *mode: int) -> bytes:
            first, second = (way.flush(*mode) for way in self._ways)
            return second if self._seen > after else first

    other: Any = SimpleNamespace(**{name: getattr(zlib, name) for name in dir(zlib)})
    other.compressobj = Compressor
    monkeypatch.setattr(recipes, "zlib", other)


async def test_a_device_with_another_zlib_takes_another_way_and_fetches_no_payload_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await Shop.open(tmp_path)
    old, new = (packed_models.npz(packed_models.weights(1, step)) for step in (0.0, 1e-4))
    await shop.publish_bytes("m", old, "model.npz")
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        _other_zlib(monkeypatch, 0)
        await device.pull("m", origin.url)
        assert origin.object_bytes() < len(old) + 20_000
        monkeypatch.undo()
        await shop.publish_bytes("m", new, "model.npz")
        _other_zlib(monkeypatch, 0)
        before = origin.object_bytes()
        await device.pull("m", origin.url)
        assert origin.object_bytes() - before < len(new) + 20_000
    assert device.files("m") == {"model.npz": new}
    assert zlib_verdict.read(device.data.zlib_verdict) is False


async def test_a_zlib_that_differs_unforeseen_is_mended_from_packs_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await Shop.open(tmp_path)
    versions = [packed_models.npz(packed_models.weights(1, step, rows=700)) for step in (0.0, 1e-4, 2e-4)]
    await shop.publish_bytes("m", versions[0], "model.npz")
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
        await shop.publish_bytes("m", versions[1], "model.npz")
        _other_zlib(monkeypatch, 300_000)  # more than the reference looks at
        await device.pull("m", origin.url)
        assert device.files("m") == {"model.npz": versions[1]}
        assert zlib_verdict.read(device.data.zlib_verdict) is False
        monkeypatch.undo()
        await shop.publish_bytes("m", versions[2], "model.npz")
        _other_zlib(monkeypatch, 300_000)
        before = origin.object_bytes()
        await device.pull("m", origin.url)
        assert origin.object_bytes() - before < len(versions[2]) + 20_000, "bytes were fetched in vain"
    assert device.files("m") == {"model.npz": versions[2]}
