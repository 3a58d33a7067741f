"""Rollouts at a real hub with a fleet of puppets: rings, gates, return, races, what hands did, what is left behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.rollout import acting, documents, reading, running, starting
from modelsync_server.rollout.gate import Gate
from modelsync_server.rollout.record import State
from modelsync_server.rollout.rings import bucket
from modelsync_server.rollout.target import Kind, Target
from tests.server.rollout.conftest import MODEL, QUICK, World
from tests.support.puppet_fleet import AWAY, NONSENSE, REFUSED, ROLLED_BACK, SLOW

RINGS = ["canary:tags.ring = 'canary'", "part:tags.ring = 'part'", "rest:*"]


def populate(world: World, version: int | None = 2, *, wish: bool = True) -> None:
    world.puppets.add([f"c{n}" for n in range(3)], version, wish=wish, ring="canary")
    world.puppets.add([f"p{n}" for n in range(10)], version, wish=wish, ring="part")
    world.puppets.add([f"r{n}" for n in range(20)], version, wish=wish)


async def test_a_good_release_goes_through_all_rings_and_one_configuration_is_left(world: World) -> None:
    populate(world)
    plan = await world.plan(RINGS)
    assert [(ring.devices, ring.shared) for ring in plan.rings] == [(3, 0), (10, 0), (20, 13)]
    await world.start(RINGS)
    await world.go()
    assert len(world.puppets.held(3)) == 33
    (left,) = await world.ids()
    assert left.endswith("-fleet")
    overview = await reading.overview(world.client)
    (wish,) = overview.wishes
    assert (wish.version, wish.where, wish.by) == (3, "*", "ann")
    assert not overview.rollouts
    assert sum(ring.spent or 0 for ring in wish.rings) == plan.bytes == sum(world.puppets.fetched.values())
    # Who comes later gets it too.
    world.puppets.add(["late"], None)
    world.puppets.answer()
    assert world.puppets.serving["late"] == 3


async def test_devices_hear_of_the_swap_to_the_wish_nothing(world: World) -> None:
    populate(world)
    await world.start(RINGS)
    await world.go()
    # Written by hand once, by the ring's configuration once; the fleet's wish changed nothing.
    assert {world.hub.desired(device)["$version"] for device in world.puppets.serving} == {3}


@pytest.mark.parametrize("fate", [REFUSED, ROLLED_BACK, NONSENSE])
async def test_a_bad_release_stops_in_its_ring_which_goes_back(world: World, fate: str) -> None:
    populate(world)
    world.behave(lambda device, version: fate if version == 3 and device in ("p1", "p2") else "active")
    await world.start(RINGS)
    said = await world.go()
    status = await world.status()
    assert status.record.state is State.STOPPED
    assert [ring.state for ring in status.rings] == ["passed", "returned", "waiting"]
    assert "part" in status.waits and "2 devices failed" in status.waits, said
    assert world.puppets.held(3) == ["c0", "c1", "c2"]
    assert all(world.puppets.asked[f"r{n}"] == [] for n in range(20))
    assert all(world.puppets.serving[f"p{n}"] == 2 for n in range(10))


async def test_what_was_set_by_hand_comes_back_device_by_device(world: World) -> None:
    world.puppets.add(["a"], 1, wish=True, ring="canary")
    world.puppets.add(["b"], 2, wish=True, ring="canary")
    world.puppets.add(["c"], None, ring="canary")
    world.puppets.add(["d"], 1, ring="canary")
    await world.start(["canary:tags.ring = 'canary'"])
    await running.step_all(world.client, None)
    world.puppets.answer()
    assert world.puppets.held(3) == ["a", "b", "c", "d"]
    await acting.abort(world.client, MODEL, by="ann", back=True)
    await world.go()
    assert world.puppets.serving == {"a": 1, "b": 2, "c": None, "d": 1}
    assert (await world.status()).record.state is State.RETURNED


@pytest.mark.parametrize("wish", [True, False])
async def test_a_ring_that_goes_back_takes_no_device_of_an_earlier_one_along(world: World, wish: bool) -> None:
    """`rest:*` holds for the canary too: it has passed, and keeps the version."""
    populate(world, wish=wish)
    world.behave(lambda device, version: REFUSED if version == 3 and device == "r1" else "active")
    await world.start(RINGS)
    await world.go()
    status = await world.status()
    assert [ring.state for ring in status.rings] == ["passed", "passed", "returned"]
    assert world.puppets.held(3) == sorted([*(f"c{n}" for n in range(3)), *(f"p{n}" for n in range(10))])
    assert [ring.counts.active for ring in status.rings[:2]] == [3, 10]
    # And back altogether, when an operator wants that.
    await acting.abort(world.client, MODEL, by="ann", back=True)
    await world.go()
    assert world.puppets.held(3) == []


async def test_after_a_return_the_next_release_goes_out_and_cleans_up(world: World) -> None:
    populate(world)
    world.behave(lambda device, version: REFUSED if version == 3 else "active")
    await world.start(RINGS)
    await world.go()
    world.behave(lambda device, version: "active")
    plan = await world.plan(RINGS, version=2)
    await starting.start(world.client, plan, by="ben", older=True)
    await world.go()
    (left,) = await world.ids()
    assert left.endswith("-fleet")
    assert len(world.puppets.held(2)) == 33


async def test_a_wish_from_before_is_what_a_ring_goes_back_to(world: World) -> None:
    populate(world)
    await world.start(RINGS)
    await world.go()
    version = world.hub.desired("c0")["$version"]
    await world.shop.publish_bytes(MODEL, b"another" * 1000)
    world.puppets.digests = {**world.puppets.digests, 4: "4" * 64}
    world.puppets.prices = {**world.puppets.prices, (3, 4): 5, (4, 3): 5}
    world.behave(lambda device, version: REFUSED if version == 4 and device == "c0" else "active")
    await world.start(RINGS, version=4)
    await world.go()
    assert not any("back" in each for each in await world.ids())
    assert world.puppets.held(3) == sorted(world.puppets.serving)
    assert world.hub.desired("c0")["$version"] == version + 2


async def test_a_fifth_of_the_fleet_that_never_comes_back_holds_nothing_up(world: World) -> None:
    world.behave(lambda device, version: AWAY if device.endswith("4") else "active")
    world.puppets.add([f"d{n}" for n in range(20)], 2, wish=True)
    gate = replace(QUICK, active=1.0)
    plan = await world.plan(["all:*"], gate=gate)
    assert (plan.rings[0].reachable, plan.rings[0].silent) == (18, 2)
    await world.start(["all:*"], gate=gate)
    await world.go()
    assert (await world.ids())[0].endswith("-fleet")
    assert len(world.puppets.held(3)) == 18
    world.behave(lambda device, version: "active")
    world.puppets.answer()
    assert len(world.puppets.held(3)) == 20


async def test_a_ring_that_takes_too_long_stops_and_can_be_given_more_time(world: World) -> None:
    world.puppets.add([f"d{n}" for n in range(4)], 2, wish=True)
    world.behave(lambda device, version: SLOW if device == "d1" and version == 3 else "active")
    gate = Gate(active=1.0, soak=0.0, wait=0.2)
    await world.start(["all:*"], gate=gate)
    await world.go()
    await asyncio.sleep(1.2)
    await world.go()
    status = await world.status()
    assert status.record.state is State.STOPPED
    assert "only 3 of the 4" in status.waits
    assert len(world.puppets.held(3)) == 3
    world.behave(lambda device, version: "active")
    world.puppets.told["d1"] = None
    await acting.resume(world.client, MODEL, by="ann")
    world.puppets.answer()
    await world.go()
    assert (await world.ids())[0].endswith("-fleet")


async def test_the_second_of_two_opposite_rollouts_is_refused_with_the_firsts_name(world: World) -> None:
    populate(world)
    first = await world.start(RINGS, by="ann")
    with pytest.raises(RefusedError, match=f"{first.rollout}.*ann"):
        await world.start(RINGS, version=2, by="ben")
    assert (await world.status()).record.version == 3


async def test_of_two_that_start_at_once_one_gets_through(world: World) -> None:
    populate(world)
    results = await asyncio.gather(world.start(RINGS, by="ann"), world.start(RINGS, by="ben"), return_exceptions=True)
    won = [each for each in results if not isinstance(each, BaseException)]
    lost = [each for each in results if isinstance(each, RefusedError)]
    assert (len(won), len(lost)) == (1, 1)
    assert (await world.status()).record.by in str(lost[0])


async def test_pause_holds_and_resume_goes_on(world: World) -> None:
    populate(world)
    await world.start(RINGS)
    await acting.pause(world.client, MODEL, by="ann")
    assert await world.go() == []
    assert world.puppets.held(3) == []
    await acting.resume(world.client, MODEL, by="ann")
    await world.go()
    assert len(world.puppets.held(3)) == 33


async def test_abort_leaves_who_was_asked_and_asks_nobody_else(world: World) -> None:
    populate(world)
    await world.start(RINGS)
    await running.step_all(world.client, None)
    world.puppets.answer()
    await acting.abort(world.client, MODEL, by="ann", back=False)
    await world.go()
    assert world.puppets.held(3) == ["c0", "c1", "c2"]
    assert (await world.status()).record.state is State.ABORTED
    await acting.abort(world.client, MODEL, by="ann", back=True)
    await world.go()
    assert world.puppets.held(3) == []


@pytest.mark.parametrize("what", ["deleted", "condition", "priority", "content"])
async def test_what_a_hand_did_to_a_ring_is_said_and_not_fought(world: World, what: str) -> None:
    populate(world)
    world.behave(lambda device, version: SLOW if version == 3 else "active")
    record = await world.start(RINGS)
    await world.go()
    identifier = documents.ring_id(record, 0)
    (there,) = [each for each in await world.client.configurations() if each["id"] == identifier]
    if what in ("deleted", "content"):
        await world.client.delete_configuration(identifier)
    if what == "content":
        body = {**documents.ring_body(record, 0), "content": Target().content(MODEL, {"version": 1})}
        await world.client.put_configuration(identifier, body)
    elif what != "deleted":
        key = "targetCondition" if what == "condition" else "priority"
        changed = {**there, key: "deviceId = 'c0'" if what == "condition" else 7}
        await world.client.put_configuration(identifier, changed, etag=there["etag"])
    by_hand = [each for each in await world.client.configurations() if each["id"] == identifier]
    await world.go()
    status = await world.status()
    assert status.record.state is State.PAUSED
    assert identifier in status.waits and "hand" in status.waits
    after = [each for each in await world.client.configurations() if each["id"] == identifier]
    assert [each["etag"] for each in after] == [each["etag"] for each in by_hand]
    world.behave(lambda device, version: "active")
    world.puppets.told = dict.fromkeys(world.puppets.told, None)
    await acting.resume(world.client, MODEL, by="ann")
    await world.go()
    assert len(world.puppets.held(3)) == 33


async def test_a_record_made_nonsense_by_hand_is_said_and_stops_only_itself(world: World) -> None:
    populate(world)
    await world.start(RINGS)
    (there,) = [each for each in await world.client.configurations() if each["id"] == documents.record_id(MODEL)]
    for key, value in (("state", "happy"), ("ring0", "[1]"), ("schema", "9"), ("options", "{}")):
        labels = {**there["labels"], key: value}
        there = await world.client.put_configuration(there["id"], {**there, "labels": labels}, etag=there["etag"])
        overview = await reading.overview(world.client)
        assert "by hand" in overview.damaged[MODEL]
        assert await world.go() == []
        with pytest.raises(UsageError, match="by hand"):
            await world.start(RINGS)


async def test_a_ring_that_nobody_is_in_and_one_that_others_have_are_refused(world: World) -> None:
    populate(world)
    with pytest.raises(UsageError, match="'nobody' is empty: no device"):
        await world.plan(["nobody:tags.ring = 'none'", "rest:*"])
    with pytest.raises(UsageError, match="all 3 of its devices are in earlier rings"):
        await world.plan(["canary:tags.ring = 'canary'", "again:deviceId IN ['c0', 'c1', 'c2']"])


async def test_who_is_in_two_rings_belongs_to_the_first(world: World) -> None:
    populate(world)
    rings = ["one:deviceId IN ['c0', 'p0']", "canary:tags.ring = 'canary'", "rest:*"]
    plan = await world.plan(rings)
    assert [(ring.devices, ring.shared) for ring in plan.rings] == [(2, 0), (2, 1), (29, 4)]
    world.behave(lambda device, version: SLOW if device == "c1" and version == 3 else "active")
    await world.start(rings)
    await world.go()
    assert [ring.counts.asked for ring in (await world.status()).rings] == [2, 2, 0]


async def test_percentages_are_planned_before_and_kept_after_buckets_are_written(world: World) -> None:
    devices = [f"car-{n:03}" for n in range(60)]
    world.puppets.add(devices, 2, wish=True)
    rings = ["all:10%,50%,100%"]
    expected = [sum(low <= bucket(each) < high for each in devices) for low, high in ((0, 1000), (1000, 5000))]
    expected.append(60 - sum(expected))
    first = await world.plan(rings)
    assert [ring.devices for ring in first.rings] == expected
    assert await world.ids() == []
    assert [(await world.client.twin(each))["tags"] for each in devices] == [{}] * 60
    gone = {each for each in devices if bucket(each) < 1000}
    world.behave(lambda device, version: SLOW if version == 3 and device not in gone else "active")
    await world.start(rings)
    await world.go()
    assert [ring.counts.asked for ring in (await world.status()).rings] == [expected[0], expected[1], 0]
    assert sorted(world.puppets.held(3)) == sorted(gone)
    world.puppets.add(["car-new"], 2, wish=True)
    again = await world.plan(rings)
    assert sum(ring.devices for ring in again.rings) == 61


async def test_a_long_list_is_tagged_and_an_unknown_device_named(world: World, tmp_path: Path) -> None:
    devices = [f"car-{n:03}" for n in range(120)]
    world.puppets.add(devices, 2, wish=True)
    (tmp_path / "ids").write_text("\n".join(devices[:110]))
    rings = [f"listed:@{tmp_path / 'ids'}", "rest:*"]
    world.behave(lambda device, version: SLOW if version == 3 and device == "car-000" else "active")
    await world.start(rings)
    await world.go()
    assert world.puppets.held(3) == devices[1:110]
    await acting.abort(world.client, MODEL, by="ann", back=True)
    await world.go()
    (tmp_path / "ids").write_text("\n".join([*devices[:110], "stranger"]))
    with pytest.raises(UsageError, match="stranger"):
        await world.start(rings)


async def test_an_older_version_needs_to_be_meant_and_a_withdrawn_or_unsigned_one_is_refused(world: World) -> None:
    populate(world)
    with pytest.raises(RefusedError, match="older"):
        await world.start(["all:*"], version=1)
    with pytest.raises(UsageError, match="signs no version 9"):
        await world.start(["all:*"], version=9)
    await (await world.shop.repository()).withdraw(MODEL, 3)
    with pytest.raises(RefusedError, match="withdrawn"):
        await world.start(["all:*"], version=3)


async def test_a_version_withdrawn_in_mid_rollout_opens_no_further_ring(world: World) -> None:
    populate(world)
    await world.start(RINGS)
    world.behave(lambda device, version: SLOW if version == 3 else "active")
    await world.go()
    await (await world.shop.repository()).withdraw(MODEL, 3)
    world.behave(lambda device, version: "active")
    world.puppets.told = dict.fromkeys(world.puppets.told, None)
    world.puppets.answer()
    await world.go()
    status = await world.status()
    assert status.record.state is State.PAUSED
    assert "withdrawn" in status.waits
    assert world.puppets.held(3) == ["c0", "c1", "c2"]


@pytest.mark.parametrize("kind", [Kind.MODULE, Kind.EDGE])
async def test_modules_and_edge_modules_are_rolled_out_and_returned_alike(world: World, kind: Kind) -> None:
    world.puppets.module = "modelsync"
    populate(world)
    target = Target(kind, "modelsync")
    world.behave(lambda device, version: REFUSED if version == 3 and device in ("p1", "p2") else "active")
    plan = await world.plan(RINGS, target=target)
    assert [(ring.devices, ring.reachable) for ring in plan.rings] == [(3, 3), (10, 10), (20, 20)]
    await world.start(RINGS, target=target)
    await world.go()
    status = await world.status()
    assert status.record.state is State.STOPPED, status.waits
    assert world.puppets.held(3) == ["c0", "c1", "c2"]
    assert len(world.puppets.held(2)) == 30
    assert all(world.puppets.asked[f"r{n}"] == [] for n in range(20))
    await acting.abort(world.client, MODEL, by="ann", back=True)
    await world.go()
    assert world.puppets.held(3) == []
