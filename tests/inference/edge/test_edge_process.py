"""`modelsync-infer --edge` as a user runs it: hub, sensor and scorer are processes, and the SDK is the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from modelsync_server.hub.messages import Messages
from modelsync_server.iothub.identity import Identity
from tests.support.edge_world import DEVICE, ROUTES, EdgeWorld, edge_world
from tests.support.tiny_models import scaler, scaler_probe

FIELDS = ("--edge-fields", "temperature,humidity,ambient.pressure")


@pytest.fixture
async def world(tmp_path: Path, worker_id: str) -> AsyncIterator[EdgeWorld]:
    async with edge_world(tmp_path, worker_id) as made:
        yield made


def install(world: EdgeWorld, version: int, factor: int) -> Any:
    return world.data.install(version, {"model.onnx": scaler(factor)}, scaler_probe(factor))


def reading(number: float) -> dict[str, Any]:
    return {"temperature": number, "humidity": 2, "ambient": {"pressure": 3.5}, "at": "now"}


async def test_messages_are_scored_and_answered_with_version_digest_and_the_messages_own_marks(
    world: EdgeWorld,
) -> None:
    first = install(world, 1, 10)
    world.data.point("current", first, 1)
    await world.start_scorer(*FIELDS, "--edge-include-inputs")
    async with world.sensor() as send:
        await send(reading(0.1), message_id="m-1", line="7 & 8")
        await send([[1, 2, 3], [4, 5, 6]])
        tensor = {"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        await send({"id": "own", "inputs": [tensor]})
        one, two, three = await world.arrived(3)
    assert one["module"] == "scoring"
    assert one["body"] == {
        "model": "anomaly",
        "version": 1,
        "digest": first.digest,
        "outputs": {"y": [1.0, 20.0, 35.0], "tag": 10},
        "inputs": {"X": [0.1, 2.0, 3.5]},
    }
    marks = one["properties"]
    assert marks.pop("$.mid") != two["properties"]["$.mid"]
    assert marks == {
        "$.on": "answers",
        "$.cid": "m-1",
        "$.ct": "application/json",
        "$.ce": "utf-8",
        "line": "7 & 8",
    }
    assert two["body"]["outputs"] == {"y": [[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]], "tag": [10]}
    assert three["body"]["outputs"]["y"] == [[10.0, 20.0, 30.0]] and three["properties"]["$.cid"] == "own"
    async with aiohttp.ClientSession() as session:
        body = {"inputs": [tensor]}
        async with session.post(f"{world.url}/v2/models/anomaly/infer", json=body) as response:
            assert response.status == 200
    found = await world.metrics()
    assert (found["received_total"], found["scored_total"], found["sent_total"], found["connected"]) == (3, 3, 3, 1)
    assert found["bad_total"] == found["lost_total"] == found["queue_in"] == found["queue_out"] == 0
    assert await world.stop_scorer() == 0


async def test_a_swap_in_mid_stream_loses_no_message_and_every_answer_is_its_versions(world: EdgeWorld) -> None:
    versions = {number: install(world, number, 10 * number) for number in (1, 2, 3, 4)}
    world.data.point("current", versions[1], 1)
    await world.start_scorer(*FIELDS)
    count = 0
    async with world.sensor() as send:
        for number in (1, 2, 3, 4):
            world.data.point("current", versions[number], number, versions.get(number - 1))
            # The stream goes on until the new version has answered some.
            while sum(item["body"]["version"] == number for item in world.upstream()) < 5:
                await send(reading(count), message_id=f"m-{count}")
                count += 1
        answers = await world.arrived(count)
    assert [item["properties"]["$.cid"] for item in answers] == [f"m-{number}" for number in range(count)]
    assert {item["body"]["version"] for item in answers} == {1, 2, 3, 4}
    for number, item in enumerate(answers):
        body = item["body"]
        assert body["digest"] == versions[body["version"]].digest
        factor = 10 * body["version"]
        assert body["outputs"] == {"y": [number * factor, 2 * factor, 3.5 * factor], "tag": factor}


async def test_messages_wait_for_the_first_version(world: EdgeWorld) -> None:
    await world.start_scorer(*FIELDS)
    async with world.sensor() as send:
        for number in range(3):
            await send(reading(number), message_id=f"m-{number}")
    await world.counted(received_total=3)
    assert (await world.metrics())["scored_total"] == 0 and world.upstream() == []
    world.data.point("current", install(world, 1, 10), 1)
    answers = await world.arrived(3)
    assert [item["properties"]["$.cid"] for item in answers] == ["m-0", "m-1", "m-2"]


async def test_a_full_queue_drops_the_oldest_and_counts_them(world: EdgeWorld) -> None:
    await world.start_scorer(*FIELDS, "--edge-queue", "5")
    async with world.sensor() as send:
        await send(reading(0), message_id="m-0")
        # It is taken into work, and waits for a version there: the queue's five places are free when the others come.
        await world.counted(received_total=1, queue_in=0)
        for number in range(1, 12):
            await send(reading(number), message_id=f"m-{number}")
    await world.counted(received_total=12)
    world.data.point("current", install(world, 1, 10), 1)
    await world.until(lambda: world.upstream()[-1:] and world.upstream()[-1]["properties"]["$.cid"] == "m-11", "m-11")
    assert [item["properties"]["$.cid"] for item in world.upstream()] == ["m-0", *(f"m-{n}" for n in range(7, 12))]
    assert (await world.metrics())["lost_total"] == 6
    assert world.log.read_text().count("a queue is full: the oldest messages make room") == 1


@pytest.mark.long
async def test_a_killed_hub_in_mid_stream_costs_no_message_and_an_answer_that_goes_twice_has_one_id(
    world: EdgeWorld,
) -> None:
    world.data.point("current", install(world, 1, 10), 1)
    await world.start_scorer(*FIELDS)
    async with world.sensor() as send:
        for number in range(60):
            if number == 30:
                await world.kill_hub()
                await world.start_hub()
            await send(reading(number), message_id=f"m-{number}")
        expected = {f"m-{number}" for number in range(60)}
        await world.until(lambda: {item["properties"]["$.cid"] for item in world.upstream()} >= expected, "all answers")
    answers = world.upstream()
    # The SDK sends again what was not acknowledged in time: the sensor's message may be scored twice, and an answer
    # may be stored twice, which its message id shows.
    assert len({item["properties"]["$.mid"] for item in answers}) >= 60
    assert len(answers) <= 64
    assert (await world.metrics())["lost_total"] == 0


async def test_a_restart_of_the_module_in_mid_stream_costs_no_message(world: EdgeWorld) -> None:
    world.data.point("current", install(world, 1, 10), 1)
    await world.start_scorer(*FIELDS)
    async with world.sensor() as send:
        sending = True

        async def stream() -> int:
            number = 0
            while sending:
                await send(reading(number), message_id=f"m-{number}")
                number += 1
                await asyncio.sleep(0.01)  # a busy machine must not make this a test of full queues
            return number

        task = asyncio.create_task(stream())
        await world.arrived(50)
        assert await world.stop_scorer() == 0
        await world.start_scorer(*FIELDS)
        await world.arrived(len(world.upstream()) + 50)
        sending = False
        count = await task
        answers = await world.arrived(count)
    assert [item["properties"]["$.cid"] for item in answers] == [f"m-{number}" for number in range(count)]


async def test_bad_messages_are_told_and_harm_no_other(world: EdgeWorld) -> None:
    world.data.point("current", install(world, 1, 10), 1)
    await world.start_scorer(*FIELDS)
    bad = [
        b"\xff\xfe{",
        "21 degrees",
        '"text"',
        {"temperature": 1},
        reading(1) | {"humidity": "wet"},
        [],
        "[" * 100_000,
    ]
    async with world.sensor() as send:
        for number, body in enumerate(bad):
            await send(body, message_id=f"bad-{number}", line="7")
        await send(reading(1), message_id="good")
        told = await world.arrived(len(bad) + 1)
    assert [item["properties"].get("$.cid") for item in told] == [
        *(f"bad-{number}" for number in range(len(bad))),
        "good",
    ]
    for item in told[:-1]:
        assert (item["properties"]["$.on"], item["properties"]["error"], item["properties"]["line"]) == (
            "errors",
            "input",
            "7",
        )
    assert told[3]["body"]["error"] == "the message has no field 'humidity'."
    assert "may hold numbers only" in told[4]["body"]["error"]
    log = world.log.read_text()
    assert "Traceback" not in log
    for number in range(len(bad)):
        assert log.count(f"message bad-{number} on input readings can't be scored: ") == 1
    assert (await world.metrics())["bad_total"] == len(bad)


async def test_only_samples_go_up_and_every_answer_to_whoever_is_near(world: EdgeWorld) -> None:
    near = 'FROM /messages/modules/scoring/outputs/all INTO BrokeredEndpoint("/modules/actuator/inputs/in")'
    await world.set_routes({**ROUTES, "near": near})
    world.data.point("current", install(world, 1, 10), 1)
    options = ("--edge-sample", "mean:20", "--edge-all-output", "all", "--edge-errors", "drop")
    await world.start_scorer(*FIELDS, *options)
    async with world.sensor() as send:
        for number in range(50):
            await send(reading(number))
        await send("bad")
    means = await world.arrived(2)
    assert [item["body"]["outputs"]["y"][0] for item in means] == [95.0, 295.0]
    assert [item["body"]["mean_of"]["messages"] for item in means] == [20, 20]
    with Messages(world.state) as store:
        actuator = Identity(DEVICE, "actuator")
        await world.until(lambda: len(store.waiting(actuator)) == 50, "every answer at the other module's input")
        assert json.loads(store.waiting(actuator)[7].message.body)["outputs"]["y"][0] == 70
    assert await world.stop_scorer() == 0
    (rest,) = (await world.arrived(3))[2:]
    assert (rest["body"]["mean_of"]["messages"], rest["body"]["outputs"]["y"][0]) == (10, 445.0), "the open window"
    assert "bad" not in [item["properties"]["$.on"] for item in world.upstream()] and len(world.upstream()) == 3


async def test_a_window_of_time_ends_without_a_further_message(world: EdgeWorld) -> None:
    world.data.point("current", install(world, 1, 10), 1)
    await world.start_scorer(*FIELDS, "--edge-sample", "mean:0.5s")
    async with world.sensor() as send:
        await send(reading(1))
        await send(reading(3))
        (mean,) = await world.arrived(1)
    assert mean["body"]["mean_of"]["messages"] == 2 and mean["body"]["outputs"]["y"][0] == 20.0
