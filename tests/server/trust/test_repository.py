"""What the publisher's metadata promises: nothing lost, nothing dangling, small bundles."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelsync_protocol import bundle, trust
from modelsync_protocol.errors import FormatError, RefusedError, UsageError
from modelsync_server.store import DirectoryStore, MemoryStore, StoreConflict
from modelsync_server.trust import NewTarget, Repository, initialise, read_catalogue, signing
from modelsync_server.trust.metadata import read_state
from tests.support.trust_world import World, digest_of, forge, newest


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await World.make(tmp_path)


async def test_what_is_signed_is_listed_without_keys(world: World) -> None:
    await world.publish("anomaly", *range(1, 15))
    await (await world.repository()).withdraw("anomaly", 13)
    catalogue = await read_catalogue(world.store)
    model = catalogue.model("anomaly")
    assert model.versions == {version: digest_of("anomaly", version) for version in [*range(1, 13), 14]}
    assert (model.withdrawn, model.last, model.lengths[1]) == (frozenset({13}), 14, 1000)
    with pytest.raises(UsageError, match="no model 'other'"):
        catalogue.model("other")


async def test_the_role_lists_ten_and_the_archive_the_others(world: World) -> None:
    await world.publish("anomaly", *range(1, 13))
    await (await world.repository()).withdraw("anomaly", 12)
    objects = world.store.objects
    role = json.loads(objects[newest(objects, "anomaly")])["signed"]
    archive = json.loads(objects[newest(objects, "anomaly.archive")])["signed"]
    assert sorted(role["targets"]) == sorted(f"anomaly/{version}" for version in range(2, 12))
    assert list(archive["targets"]) == ["anomaly/1"]
    assert role["withdrawn"] == [12]


async def test_many_versions_of_many_models_are_one_commit(world: World) -> None:
    before = json.loads(world.store.objects[trust.TIMESTAMP_OBJECT])["signed"]["version"]
    targets = [NewTarget(model, number, digest_of(model, number), 5) for model in "abc" for number in (1, 2)]
    await (await world.repository()).add_targets(targets)
    after = json.loads(world.store.objects[trust.TIMESTAMP_OBJECT])["signed"]["version"]
    assert after == before + 1


async def test_signing_the_same_again_writes_nothing(world: World) -> None:
    await world.publish("anomaly", 1)
    before = world.copy()
    await world.publish("anomaly", 1)
    assert world.copy() == before


async def test_a_version_is_never_signed_for_two_contents(world: World) -> None:
    await world.publish("anomaly", 1, 2)
    repository = await world.repository()
    with pytest.raises(RefusedError, match="exists with another content"):
        await repository.add_targets([NewTarget("anomaly", 1, "f" * 64, 10)])
    await repository.withdraw("anomaly", 2)
    with pytest.raises(RefusedError, match="was withdrawn"):
        await world.publish("anomaly", 2)
    with pytest.raises(UsageError, match="no version 7"):
        await repository.withdraw("anomaly", 7)
    with pytest.raises(UsageError):
        await repository.withdraw("other", 1)


def test_odd_targets_are_refused_before_anything_is_signed() -> None:
    with pytest.raises(UsageError):
        NewTarget("../evil", 1, "f" * 64, 10)
    with pytest.raises(UsageError):
        NewTarget("a", 0, "f" * 64, 10)
    with pytest.raises(FormatError):
        NewTarget("a", 1, "F" * 64, 10)
    with pytest.raises(FormatError):
        NewTarget("a", 1, "f" * 64, 17 * 1024 * 1024)


async def test_custom_fields_are_signed_with_the_target(world: World) -> None:
    target = NewTarget("anomaly", 1, "f" * 64, 10, {"note": "first"})
    catalogue = await (await world.repository()).add_targets([target])
    assert catalogue.model("anomaly").custom == {1: {"note": "first"}}


@pytest.mark.parametrize("kind", ["memory", "directory"])
async def test_publishers_at_once_lose_nothing(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    store = MemoryStore() if kind == "memory" else DirectoryStore(folder)
    await initialise(store, str(tmp_path / "keys"))

    async def publisher(number: int) -> None:
        repository = await Repository.open(store, str(tmp_path / "keys"))
        for version in (1, 2):
            model = f"model-{number}"
            await repository.add_targets([NewTarget(model, version, digest_of(model, version), 10)])

    await asyncio.gather(*(publisher(number) for number in range(4)))
    catalogue = await read_catalogue(store)
    assert {name: sorted(model.versions) for name, model in catalogue.models.items()} == {
        f"model-{number}": [1, 2] for number in range(4)
    }
    snapshot = (await read_state(store)).snapshot.signed.meta
    for name in catalogue.models:
        role = await store.get(trust.metadata_object(name, snapshot[f"{name}.json"].version))
        assert bundle.decode(await store.get(f"bundles/{name}")).role == role


class Crash(Exception):
    """Stands for a power cut."""


class CrashingStore(MemoryStore):
    """Breaks off at the n-th write."""

    def __init__(self, objects: dict[str, bytes], writes: int) -> None:
        super().__init__()
        self.objects = objects
        self._left = writes

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Crash

    async def create(self, path: str, source: bytes | Path) -> None:
        self._count()
        await super().create(path, source)

    async def replace(self, path: str, data: bytes, if_etag: str) -> str:
        self._count()
        return await super().replace(path, data, if_etag)


async def test_a_crash_at_any_write_leaves_a_good_store_that_the_next_publisher_uses(world: World) -> None:
    await world.publish("anomaly", *range(1, 11))
    for writes in range(30):
        objects = world.copy()
        broken = CrashingStore(objects, writes)
        repository = await Repository.open(broken, str(world.keys))
        target = NewTarget("anomaly", 11, digest_of("anomaly", 11), 10)
        other = NewTarget("other", 1, digest_of("other", 1), 10)
        try:
            await repository.add_targets([target, other])
            break
        except Crash:
            pass
        after = MemoryStore()
        after.objects = objects
        catalogue = await read_catalogue(after)
        assert set(catalogue.model("anomaly").versions) in (set(range(1, 11)), set(range(1, 12)))
        assert catalogue.metadata_objects <= set(objects)
        again = await (await Repository.open(after, str(world.keys))).add_targets([target, other])
        assert set(again.model("anomaly").versions) == set(range(1, 12))
        assert bundle.decode(objects["bundles/other"]).timestamp == objects[trust.TIMESTAMP_OBJECT]
        world.served = objects
        assert world.device(f"after-{writes}").resolve("anomaly", None, world.fetch).version == 11
    assert writes > 6


async def test_an_interrupted_init_is_finished_by_the_next_and_a_second_init_is_refused(tmp_path: Path) -> None:
    keys = str(tmp_path / "keys")
    for writes in range(10):
        folder = f"{keys}-{writes}"
        broken = CrashingStore({}, writes)
        try:
            await initialise(broken, folder)
            break
        except Crash:
            pass
        if not broken.objects:
            continue
        after = MemoryStore()
        after.objects = broken.objects
        made = await initialise(after, folder)
        assert made.trust_file.read_bytes() == after.objects["metadata/1.root.json"]
        await (await Repository.open(after, folder)).add_targets([NewTarget("a", 1, "f" * 64, 1)])
    assert writes == 4
    with pytest.raises(UsageError, match="is a modelsync store already"):
        await initialise(after, folder)


async def test_an_unending_conflict_ends_in_try_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelsync_server.store import TagMismatch
    from modelsync_server.trust import repository as module

    monkeypatch.setattr(module, "_ATTEMPTS", 3)
    repository = await world.repository()

    async def always(path: str, data: bytes, if_etag: str) -> str:
        raise TagMismatch(path)

    monkeypatch.setattr(world.store, "replace", always)
    with pytest.raises(StoreConflict, match="try again"):
        await repository.refresh()


async def test_a_slower_publishers_bundle_does_not_replace_a_newer_one(world: World) -> None:
    from modelsync_server.trust.bundles import write_bundles
    from modelsync_server.trust.metadata import read_state

    await world.publish("anomaly", 1)
    slow = await read_state(world.store)
    await world.publish("anomaly", 2)
    newer = world.store.objects["bundles/anomaly"]
    await write_bundles(world.store, slow, None)
    assert world.store.objects["bundles/anomaly"] == newer


async def test_offers_are_kept_where_a_publisher_has_none(world: World) -> None:
    async def offers(model: str, versions: object) -> bytes | None:
        return b"offers of a" if model == "a" else None

    repository = await world.repository(offers)
    await repository.add_targets([NewTarget("a", 1, "f" * 64, 1)])
    await world.publish("b", 1)
    await (await world.repository()).refresh()
    assert bundle.decode(world.store.objects["bundles/a"]).offers == b"offers of a"
    assert bundle.decode(world.store.objects["bundles/b"]).offers == b""


async def test_a_damaged_bundle_is_written_anew(world: World) -> None:
    await world.publish("anomaly", 1)
    world.store.objects["bundles/anomaly"] = b"damaged"
    await (await world.repository()).refresh()
    assert bundle.decode(world.store.objects["bundles/anomaly"]).role


async def test_bundles_stay_small_in_a_store_of_20_models_with_100_versions(world: World) -> None:
    repository = await world.repository()
    models = [f"model-{number:02d}" for number in range(20)]
    await repository.add_targets(
        [
            NewTarget(model, number, digest_of(model, number), 900 + number)
            for model in models
            for number in range(1, 101)
        ]
    )
    sizes = [len(world.store.objects[f"bundles/{model}"]) for model in models]
    assert max(sizes) <= 800


async def test_refresh_makes_metadata_live_longer_and_warns_when_it_came_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.publish("anomaly", 1)
    assert (await (await world.repository()).refresh()).warnings == ()
    later = datetime.now(UTC) + timedelta(days=10)
    monkeypatch.setattr(signing, "now", lambda: later)
    report = await (await world.repository()).refresh()
    assert report.expires.date() == (later + timedelta(days=14)).date()
    assert len(report.warnings) == 1 and "timestamp was past its half-life" in report.warnings[0]
    world.served = world.store.objects
    assert world.device(clock=later.timestamp).resolve("anomaly", None, world.fetch).version == 1


async def test_refresh_signs_everything_past_its_half_life_or_asks_for_the_offline_keys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.publish("anomaly", 1)
    later = datetime.now(UTC) + timedelta(days=400)
    monkeypatch.setattr(signing, "now", lambda: later)
    (world.keys / "offline").rename(world.folder / "safe")
    warnings = (await (await world.repository()).refresh()).warnings
    assert [word in " ".join(warnings) for word in ("root metadata expires", "targets metadata expires")] == [
        True,
        True,
    ]
    (world.folder / "safe").rename(world.keys / "offline")
    assert (await (await world.repository()).refresh()).warnings == ()
    assert "metadata/2.root.json" in world.store.objects
    after = later + timedelta(days=10)
    assert world.device(clock=after.timestamp).resolve("anomaly", None, world.fetch).version == 1


async def test_an_expired_store_can_still_be_refreshed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.publish("anomaly", 1)
    later = datetime.now(UTC) + timedelta(days=60)
    monkeypatch.setattr(signing, "now", lambda: later)
    assert len((await (await world.repository()).refresh()).warnings) == 2
    assert world.device(clock=later.timestamp).resolve("anomaly", None, world.fetch).version == 1


async def test_a_new_model_needs_the_targets_key_and_an_old_one_does_not(world: World) -> None:
    await world.publish("anomaly", 1)
    (world.keys / "offline").rename(world.folder / "safe")
    await world.publish("anomaly", 2)
    before = world.copy()
    with pytest.raises(RefusedError, match="'other' is a new model and the targets key is not in"):
        await world.publish("other", 1)
    assert world.copy() == before


async def test_metadata_that_was_tampered_with_is_never_signed_again(world: World) -> None:
    await world.publish("anomaly", 1)
    path = newest(world.store.objects, "anomaly")

    def plant(signed: dict[str, object]) -> None:
        signed["targets"] = {"anomaly/1": {"hashes": {"sha256": "e" * 64}, "length": 1}}

    world.store.objects[path] = forge(world.store.objects[path], plant, None)
    with pytest.raises(RefusedError, match="not signed by its keys"):
        await world.publish("anomaly", 2)
    with pytest.raises(RefusedError, match="not signed by its keys"):
        await read_catalogue(world.store)


async def test_damaged_metadata_is_one_sentence(world: World) -> None:
    world.store.objects[trust.TIMESTAMP_OBJECT] = b"\0"
    with pytest.raises(RefusedError, match="timestamp metadata is damaged"):
        await world.publish("anomaly", 1)


async def test_metadata_in_use_is_named_for_the_garbage_collector(world: World) -> None:
    await world.publish("anomaly", 1)
    await world.publish("anomaly", 2)
    used = (await read_catalogue(world.store)).metadata_objects
    assert "metadata/1.root.json" in used and newest(world.store.objects, "anomaly") in used
    assert "metadata/1.anomaly.json" not in used
    world.served = {path: data for path, data in world.copy().items() if path in used}
    assert world.device().resolve("anomaly", None, world.fetch).version == 2
