"""`modelsync rollout …` as an operator types it: exit codes, JSON keys, approvals, one sentence for what is wrong."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.server.rollout.conftest import MODEL, World
from tests.support.puppet_fleet import REFUSED

FAST = ("--soak", "0s", "--active", "100%")


async def modelsync(world: World, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("modelsync"),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"MODELSYNC_SERVICE": str(world.hub.service), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    )
    out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return process.returncode or 0, out.decode(), err.decode()


async def answered(world: World, *arguments: str) -> Any:
    code, out, err = await modelsync(world, *arguments, "--json")
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def populate(world: World) -> None:
    world.puppets.add(["c0", "c1"], 2, wish=True, ring="canary")
    world.puppets.add(["r0", "r1", "r2"], 1, wish=True)


async def test_from_plan_to_finished(world: World) -> None:
    populate(world)
    rings = ("--ring", "canary:tags.ring='canary'", "--ring", "rest:100%")
    plan = await answered(
        world, "rollout", "plan", world.store, MODEL, *rings, *FAST, "--price-per-gb", "1000", "--currency", "CHF"
    )
    assert {"model", "version", "target", "devices", "bytes", "money", "currency", "rings", "advice"} == plan.keys()
    assert (plan["version"], plan["devices"], [ring["devices"] for ring in plan["rings"]]) == (3, 5, [2, 3])
    assert plan["money"] == pytest.approx(plan["bytes"] / 1e6)
    assert [base["version"] for base in plan["rings"][1]["bases"]] == [1]

    code, _, err = await modelsync(world, "rollout", "start", world.store, MODEL, *rings, *FAST)
    assert (code, "--yes" in err) == (2, True)
    started = await answered(world, "rollout", "start", world.store, MODEL, *rings, *FAST, "--yes", "--by", "ann")
    assert (started["state"], started["by"], started["ring"]) == ("running", "ann", "canary")
    code, _, err = await modelsync(
        world, "rollout", "start", world.store, MODEL, "--version", "2", "--ring", "all:*", "--yes"
    )
    assert (code, started["rollout"] in err, "ann" in err) == (3, True, True)

    world.puppets.answer()
    code, out, _ = await modelsync(world, "rollout", "step", "--store", world.store)
    assert (code, "ring canary passed" in out) == (0, True)
    status = await answered(world, "rollout", "status", MODEL)
    assert [ring["state"] for ring in status["rings"]] == ["passed", "open"]
    assert status["rings"][0]["spent_bytes"] == status["rings"][0]["predicted_bytes"]
    paused = await answered(world, "rollout", "pause", MODEL)
    assert paused["state"] == "paused"
    assert (await answered(world, "rollout", "resume", MODEL))["state"] == "running"
    world.puppets.answer()
    code, out, _ = await modelsync(world, "rollout", "run", "--poll", "0.1", "--until-over")
    assert (code, "what the fleet wants" in out) == (0, True)
    listed = await answered(world, "rollout", "list")
    assert [(wish["model"], wish["version"]) for wish in listed["wishes"]] == [(MODEL, 3)]
    assert (await answered(world, "rollout", "watch", MODEL))["state"] == "finished"
    code, _, err = await modelsync(world, "rollout", "status", MODEL)
    assert (code, "under way" in err) == (2, True)


async def test_resume_opens_no_ring_of_a_version_that_was_withdrawn(world: World) -> None:
    populate(world)
    rings = ("--ring", "canary:tags.ring='canary'", "--ring", "rest:*")
    await answered(world, "rollout", "start", world.store, MODEL, *rings, *FAST, "--yes")
    world.puppets.answer()
    await (await world.shop.repository()).withdraw(MODEL, 3)
    code, out, _ = await modelsync(world, "rollout", "step", "--store", world.store)
    assert (code, "was withdrawn" in out) == (0, True)
    resumed = await answered(world, "rollout", "resume", MODEL)
    assert [ring["state"] for ring in resumed["rings"]] == ["passed", "waiting"]
    code, out, _ = await modelsync(world, "rollout", "step", "--store", world.store)
    assert (code, "it pauses" in out) == (0, True)
    back = await answered(world, "rollout", "abort", MODEL, "--return", "--yes")
    assert (back["state"], [ring["state"] for ring in back["rings"]]) == ("returned", ["returned", "waiting"])


async def test_watching_a_part_ends_well_though_another_part_has_a_wish_of_its_own(world: World) -> None:
    """A canary in a rollout of its own, as pipelines with a gate between have it: its wish stays beside the next."""
    populate(world)
    world.puppets.add(["a0"], 1, wish=True, ring="after")
    for ring, devices in (("canary", 2), ("after", 1)):
        where = ("--ring", f"{ring}:tags.ring='{ring}'")
        started = await answered(world, "rollout", "start", world.store, MODEL, *where, *FAST, "--yes")
        watching = asyncio.create_task(answered(world, "rollout", "watch", MODEL, "--every", "1"))
        await asyncio.sleep(1.5)  # it has seen that the rollout is under way
        assert world.puppets.answer() == devices
        await modelsync(world, "rollout", "run", "--poll", "0.1", "--until-over")
        finished = await watching
        assert (finished["rollout"], finished["state"]) == (started["rollout"], "finished")


async def test_a_watched_rollout_that_stops_ends_with_three(world: World) -> None:
    populate(world)
    world.behave(lambda device, version: REFUSED if version == 3 else "active")
    arguments = (world.store, MODEL, "--ring", "all:*", *FAST, "--yes")
    await answered(world, "rollout", "start", *arguments)
    world.puppets.answer()
    code, out, _ = await modelsync(world, "rollout", "run", "--poll", "0.1", "--until-over", "--json")
    assert code == 0
    assert {json.loads(line)["model"] for line in out.splitlines()} == {MODEL}
    code, out, _ = await modelsync(world, "rollout", "watch", MODEL)
    assert (code, "5 devices failed" in out) == (3, True)
    code, out, _ = await modelsync(world, "rollout", "abort", MODEL, "--return", "--yes")
    assert (code, "returned" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("plan", "{store}", MODEL), 2),
        (("plan", "{store}", MODEL, "--ring", "all:*", "--version", "9"), 2),
        (("plan", "{store}", "other", "--ring", "all:*"), 2),
        (("plan", "{store}", MODEL, "--ring", "all:*", "--soak", "soon"), 2),
        (("plan", "{store}", MODEL, "--ring", "all:*", "--module", "a", "--edge-module", "b"), 2),
        (("start", "{store}", MODEL, "--ring", "none:tags.x = 1", "--yes"), 2),
        (("pause", MODEL), 2),
        (("list", "--tier", "S9"), 2),
        (("abort", MODEL), 2),
        (("list", "--service", "HostName=x;SharedAccessKeyName=y;SharedAccessKey=eHg=;GatewayHostName=127.0.0.1:1"), 4),
    ],
)
async def test_what_is_wrong_is_said_in_a_sentence(world: World, arguments: tuple[str, ...], code: int) -> None:
    populate(world)
    given = [each.replace("{store}", world.store) for each in arguments]
    found, _, err = await modelsync(world, "rollout", *given)
    assert found == code, err
    assert err.strip()
    assert world.puppets.held(3) == []


async def test_publish_makes_updates_from_what_the_fleet_holds(world: World, tmp_path: Path) -> None:
    world.puppets.add(["a", "b", "c"], 1, wish=True)
    world.puppets.add(["d", "e"], 2, wish=True)
    world.puppets.add(["f"], 3, wish=True)
    world.puppets.digests = {**world.puppets.digests, 3: "3" * 64}
    world.puppets.add(["stranger"], 3, wish=True)
    artifact = tmp_path / "next.bin"
    artifact.write_bytes(bytes(range(256)) * 400 + b"more")
    keys = ("--keys", str(world.shop.keys))
    published = await answered(
        world, "publish", world.store, MODEL, str(artifact), *keys, "--hub", "--max-updates", "2"
    )
    assert [update["from"] for update in published["updates"]] == [2, 1]
    assert published["fleet"] == {
        "bases": [{"version": 1, "devices": 3}, {"version": 2, "devices": 2}],
        "left_out": [{"version": 3, "devices": 1}],
        "strangers": 1,
    }
    code, out, _ = await modelsync(
        world, "publish", world.store, MODEL, str(artifact), *keys, "--hub", "--max-updates", "1"
    )
    assert code == 0
    assert "no update from version 2, which 2 devices hold" in out
    assert "1 devices hold bytes that this store does not sign" in out
