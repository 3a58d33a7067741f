"""A chain for each model: what a publication costs grows with no other model, and daemons of any age are served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelsync_protocol import bundle, trust
from modelsync_protocol.errors import FormatError, RefusedError, UnreachableError, UsageError
from modelsync_server.store import MemoryStore
from modelsync_server.trust import NewTarget, Repository, catalogue_for, give_own_chains, read_catalogue, rotation
from tests.support.stores import CountingStore, Crashed, CrashingStore
from tests.support.trust_world import World, digest_of, forge, without_bundles

LATER = "later"


@pytest.fixture
async def world(tmp_path: Path) -> World:
    """As many models as the shared chain takes, and one that came later."""
    world = await World.make(tmp_path)
    targets = [NewTarget(name, 1, digest_of(name, 1), 1000) for name in shared()]
    await (await world.repository()).add_targets(targets)
    await world.publish(LATER, 1, 2)
    return world


def shared() -> list[str]:
    return [f"model-{number:02d}" for number in range(trust.SHARED_MODELS)]


def own_files(world: World) -> set[str]:
    return {path for path in world.store.objects if f".{LATER}." in path or path.startswith(f"bundles/{LATER}")}


async def test_models_beyond_the_shared_chain_are_listed_and_resolved_like_the_others(world: World) -> None:
    catalogue = await read_catalogue(world.store)
    assert set(catalogue.models) == {*shared(), LATER}
    assert catalogue.model(LATER).versions == {version: digest_of(LATER, version) for version in (1, 2)}
    assert catalogue.metadata_objects <= set(world.store.objects)
    assert (await catalogue_for(world.store, LATER)).model(LATER) == catalogue.model(LATER)
    with pytest.raises(UsageError, match="did you mean 'later'"):
        await catalogue_for(world.store, "latr")
    device = world.device()
    assert device.resolve(LATER, None, world.fetch).version == 2
    assert device.resolve("model-00", None, world.fetch).version == 1
    await world.publish(LATER, 3)
    world.asked.clear()
    assert device.resolve(LATER, None, world.fetch).version == 3
    assert world.asked == [f"bundles/{LATER}"], "the usual refresh is one request"
    world.served = without_bundles(world.copy()) | {
        trust.timestamp_object(LATER): world.store.objects[trust.timestamp_object(LATER)]
    }
    assert world.device("another").resolve(LATER, None, world.fetch).version == 3


async def test_a_publication_asks_as_much_of_a_store_of_any_size_and_touches_no_other_model(tmp_path: Path) -> None:
    costs = []
    for number, others in enumerate((trust.SHARED_MODELS, 4 * trust.SHARED_MODELS)):
        world = await World.make(tmp_path / str(number))
        for other in range(others):
            await world.publish(f"other-{other}", 1, 2)
        for version in (1, 2):
            before = world.copy()
            counting = CountingStore(world.store)
            repository = await Repository.open(counting, str(world.keys))
            await repository.add_targets([NewTarget("new", version, digest_of("new", version), 1000)])
            costs.append((number, version, counting.calls, counting.bytes))
            assert {path for path, data in before.items() if world.store.objects[path] != data} <= {
                "bundles/new.timestamp.json",
                *(path for path in before if path.startswith("bundles/new")),
            }
    few, many = costs[:2], costs[2:]
    for (_, _, calls, moved), (_, _, more_calls, more_moved) in zip(few, many, strict=True):
        assert calls == more_calls, "requests"
        assert abs(moved - more_moved) <= 0.05 * moved, "bytes both ways"


async def test_a_check_in_carries_one_line_whatever_else_the_store_has(world: World) -> None:
    found = bundle.decode(world.store.objects[f"bundles/{LATER}"])
    assert found.own and set(json.loads(found.snapshot)["signed"]["meta"]) == {f"{LATER}.json", "targets.json"}
    assert len(world.store.objects[f"bundles/{LATER}"]) < len(world.store.objects["bundles/model-00"])


async def test_withdraw_refresh_and_new_keys_reach_own_chains(world: World) -> None:
    repository = await world.repository()
    assert (await repository.withdraw(LATER, 2)).model(LATER).withdrawn == {2}
    device = world.device()
    with pytest.raises(RefusedError, match="withdrawn"):
        device.resolve(LATER, 2, world.fetch)
    before = world.store.objects[trust.timestamp_object(LATER)]
    await repository.refresh()
    assert world.store.objects[trust.timestamp_object(LATER)] != before
    for role in ("online", "targets", "root"):
        await rotation.rotate(repository, role)
        assert device.resolve(LATER, None, world.fetch).version == 1
        assert device.resolve("model-01", None, world.fetch).version == 1
    await world.publish(LATER, 3)
    assert device.resolve(LATER, None, world.fetch).version == 3


async def test_a_crash_at_any_write_is_finished_by_the_next_publication(world: World) -> None:
    untouched = world.copy()
    targets = [NewTarget("fresh", 1, digest_of("fresh", 1), 10), NewTarget(LATER, 3, digest_of(LATER, 3), 10)]
    for after in (False, True):
        for at in range(1 + after, 60, 2):
            store = MemoryStore()
            store.objects = dict(untouched)
            try:
                failing = CrashingStore(store, at, after=after)
                await (await Repository.open(failing, str(world.keys))).add_targets(targets)
                break
            except Crashed:
                pass
            assert set((await read_catalogue(store)).model(LATER).versions) in ({1, 2}, {1, 2, 3})
            await (await Repository.open(store, str(world.keys))).add_targets(targets)
            world.served = store.objects
            device = world.device(f"{after}-{at}")
            assert device.resolve("fresh", None, world.fetch).version == 1
            assert device.resolve(LATER, None, world.fetch).version == 3
        assert at > 8


async def test_one_chains_files_are_not_taken_for_anothers(world: World) -> None:
    """All chains are signed by the same keys; what tells them apart is a signed name."""
    await world.publish("twin", 1, 2)
    objects = world.copy()
    for role in ("snapshot", "targets"):
        path = trust.metadata_object(trust.chain_role(role, LATER), 1)
        swapped = without_bundles(objects)
        swapped[trust.timestamp_object(LATER)] = objects[trust.timestamp_object(LATER)]
        number = json.loads(objects[f"bundles/{LATER}.timestamp.json"])["signed"]["meta"]["snapshot.json"]["version"]
        path = trust.metadata_object(trust.chain_role(role, LATER), number if role == "snapshot" else 1)
        swapped[path] = objects[path.replace(LATER, "twin")]
        world.served = swapped
        with pytest.raises(RefusedError, match="another model's"):
            world.device(role).resolve(LATER, None, world.fetch)
    world.served = {**without_bundles(objects), trust.TIMESTAMP_OBJECT: objects[trust.timestamp_object(LATER)]}
    with pytest.raises(RefusedError, match="another model's"):
        world.device("shared").resolve("model-00", None, world.fetch)
    world.served = {**objects, f"bundles/{LATER}": objects["bundles/twin"]}
    assert world.device("bundle").resolve(LATER, None, world.fetch).digest == digest_of(LATER, 2)


async def test_rollback_of_an_own_chain_is_refused(world: World) -> None:
    old = world.copy()
    await world.publish(LATER, 3)
    device = world.device()
    device.resolve(LATER, None, world.fetch)
    world.served = old
    with pytest.raises(RefusedError, match="older metadata"):
        device.resolve(LATER, None, world.fetch)


async def test_moving_every_model_serves_new_daemons_at_every_moment_and_never_leads_back(world: World) -> None:
    await world.publish("model-00", *range(2, 13))
    repository = await world.repository()
    device = world.device()
    assert device.resolve("model-00", None, world.fetch).version == 12
    before = world.copy()
    assert await give_own_chains(repository) == shared()
    after = world.copy()
    assert device.resolve("model-00", None, world.fetch).version == 12
    assert device.resolve("model-00", 1, world.fetch).version == 1, "its archive came along"
    await world.publish("model-00", 13)
    await world.publish("newest", 1)
    assert device.resolve("model-00", None, world.fetch).version == 13
    assert set((await read_catalogue(world.store)).models) == {*shared(), LATER, "newest"}
    world.served = before  # what a stale cache or a liar still has
    with pytest.raises(UnreachableError, match="the origin has no bundles/model-00"):
        device.resolve("model-00", 13, world.fetch)
    assert await give_own_chains(repository) == [], "there is nothing more to move"
    shared_signed = json.loads(after[trust.TIMESTAMP_OBJECT])["signed"]
    assert shared_signed[trust.OWN_CHAINS] is True
    await repository.refresh()


async def test_a_move_that_breaks_off_anywhere_is_finished_by_the_next(world: World) -> None:
    untouched = world.copy()
    for at in range(1, 140, 11):
        store = MemoryStore()
        store.objects = dict(untouched)
        try:
            await give_own_chains(await Repository.open(CrashingStore(store, at, after=False), str(world.keys)))
            break
        except Crashed:
            pass
        world.served = store.objects
        assert world.device(f"broken-{at}").resolve("model-03", None, world.fetch).version == 1
        await (await Repository.open(store, str(world.keys))).add_targets(
            [NewTarget("model-03", 2, digest_of("model-03", 2), 1000)]
        )
        await give_own_chains(await Repository.open(store, str(world.keys)))
        assert set((await read_catalogue(store)).model("model-03").versions) == {1, 2}
        assert world.device(f"whole-{at}").resolve("model-03", None, world.fetch).version == 2


async def test_the_first_own_chain_must_not_lead_behind_what_the_shared_one_said(world: World) -> None:
    repository = await world.repository()
    await give_own_chains(repository)
    moved = world.copy()
    device = world.device()
    kept = world.folder / "device"
    # A device that has seen role version 9 in the shared chain, and has met no own chain yet.
    device.resolve(LATER, None, world.fetch)
    snapshot = json.loads(moved[f"metadata/{_shared_snapshot(moved)}.snapshot.json"])
    snapshot["signed"]["meta"]["model-00.json"]["version"] = 9
    (kept / "snapshot.json").write_bytes(json.dumps(snapshot).encode())
    with pytest.raises(RefusedError, match="older metadata"):
        device.resolve("model-00", None, world.fetch)


def _shared_snapshot(objects: dict[str, bytes]) -> int:
    number: int = json.loads(objects[trust.TIMESTAMP_OBJECT])["signed"]["meta"]["snapshot.json"]["version"]
    return number


def test_a_reader_of_format_1_does_not_read_an_own_bundle() -> None:
    made = bundle.encode(bundle.Bundle(1, 1, b"{}", b"{}", b"{}", own=True))
    assert made[0] == 2 and bundle.decode(made).own
    with pytest.raises(FormatError):
        bundle.decode(b"\x01" + made[1:] + b"x")


async def test_own_metadata_that_was_tampered_with_is_never_signed_again(world: World) -> None:
    path = trust.timestamp_object(LATER)
    world.store.objects[path] = forge(world.store.objects[path], lambda signed: signed.update(version=99), None)
    with pytest.raises(RefusedError, match="not signed by its keys"):
        await world.publish(LATER, 3)
    world.store.objects[path] = world.store.objects[trust.TIMESTAMP_OBJECT]
    with pytest.raises(RefusedError, match="another model's"):
        await world.publish(LATER, 3)
