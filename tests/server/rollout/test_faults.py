"""What goes wrong around a rollout: throttling and dying hubs, missing rights, clocks that differ, hostile reports."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web

from modelsync_protocol.errors import RefusedError
from modelsync_server.hub import certificates
from modelsync_server.hub.traffic import TIERS, Rate
from modelsync_server.iothub.connection_string import ServiceConnection
from modelsync_server.iothub.entra import EntraSignIn
from modelsync_server.iothub.service_client import ServiceClient
from modelsync_server.rollout import documents, pacing, planning, running, starting
from modelsync_server.rollout.pacing import PacedHub
from modelsync_server.rollout.record import State
from modelsync_server.rollout.rings import parse_options
from modelsync_server.store import open_store
from tests.server.rollout.conftest import MODEL, QUICK, World
from tests.support.addresses import loopback_address
from tests.support.puppet_fleet import NONSENSE

RINGS = ["canary:tags.ring = 'canary'", "rest:*"]


def populate(world: World) -> None:
    world.puppets.add([f"c{n}" for n in range(2)], 2, wish=True, ring="canary")
    world.puppets.add([f"r{n}" for n in range(6)], 2, wish=True)


async def test_below_its_rates_no_call_is_refused_and_above_them_it_backs_off(world: World) -> None:
    """Azure's S1 rates, sixty times as fast: what counts is the ratio of ours to the hub's."""
    populate(world)
    fast = {kind: Rate(rate.count, rate.seconds / 60) for kind, rate in TIERS["S1"].items()}
    world.hub.traffic.rates = fast
    world.hub.traffic.log.clear()
    paced = PacedHub(world.client, {kind: (most, seconds / 60) for kind, (most, seconds) in pacing.LIMITS.items()})
    store = open_store(world.store)
    plan = await planning.plan(store, paced, MODEL, 3, parse_options(RINGS, QUICK))
    await starting.start(paced, plan, by="ann")
    for _ in range(10):
        await running.settle(paced, store)
        world.puppets.answer()
    assert len(world.puppets.held(3)) == 8
    assert {request.status for request in world.hub.traffic.log} <= {200, 201, 204}
    for kind, rate in fast.items():
        assert world.hub.traffic.peak(kind, rate.seconds) <= rate.count
    # Without pacing the hub says when, and the client comes back then.
    world.hub.traffic.rates = {"queries": Rate(2, 0.5)}
    await asyncio.gather(*(world.client.query_page("SELECT * FROM devices") for _ in range(4)))
    assert 429 in {request.status for request in world.hub.traffic.log}


@pytest.mark.parametrize("tier", sorted(pacing.TIERS))
def test_a_tiers_limits_are_at_most_four_fifths_of_its_rates(tier: str) -> None:
    rates, limits = TIERS[tier], pacing.limits_of(tier)
    for kind, (most, seconds) in limits.items():
        assert (most, seconds) == (rates[kind].count * 4 // 5 if kind != "methods" else most, rates[kind].seconds)
        assert most <= rates[kind].count * 4 / 5
    assert set(limits) == (set(pacing.LIMITS) if rates else set())


async def test_a_hub_that_dies_in_mid_rollout_is_asked_again_and_the_rollout_goes_on(world: World) -> None:
    populate(world)
    await world.start(RINGS)
    told: list[str] = []
    rounds = 0

    async def sleep(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            await world.hub.__aexit__(None, None, None)
        elif rounds == 4:
            await world.hub.__aenter__()
        elif rounds != 3:
            world.puppets.answer()

    async with ServiceClient(world.hub.service) as client:
        await running.run(
            client, None, poll=0.01, until_over=True, tell=lambda event: told.append(event.said), sleep=sleep
        )
    away = [number for number, said in enumerate(told) if "can't be reached" in said]
    assert away and told[away[0] - 1] in told[away[-1] + 1 :], "how things stood is said again when the hub is back"
    assert len(world.puppets.held(3)) == 8


async def test_an_operator_without_rights_is_told_so(world: World) -> None:
    populate(world)
    connection = replace(world.hub.service, key="YW5vdGhlciBrZXksIG5vIHNlY3JldCBlaXRoZXIhISE=")
    async with ServiceClient(connection) as client:
        with pytest.raises(RefusedError, match="credentials"):
            await planning.plan(open_store(world.store), client, MODEL, 3, parse_options(RINGS, QUICK))
        with pytest.raises(RefusedError, match="credentials"):
            await running.run(client, None, poll=0.01)


async def test_soak_and_wait_go_by_the_hubs_clock(tmp_path: Path, worker_id: str) -> None:
    host = loopback_address(worker_id)
    paths = certificates.ensure(tmp_path, host)
    ahead = 86_400

    async def answer(request: web.Request) -> web.Response:
        return web.json_response([], headers={"Date": formatdate(time.time() + ahead, usegmt=True)})

    app = web.Application()
    app.router.add_get("/configurations", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host, 8443, ssl_context=paths.server_context()).start()
    connection = ServiceConnection("hub", "p", "YW5vdGhlciBrZXksIG5vIHNlY3JldCBlaXRoZXIhISE=", f"{host}:8443", paths.ca)
    async with ServiceClient(connection) as client:
        assert abs(client.now() - time.time()) < 1
        for ahead in (86_400, 86_400, -3_600, 0):
            await client.configurations()
            assert abs(client.now() - time.time() - ahead) < 3
    await runner.cleanup()


async def test_a_ring_soaks_until_its_time_is_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    populate(world)
    await world.start(RINGS, gate=replace(QUICK, soak=3600.0))
    await world.go()
    status = await world.status()
    assert [ring.state for ring in status.rings] == ["open", "waiting"]
    assert "soaks" in status.waits
    monkeypatch.setattr(ServiceClient, "now", lambda self: time.time() + 3601)
    await world.go()
    assert [ring.state for ring in (await world.status()).rings] == ["passed", "open"]


async def test_hostile_reports_count_as_failed_and_reach_no_terminal_as_they_are(world: World) -> None:
    populate(world)
    world.behave(lambda device, version: NONSENSE if device == "c0" and version == 3 else "active")
    await world.start(RINGS)
    await world.go()
    status = await world.status()
    assert status.record.state is State.STOPPED
    assert "1 report nonsense" in status.waits


async def test_a_hub_that_is_full_of_configurations_is_said_before_anything_is_written(world: World) -> None:
    populate(world)
    for number in range(97):
        body = {"content": {"deviceContent": {"properties.desired.x": number}}, "targetCondition": ""}
        world.hub.configurations.put(f"other-{number}", body, None)
    with pytest.raises(RefusedError, match="room for 3"):
        await world.start(RINGS)
    assert documents.record_id(MODEL) not in await world.ids()


class Credential:
    """A credential of Entra ID whose tokens can be counted."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def get_token(self, *scopes: str) -> object:
        from azure.core.credentials import AccessToken

        self.asked += scopes
        return AccessToken(f"token-{len(self.asked)}", int(time.time()) + 3600)

    async def close(self) -> None:
        """Nothing to close."""


async def test_entra_id_signs_in_with_a_bearer_token_that_is_kept() -> None:
    credential = Credential()
    async with EntraSignIn(credential) as bearer:
        assert [await bearer(), await bearer()] == ["token-1", "token-1"]
    assert credential.asked == ["https://iothubs.azure.net/.default"]


async def test_a_failing_credential_is_a_refusal_with_its_reason() -> None:
    from azure.core.exceptions import ClientAuthenticationError

    class Failing(Credential):
        async def get_token(self, *scopes: str) -> object:
            raise ClientAuthenticationError("no identity here\nmore")

    async with EntraSignIn(Failing()) as bearer:
        with pytest.raises(RefusedError, match="no identity here"):
            await bearer()
