"""Rollouts to modules and to Edge modules on the page: counted, in lanes, each count leading to those devices."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from modelsync_server.dashboard.acts import Audit
from modelsync_server.dashboard.answers import Answers
from modelsync_server.dashboard.app import Dashboard
from modelsync_server.dashboard.views import Views
from modelsync_server.library.async_store import AsyncStore
from modelsync_server.rollout.target import Kind, Target
from modelsync_server.signin.access import Access
from tests.server.dashboard.conftest import tables, text
from tests.server.rollout.conftest import MODEL, QUICK, World
from tests.support.puppet_fleet import REFUSED


@pytest.mark.parametrize("kind", [Kind.MODULE, Kind.EDGE])
async def test_a_rollout_to_modules_is_watched_like_one_to_devices(world: World, kind: Kind) -> None:
    world.puppets.module = "modelsync"
    world.puppets.add(["c0", "c1", "c2"], 2, wish=True, ring="canary")
    world.puppets.add(["r0", "r1"], 2, wish=True)
    world.behave(lambda device, version: REFUSED if (device, version) == ("c1", 3) else "active")
    gate = replace(QUICK, returns=False)
    await world.start(["canary:tags.ring='canary'", "rest:100%"], target=Target(kind, "modelsync"), gate=gate)
    await world.go()
    views = Views(world.client, AsyncStore(world.store, None), Answers(60.0))
    app = Dashboard(world.client, views, views.answers, Access(loopback=True), Audit(None), patience=30.0).application()
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        fleet = await tables(client, "/")
        counted = {(row["module"], row["kind"], row["value"]): row["devices"] for row in fleet["fleet"]}
        held = {version: len(world.puppets.held(version)) for version in (2, 3)}
        assert {version: counted.get(("modelsync", "version", str(version)), 0) for version in (2, 3)} == held
        assert any(row["why"] == "probe" and row["module"] == "modelsync" for row in fleet["stuck"])
        ring = (await tables(client, f"/rollout/{MODEL}"))["rings"][0]
        assert ring["asked"] == 3 and ring["failed"] == 1 and ring["spent_bytes"] is not None
        body = await text(client, f"/rollout/{MODEL}")
        address = body.split("1 failed</a>")[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
        assert [row["device"] for row in (await tables(client, address))["devices"]] == ["c1"]
        (row,) = (await tables(client, "/device/c1"))["models"]
        assert (row["module"], row["state"], row["error"]) == ("modelsync", "quarantined", "probe")
    await runner.cleanup()
