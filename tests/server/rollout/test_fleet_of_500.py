"""A release that fails on part of ring two of a fleet, some of whose devices are real clients of the SDK.

The small fleet runs with Azure's S1 rates made sixty times as fast, the one of 500 with the rates themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from modelsync_server.hub.traffic import TIERS, Rate
from modelsync_server.rollout import pacing, planning, reading, running, starting
from modelsync_server.rollout.pacing import PacedHub
from modelsync_server.rollout.record import State
from modelsync_server.rollout.rings import parse_options
from modelsync_server.store import open_store
from tests.server.rollout.conftest import MODEL, QUICK, World
from tests.support.hub_sdk import sdk_device, set_handler
from tests.support.puppet_fleet import REFUSED, Puppets
from tests.support.waiting import within

RINGS = ["canary:tags.ring = 'canary'", "part:tags.ring = 'part'", "rest:*"]


@asynccontextmanager
async def sdk_puppet(puppets: Puppets, device: str) -> AsyncIterator[None]:
    """Connect a device with azure-iot-device: it hears of its desired properties and reports over MQTT."""
    loop = asyncio.get_running_loop()
    async with sdk_device(puppets.hub, device) as client:
        puppets.seen[device] = (await within(client.get_twin()))["desired"]

        async def heard(patch: dict[str, Any]) -> None:
            # A notice is a hint: read the twin, as the daemon does.
            desired = (await client.get_twin())["desired"]
            loop.call_soon_threadsafe(puppets.seen.__setitem__, device, desired)

        await set_handler(client, "on_twin_desired_properties_patch_received", heard)
        sending: set[asyncio.Task[None]] = set()

        def send(patch: dict[str, Any]) -> None:
            task = asyncio.create_task(client.patch_twin_reported_properties(patch))
            sending.add(task)
            task.add_done_callback(sending.discard)

        puppets.senders[device] = send
        yield
        await asyncio.gather(*sending)


@pytest.mark.parametrize(
    ("devices", "clients", "speed"),
    [(60, 6, 60.0), pytest.param(500, 50, 1.0, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
async def test_a_bad_release_stops_in_ring_two_and_ring_three_sees_nothing(
    world: World, devices: int, clients: int, speed: float
) -> None:
    names = [f"car-{number:04}" for number in range(devices)]
    first, second = names[: devices // 10], names[devices // 10 : devices // 2]
    third = names[devices // 2 :]
    world.puppets.add(first, 2, wish=True, ring="canary")
    world.puppets.add(second, 2, wish=True, ring="part")
    world.puppets.add(third, 1, wish=True)
    failing = set(second[::7])
    world.behave(lambda device, version: REFUSED if version == 3 and device in failing else "active")
    rates = {kind: Rate(rate.count, rate.seconds / speed) for kind, rate in TIERS["S1"].items()}
    paced = PacedHub(world.client, {kind: (most, seconds / speed) for kind, (most, seconds) in pacing.LIMITS.items()})
    store = open_store(world.store)
    async with AsyncExitStack() as stack:
        for device in names[:: devices // clients]:
            await stack.enter_async_context(sdk_puppet(world.puppets, device))
        world.hub.traffic.rates = rates
        world.hub.traffic.log.clear()
        plan = await planning.plan(store, paced, MODEL, 3, parse_options(RINGS, QUICK))
        assert [ring.devices for ring in plan.rings] == [len(first), len(second), len(third)]
        await starting.start(paced, plan, by="ann", pushes=False)
        over = False
        async with asyncio.timeout(1500):
            while not over:
                _, over = await running.settle(paced, store)
                for _ in range(20):
                    await asyncio.sleep(0.02)
                    world.puppets.answer()
            for _ in range(50):
                await asyncio.sleep(0.02)
                world.puppets.answer()
        status = await reading.status(paced, MODEL)
    assert status.record.state is State.STOPPED
    assert [ring.state for ring in status.rings] == ["passed", "returned", "waiting"]
    assert f"{len(failing)} devices failed" in status.waits
    assert world.puppets.held(3) == first
    assert world.puppets.held(2) == second
    assert all(world.puppets.asked[device] == [] for device in third)
    # Predicted is spent: by what devices report, and by what they fetched.
    predicted = sum(ring.bytes for ring in plan.rings[:2])
    fetched = sum(world.puppets.fetched[device] for device in (*first, *second))
    back = sum(world.puppets.prices[3, 2] for device in second if device not in failing)
    assert status.spent == pytest.approx(predicted, rel=0.02)
    assert fetched - back == pytest.approx(predicted, rel=0.02)
    # No quota was broken: nothing was refused, and no window holds more than the hub allows.
    log = world.hub.traffic.log
    assert {request.status for request in log} <= {200, 201, 204}
    assert dict.fromkeys(rates, True) == {
        kind: world.hub.traffic.peak(kind, rate.seconds) <= rate.count for kind, rate in rates.items()
    }
