"""What an update of a real model costs: bit-exact, as predicted, as the wire says, and no dearer than a plain patch."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from modelsync_protocol.manifest import Manifest
from modelsync_server.publish import price
from modelsync_server.store import open_store
from modelsync_server.store.published import read_manifest
from tests.support.corpus import Pair, corpus_folder, corpus_pairs, own_pairs
from tests.support.pulling import Device
from tests.support.relay import Relay
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

_CORPUS = corpus_folder()
_QUICK = ("sk_logreg", "sk_ocsvm", "sk_logreg_onnx", "esphome_oknabu_v1", "haver_c100q_0164-0165")


def _patch_from(old: Path, new: Path, scratch: Path) -> int:
    """Bytes of `zstd -19 --long=31 --patch-from`."""
    out = scratch / "patch.zst"
    subprocess.run(
        ["zstd", "-q", "-f", "-19", "--long=31", f"--patch-from={old}", str(new), "-o", str(out)],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return out.stat().st_size


def _changed(old: Manifest, new: Manifest) -> int:
    held = {digest for _, _, digest in old.chunks()}
    return sum(digest not in held for _, _, digest in new.chunks())


async def _check(pair: Pair, scratch: Path) -> None:
    _, old, new = pair
    shop = await Shop.open(scratch)
    artifact = scratch / "artifact" / f"model{old.suffix}"
    artifact.parent.mkdir()
    shutil.copyfile(old, artifact)
    first = await shop.publish("m", artifact)
    device = Device(scratch / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin, Relay("127.0.0.1", origin.port) as relay:
        url = f"http://127.0.0.1:{relay.port}"
        installed = await device.pull("m", url)
        assert installed.plan.bytes == first.install_bytes == origin.object_bytes()
        assert device.files("m") == {artifact.name: old.read_bytes()}

        shutil.copyfile(new, artifact)
        second = await shop.publish("m", artifact)
        bodies, before = origin.body_bytes, relay.counts()
        objects, count = origin.object_bytes(), len(origin.objects())
        updated = await device.pull("m", url)

        assert device.files("m") == {artifact.name: new.read_bytes()}
        assert updated.plan.kind == "update"
        fetched = origin.object_bytes() - objects
        # Without parcels a device does not ask whether a small update stands there in a newer format too.
        made = second.updates[0]
        formats = 1 if made.older_bytes is not None and made.older_bytes <= 16 * 1024 else 2
        assert updated.plan.bytes == (made.older_bytes if formats == 1 else made.bytes) == fetched
        assert updated.plan.requests == second.updates[0].requests == len(origin.objects()) - count == 1
        store = open_store(str(shop.path))
        held, _, _ = await read_manifest(store, first.manifest)
        target, _, _ = await read_manifest(store, second.manifest)
        assert (await price.price(store, second.manifest, held, formats)).bytes == fetched

        seen = relay.counts() - before
        assert updated.wire.received == pytest.approx(seen.down, rel=0.02)
        assert updated.wire.sent == pytest.approx(seen.up, rel=0.02, abs=8)

        peer = _patch_from(old, new, scratch)
        allowance = 1800 + 40 * _changed(held, target)
        if held.size + target.size > 8 * 2**20:
            allowance += peer * 2 // 100
        assert origin.body_bytes - bodies <= peer + allowance
        assert device.leftovers() in ([], [str(device.data.root / "incoming" / "m")])


@pytest.mark.parametrize("pair", own_pairs(), ids=lambda pair: pair[0])
async def test_own_pair_costs_no_more_than_a_patch(pair: Pair, tmp_path: Path) -> None:
    await _check(pair, tmp_path)


@pytest.mark.skipif(_CORPUS is None, reason="no corpus of real model pairs: set MODELSYNC_CORPUS")
@pytest.mark.parametrize("name", _QUICK)
async def test_small_corpus_pair_costs_no_more_than_a_patch(name: str, tmp_path: Path) -> None:
    assert _CORPUS is not None
    folder = _CORPUS / name
    await _check((name, next(folder.glob("old.*")), next(folder.glob("new.*"))), tmp_path)


@pytest.mark.long
@pytest.mark.skipif(_CORPUS is None, reason="no corpus of real model pairs: set MODELSYNC_CORPUS")
async def test_every_corpus_pair_costs_no_more_than_a_patch(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    failures = []
    for pair in corpus_pairs(tmp_path_factory.mktemp("corpus")):
        scratch = tmp_path / pair[0]
        scratch.mkdir()
        try:
            await _check(pair, scratch)
        except AssertionError as error:
            failures.append(f"{pair[0]}: {error}")
        shutil.rmtree(scratch)
    assert not failures, "\n".join(failures)


async def test_overhead_stays_the_same_in_a_store_of_20_models_with_100_versions(tmp_path: Path) -> None:
    from modelsync_server.trust import NewTarget

    shop = await Shop.open(tmp_path)
    repository = await shop.repository()
    filler = [
        NewTarget(f"model-{number}", version, f"{number * 1000 + version:064x}", 300)
        for number in range(19)
        for version in range(1, 101)
    ]
    filler += [NewTarget("m", version, f"{version:064x}", 300) for version in range(1, 99)]
    await repository.add_targets(filler)
    _, old, new = own_pairs()[0]
    await shop.publish_bytes("m", old.read_bytes(), "model.pkl")
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await device.pull("m", origin.url)
        published = await shop.publish_bytes("m", new.read_bytes(), "model.pkl")
        assert published.version == 100
        bodies = origin.body_bytes
        updated = await device.pull("m", origin.url)
        assert updated.plan.kind == "update"
        assert device.files("m") == {"model.pkl": new.read_bytes()}
        assert origin.body_bytes - bodies <= _patch_from(old, new, tmp_path) + 1800 + 40
