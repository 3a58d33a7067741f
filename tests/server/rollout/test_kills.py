"""A rollout is killed after each of its hub calls in turn, generated from the calls of an undisturbed one.

Each time another process goes on from the hub alone, and the end is the same.
"""

from __future__ import annotations

import pytest

from modelsync_protocol.errors import UsageError
from modelsync_server.iothub.identity import Identity
from modelsync_server.rollout import acting, planning, reading, running, starting
from modelsync_server.rollout.port import Json
from modelsync_server.rollout.record import State
from modelsync_server.rollout.rings import parse_options
from modelsync_server.store import open_store
from tests.server.rollout.conftest import MODEL, QUICK, World
from tests.support.mortal_hub import Killed, MortalHub
from tests.support.puppet_fleet import REFUSED

TWO = ["some:50%", "rest:*"]
THREE = ["canary:tags.ring = 'canary'", *TWO]
DEVICES = {"c1": "canary", "c2": "canary", "p1": "", "p2": "", "r1": ""}


def populate(world: World) -> None:
    for device, ring in DEVICES.items():
        if device in world.puppets.serving:
            world.hub.registry.delete(Identity(device))
        # Each device has another past, so that going back is more than one version for all.
        version = 1 if device in ("c1", "p1") else 2
        world.puppets.add([device], version, wish=device != "c2", **({"ring": ring} if ring else {}))


async def drive(world: World, hub: MortalHub, rings: list[str], *, back: bool) -> None:
    """What operator and runner do together: start, run, and (if `back`) take it back in the end."""
    store = open_store(world.store)
    current = (await reading.overview(hub)).rollouts
    finished = any(wish.version == 3 for wish in (await reading.overview(hub)).wishes)
    if not current and not finished:
        plan = await planning.plan(store, hub, MODEL, 3, parse_options(rings, QUICK))
        await starting.start(hub, plan, by="ann")
    for _ in range(20):
        _, over = await running.settle(hub, store)
        if not world.puppets.answer() and over:
            break
    if back:
        try:
            status = await reading.status(hub, MODEL, spending=False)
        except UsageError:
            return
        if status.record.state.value != "returned":
            await acting.abort(hub, MODEL, by="ann", back=True)
        for _ in range(5):
            await running.settle(hub, store)
            world.puppets.answer()


class BesideARunner(MortalHub):
    """Whoever carries rollouts on acts right after the first configuration was written."""

    async def put_configuration(self, identifier: str, body: Json, *, etag: str | None = None) -> Json:
        made = await super().put_configuration(identifier, body, etag=etag)
        if len(self.calls) == self.calls.index(f"put {identifier}") + 1:
            await running.step_all(self._hub, None)
        return made


async def test_a_start_beside_a_runner_that_is_quicker_is_a_start(world: World) -> None:
    populate(world)
    hub = BesideARunner(world.client)
    started = await starting.start(hub, await world.plan(TWO), by="ann")
    assert [call for call in hub.calls if call.startswith("put")] == [f"put modelsync-{MODEL}"], "the runner wrote next"
    assert started.state is State.RUNNING
    assert (await world.status()).record.rollout == started.rollout
    await world.go()
    assert world.puppets.held(3) == sorted(DEVICES)


async def final(world: World) -> object:
    overview = await reading.overview(world.client)
    rollouts = [
        (each.record.state, each.record.version, [(ring.name, ring.state) for ring in each.rings])
        for each in overview.rollouts
    ]
    wishes = [(wish.version, wish.where) for wish in overview.wishes]
    spent = [[ring.spent for ring in each.record.rings] for each in overview.rollouts]
    marks = sorted(identifier.split("-")[-1] for identifier in await world.ids())
    return dict(world.puppets.serving), rollouts, wishes, spent, marks


async def clear(world: World) -> None:
    for identifier in await world.ids():
        await world.client.delete_configuration(identifier)


@pytest.mark.parametrize(
    ("rings", "bad", "every"),
    [
        (TWO, True, 4),  # a fourth of all calls; the others in the long suite
        pytest.param(TWO, True, 1, marks=pytest.mark.long),
        pytest.param(TWO, False, 1, marks=pytest.mark.long),
        pytest.param(THREE, True, 1, marks=pytest.mark.long),
        pytest.param(THREE, False, 1, marks=pytest.mark.long),
    ],
)
async def test_wherever_it_is_killed_the_end_is_the_same(world: World, rings: list[str], bad: bool, every: int) -> None:
    world.behave(lambda device, version: REFUSED if bad and version == 3 and device[0] == "p" else "active")
    populate(world)
    undisturbed = MortalHub(world.client)
    await drive(world, undisturbed, rings, back=bad)
    expected = await final(world)
    assert len(undisturbed.calls) > 20
    if bad:
        assert world.puppets.held(3) == []
    else:
        assert world.puppets.held(3) == sorted(DEVICES)
    for lives in range(1, len(undisturbed.calls) + 1, every):
        await clear(world)
        populate(world)
        try:
            await drive(world, MortalHub(world.client, lives), rings, back=bad)
        except Killed:
            await drive(world, MortalHub(world.client), rings, back=bad)
        assert await final(world) == expected, f"killed after call {lives}: {undisturbed.calls[lives - 1]}"
