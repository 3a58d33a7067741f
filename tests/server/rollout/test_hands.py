"""What people do by hand around a rollout: records that they lose, lists that name devices which are gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelsync_protocol.errors import UsageError
from modelsync_server.rollout import acting, documents, reading
from tests.server.rollout.conftest import MODEL, World
from tests.server.rollout.test_rollout import RINGS, populate
from tests.support.puppet_fleet import SLOW


@pytest.mark.parametrize("wish", [True, False])
@pytest.mark.parametrize("fate", ["deleted", "nonsense"])
async def test_a_rollout_whose_record_is_lost_is_seen_and_can_be_taken_back(
    world: World, fate: str, wish: bool
) -> None:
    populate(world, version=2)
    if wish:  # an older rollout's, for everybody: it is what is gone back to
        await world.start(["all:*"], 2)
        await world.go()
    world.behave(lambda device, version: SLOW if version == 3 and device[0] == "r" else "active")
    await world.start(RINGS)
    await world.go()
    assert len(world.puppets.held(3)) == 13
    (there,) = [each for each in await world.client.configurations() if each["id"] == documents.record_id(MODEL)]
    if fate == "deleted":
        await world.client.delete_configuration(there["id"])
    else:
        body = {**there, "labels": {**there["labels"], "ring1": "{}"}}
        await world.client.put_configuration(there["id"], body, etag=there["etag"])
    said = (await reading.overview(world.client)).troubles[MODEL]
    assert f"modelsync rollout abort {MODEL} --return" in said
    assert fate == "nonsense" or all(f"-{number} asks for version 3" in said for number in range(3))
    assert await world.go() == [], "it is not fought"
    for act in (acting.pause, acting.resume):
        with pytest.raises(UsageError, match="--return"):
            await act(world.client, MODEL, by="bob")
    with pytest.raises(UsageError, match="--return"):
        await acting.abort(world.client, MODEL, by="bob", back=False)
    await acting.abort(world.client, MODEL, by="bob", back=True)
    await world.go()
    assert len(world.puppets.held(2)) == 33
    assert "ring" not in [each.mark for each in documents.found(await world.client.configurations())]
    # And the model is free for the next one.
    world.behave(lambda device, version: "active")
    await world.start(RINGS)
    await world.go()
    assert len(world.puppets.held(3)) == 33
    assert not (await reading.overview(world.client)).troubles


async def test_a_short_list_with_an_unknown_device_is_planned_and_said(world: World, tmp_path: Path) -> None:
    populate(world)
    listed = tmp_path / "devices"
    listed.write_text("c0\nc1\ngone-1\n")
    plan = await world.plan([f"list:@{listed}", "rest:*"])
    assert plan.advice == ("ring list lists 3 devices, and 2 are at this hub.",)
    listed.write_bytes(b"\xff\xfe")
    for name, says in ((listed, "one a line"), (tmp_path / "none", "No such file")):
        with pytest.raises(UsageError, match=says):
            await world.plan([f"list:@{name}"])
