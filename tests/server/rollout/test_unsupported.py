"""A fleet of which a part can't run the version: told apart in plan, gate and pushes, and nobody is blamed for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelsync_server.cli import rollout_text
from modelsync_server.rollout import planning, reading, record
from modelsync_server.rollout.gate import Counts, Gate, Verdict, judge
from modelsync_server.rollout.pushing import push_ring
from modelsync_server.rollout.record import State
from modelsync_server.rollout.target import Kind, Target
from modelsync_server.store import open_store
from tests.server.rollout.conftest import MODEL, World
from tests.support.puppet_fleet import ACTIVE, REFUSED, UNSUPPORTED

OLD = "arch=aarch64 memory=900 python=3.11.2 onnxruntime=1.16.3"
NEW = "arch=aarch64 memory=900 python=3.13.5 onnxruntime=1.23.2"
RINGS = ["canary:tags.ring = 'canary'", "rest:*"]
STRICT = Gate(active=1.0, failures=0.0, soak=0.0, wait=3600.0)


def half(device: str, version: int) -> str:
    """Every second device can't run version 3."""
    return UNSUPPORTED if version == 3 and int(device[1:]) % 2 else ACTIVE


def populate(world: World) -> None:
    world.behave(half)
    world.puppets.add([f"c{n}" for n in range(4)], 2, wish=True, ring="canary")
    world.puppets.add([f"r{n}" for n in range(10)], 2, wish=True)


async def test_half_of_a_fleet_can_not_run_it_and_the_other_half_gets_it(world: World) -> None:
    populate(world)
    await world.start(RINGS, gate=STRICT)
    said = await world.go()
    assert sorted(world.puppets.held(3)) == ["c0", "c2", "r0", "r2", "r4", "r6", "r8"], said
    (left,) = await world.ids()
    assert left.endswith("-fleet"), said
    (wish,) = (await reading.overview(world.client)).wishes
    assert [ring.counts.unsupported for ring in wish.rings if ring.counts] == [2, 5]
    assert any("2 devices are active, 0 failed (2 devices can't run it)" in line for line in said), said
    assert sum(world.puppets.fetched[f"r{n}"] for n in (1, 3, 5, 7, 9)) == 0


async def test_status_shows_them_apart_from_failures_which_still_stop_it(world: World) -> None:
    populate(world)
    world.behave(lambda device, version: REFUSED if version == 3 and device == "c2" else half(device, version))
    await world.start(RINGS, gate=replace(STRICT, returns=False))
    await world.go()
    status = await world.status()
    assert status.record.state is State.STOPPED and "1 device failed (1 refused, 0 rolled back)" in status.waits
    counts = status.rings[0].counts
    assert (counts.asked, counts.active, counts.unsupported, counts.failed) == (4, 1, 2, 1)
    shown = reading.document(status)["rings"][0]
    assert (shown["unsupported"], shown["failed"], shown["needed"]) == (2, 1, 2)
    assert "1 failed, 2 can't run it" in rollout_text.status(status)


async def test_the_plan_says_before_who_reports_not_to_be_able(world: World) -> None:
    for number in range(4):
        world.puppets.runs_on[f"c{number}"] = OLD if number % 2 else NEW
    world.puppets.add([f"c{n}" for n in range(5)], 2, wish=True, ring="canary")
    path = world.shop.root / "artifacts" / "model.bin"
    await world.shop.publish(MODEL, path, requires={"onnx.opset": "21"})
    plan = await world.plan(["canary:tags.ring = 'canary'"])
    (ring,) = plan.rings
    why = "ONNX opset 21 is required, which takes onnxruntime 1.18 or newer; onnxruntime 1.16.3 is here"
    assert dict(ring.lacks) == {why: 2} and (ring.reachable, ring.unsupported, ring.devices) == (3, 2, 5)
    document = planning.document(plan)["rings"]
    assert isinstance(document, list) and document[0]["unreachable"]["unsupported"] == 2
    text = rollout_text.plan(plan)
    assert f"       2 can't run it: {why}" in text and "3 can take it" in text and "not now: 2 can't run it" in text
    # The devices find the same, and the gate counts on those that the plan called reachable.
    world.behave(half)
    await world.start(["canary:tags.ring = 'canary'"], gate=STRICT)
    await world.go()
    assert world.puppets.held(3) == ["c0", "c2", "c4"]
    again = await world.plan(["canary:tags.ring = 'canary'"])
    assert dict(again.rings[0].lacks) == {"they report that they can't run it": 2}


async def test_nothing_is_pushed_to_who_can_not_run_it(world: World) -> None:
    populate(world)
    path = world.shop.root / "artifacts" / "model.bin"
    await world.shop.publish(MODEL, path, requires={"onnx.opset": "21"})
    record = await world.start(["canary:tags.ring = 'canary'"], gate=STRICT)
    asked: list[str] = []

    class Hub:
        """The hub, but for methods: it notes whom a push would go to."""

        def __getattr__(self, name: str) -> object:
            return getattr(world.client, name)

        async def query_page(self, text: str, *, page: int = 100, token: str | None = None) -> object:
            text = text.replace(" AND connectionState = 'Connected'", "")
            found, token = await world.client.query_page(text, page=page, token=token)
            more = {"line": "Connected"}
            return [{**row, **more, "runs": OLD if row.get("deviceId") == "c0" else NEW} for row in found], token

        async def invoke(self, device: str, *rest: object, **options: object) -> object:
            asked.append(device)
            return await world.client.invoke(device, *rest, **options)  # type: ignore[arg-type]

    await push_ring(Hub(), open_store(world.store), record, 0)  # type: ignore[arg-type]
    assert sorted(asked) == ["c1", "c2", "c3"]


async def test_a_ring_that_nobody_can_run_waits_and_says_so(world: World) -> None:
    populate(world)
    world.behave(lambda device, version: UNSUPPORTED if version == 3 else ACTIVE)
    await world.start(RINGS, gate=STRICT)
    await world.go()
    status = await world.status()
    assert status.record.state is State.RUNNING
    assert status.waits == "0 of the 1 devices that it takes are active (4 devices can't run it)."


async def test_modules_are_counted_too(world: World) -> None:
    world.puppets.module, world.puppets.behaviour = "models", half
    world.puppets.add([f"c{n}" for n in range(4)], 2, wish=True, ring="canary")
    target = Target(Kind.MODULE, "models")
    await world.start(["canary:tags.ring = 'canary'"], gate=STRICT, target=target)
    said = await world.go()
    assert world.puppets.held(3) == ["c0", "c2"], said


def test_the_gate_counts_them_apart() -> None:
    counts = Counts(asked=10, active=5, unsupported=5)
    assert counts.failed == 0 and judge(STRICT, counts, 5, 0.0, None, 1.0).verdict is Verdict.ADVANCE
    assert Counts(asked=10, active=4, unsupported=5).failed == 1
    assert Counts(asked=9, active=5, unsupported=5).failed == 0, "one moved on while the others were counted"


@pytest.mark.parametrize("planned", [0, 2])
def test_a_ring_remembers_what_the_plan_knew(planned: int) -> None:
    made = record.RingRecord(
        "r", "*", STRICT, 10, 8 - planned, unsupported=planned, counts=Counts(10, 5, unsupported=4)
    )
    assert record.parse_ring(made.dump()) == made
    assert made.counts is not None and reading.reachable(made, made.counts) == 4
    plain = record.RingRecord("r", "*", STRICT, 10, 8, counts=Counts(10, 5))
    assert "unsupported" not in plain.dump() and record.parse_ring(plain.dump()) == plain
