"""A publisher that dies at any write leaves a whole store behind; verify finds a flipped byte in any object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelsync_protocol import bundle, names, trust
from modelsync_protocol.errors import RefusedError
from modelsync_server.publish.publisher import publish
from modelsync_server.publish.verifier import verify
from modelsync_server.store import MemoryStore
from modelsync_server.trust import Repository, initialise, read_catalogue
from tests.support.stores import Crashed, CrashingStore

OLD = np.random.default_rng(1).bytes(9000)
NEW = OLD[:4000] + b"a change" + OLD[4100:]


async def filled(tmp_path: Path, *contents: bytes) -> tuple[MemoryStore, str, Path]:
    """A store with `contents` as versions of `m`; its keys; the model's path."""
    store, keys, path = MemoryStore(), str(tmp_path / "keys"), tmp_path / "model.bin"
    await initialise(store, keys)
    for content in contents:
        path.write_bytes(content)
        await publish(store, keys, "m", path)
    return store, keys, path


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("before", [(), (OLD,)], ids=["first version", "next version"])
async def test_a_crash_at_any_write_leaves_a_store_that_is_whole_and_goes_on(
    tmp_path: Path, before: tuple[bytes, ...], after: bool
) -> None:
    store, keys, path = await filled(tmp_path, *before)
    untouched = dict(store.objects)
    path.write_bytes(NEW)
    for at in range(1, 30):
        store.objects.clear()
        store.objects.update(untouched)
        failing = CrashingStore(store, at, after=after)
        try:
            await publish(failing, keys, "m", path)
        except Crashed:
            pass
        else:
            break
        assert (await verify(store)).problems == (), f"write {at}"
        catalogue = await read_catalogue(store)
        versions = sorted(catalogue.models["m"].versions) if "m" in catalogue.models else []
        done = [*range(1, len(before) + 1)]
        assert versions in (done, [*done, len(done) + 1])
        again = await publish(store, keys, "m", path)
        assert again.version == len(done) + 1, "the same version, whether the crash was before or after its signature"
        assert [update.base for update in again.updates] == done
        assert (await verify(store)).problems == ()
        found = bundle.decode(store.objects[names.bundle_object("m")])
        assert again.manifest.encode() in found.role and found.offers
        assert found.timestamp == store.objects[trust.TIMESTAMP_OBJECT]
    assert at == failing.writes + 1 and at > 5, "each write of a publication was made to fail"


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


async def test_verify_finds_a_flipped_byte_in_every_kind_of_object(tmp_path: Path) -> None:
    store, _, _ = await filled(tmp_path, OLD, NEW, OLD + NEW)
    assert (await verify(store)).problems == ()
    good = dict(store.objects)
    current = (await read_catalogue(store)).metadata_objects
    kinds = set()
    for path, data in good.items():
        kind = path.partition("/")[0]
        if kind == "metadata" and path not in current:
            continue  # a signed past that no device asks for
        kinds.add(kind)
        # The last place is inside the payloads of an update, the signed text of metadata, the index of a manifest.
        for place in {len(data) // 2, len(data) * 3 // 4, len(data) - 3}:
            store.objects[path] = flipped(data, place)
            try:
                problems = (await verify(store)).problems
            except RefusedError:
                assert kind == "metadata"
                problems = ("refused",)
            assert problems, f"{path}: byte {place} of {len(data)} was flipped and nobody noticed"
            store.objects[path] = data
    assert kinds == {"metadata", "bundles", "manifests", "packs", "updates"}


async def test_verify_finds_every_missing_object_that_a_device_may_need(tmp_path: Path) -> None:
    store, _, _ = await filled(tmp_path, OLD, NEW)
    good = dict(store.objects)
    for path in good:
        if not path.startswith(("packs/", "manifests/")):
            continue
        del store.objects[path]
        problems = (await verify(store)).problems
        assert any(path in problem for problem in problems), path
        store.objects[path] = good[path]
    del store.objects[names.bundle_object("m")]
    assert (await verify(store)).problems == (), "a bundle is a cache"


async def test_a_damaged_version_does_not_spread_and_a_lost_bundle_comes_back(tmp_path: Path) -> None:
    store, keys, path = await filled(tmp_path, OLD)
    (pack,) = (name for name in store.objects if name.startswith("packs/"))
    store.objects[pack] = flipped(store.objects[pack], 4000)
    path.write_bytes(OLD + b"more")
    published = await publish(store, keys, "m", path)
    assert published.updates == (), "nothing is made from a version that does not decode"
    assert {problem.partition(":")[0] for problem in (await verify(store)).problems} == {
        f"{pack} is damaged",
        "m version 1",
    }
    await (await Repository.open(store, keys)).withdraw("m", 1)
    del store.objects[names.bundle_object("m")]
    assert (await publish(store, keys, "m", path)).version == 2
    assert names.bundle_object("m") in store.objects
