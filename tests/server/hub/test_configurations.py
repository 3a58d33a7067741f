"""Configurations on the local hub: who is targeted, who wins, what is set and taken back, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.hub.traffic import Rate, Traffic
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ConflictError, NotFoundError, ServiceClient
from tests.support.addresses import loopback_address
from tests.support.hub_sdk import collector, sdk_device, set_handler
from tests.support.waiting import within

PLACE = "properties.desired.modelsync.models.anomaly"


def wish(version: int, condition: str = "*", priority: int = 10, kind: str = "deviceContent") -> dict[str, Any]:
    content = {PLACE: {"version": version}}
    return {
        "content": {kind: {"m": content} if kind == "modulesContent" else content},
        "targetCondition": condition,
        "priority": priority,
    }


@pytest.fixture
async def client(hub: Hub) -> AsyncIterator[ServiceClient]:
    async with ServiceClient(hub.service) as running:
        yield running


def version(hub: Hub, device: str, module: str | None = None) -> Any:
    models = hub.desired(device, module).get("modelsync", {}).get("models", {})
    return models.get("anomaly", {}).get("version")


async def tag(client: ServiceClient, device: str, **tags: Any) -> None:
    await client.update_twin(device, {"tags": tags})


async def test_the_highest_priority_wins_and_what_is_deleted_gives_way(hub: Hub, client: ServiceClient) -> None:
    for device in ("a", "b"):
        hub.add_device(device)
    await tag(client, "b", ring="canary")
    await client.put_configuration("all", wish(1))
    await client.put_configuration("ring", wish(2, "tags.ring = 'canary'", 20))
    assert (version(hub, "a"), version(hub, "b")) == (1, 2)
    twin = await client.twin("b")
    assert twin["configurations"] == {"all": {"status": "Targeted"}, "ring": {"status": "Applied"}}
    await client.delete_configuration("ring")
    assert (version(hub, "a"), version(hub, "b")) == (1, 1)
    await client.delete_configuration("all")
    assert (version(hub, "a"), version(hub, "b")) == (None, None)
    assert "configurations" not in await client.twin("b")


async def test_tags_and_new_devices_move_in_and_out(hub: Hub, client: ServiceClient) -> None:
    await client.put_configuration("ring", wish(2, "tags.ring = 'canary'"))
    hub.add_device("a")
    assert version(hub, "a") is None
    await tag(client, "a", ring="canary")
    assert version(hub, "a") == 2
    await tag(client, "a", ring=None)
    assert version(hub, "a") is None
    await client.put_configuration("all", wish(3))
    await client.register("late")
    assert version(hub, "late") == 3


async def test_different_properties_of_one_twin_come_from_different_configurations(
    hub: Hub, client: ServiceClient
) -> None:
    hub.add_device("a")
    hub.set_desired("a", {"modelsync": {"policy": {"hold": False}}})
    await client.put_configuration("one", wish(1))
    other = {"deviceContent": {"properties.desired.modelsync.models.other": {"version": 7}}}
    await client.put_configuration("two", {"content": other, "targetCondition": "*", "priority": 5})
    assert hub.desired("a")["modelsync"] == {
        "policy": {"hold": False},
        "models": {"anomaly": {"version": 1}, "other": {"version": 7}},
    }
    assert {each["status"] for each in (await client.twin("a"))["configurations"].values()} == {"Applied"}


async def test_modules_are_targeted_by_their_own_tags_and_deployments_by_the_devices(
    hub: Hub, client: ServiceClient
) -> None:
    for device in ("a", "b"):
        hub.add_device(device, "m")
    await tag(client, "a", site="north")
    await client.update_twin("b", {"tags": {"site": "north"}}, "m")
    await client.put_configuration("layer", wish(4, "tags.site = 'north'", kind="modulesContent"))
    assert (version(hub, "a", "m"), version(hub, "b", "m")) == (4, None)
    condition = "FROM devices.modules WHERE moduleId = 'm' AND tags.site = 'north'"
    await client.put_configuration("own", wish(5, condition, 20, "moduleContent"))
    assert (version(hub, "a", "m"), version(hub, "b", "m")) == (4, 5)
    assert version(hub, "a") is None


async def test_a_deployment_may_set_all_desired_properties_of_a_module(hub: Hub, client: ServiceClient) -> None:
    hub.add_device("a", "m")
    hub.set_desired("a", {"by_hand": 1}, "m")
    content = {"modulesContent": {"m": {"properties.desired": {"base": True}}}}
    await client.put_configuration("base", {"content": content, "targetCondition": "*", "priority": 0})
    await client.put_configuration("layer", wish(6, kind="modulesContent"))
    desired = hub.desired("a", "m")
    assert (desired.get("base"), desired.get("by_hand")) == (True, None)
    assert version(hub, "a", "m") == 6


async def test_an_empty_condition_targets_nobody_until_it_gets_another(hub: Hub, client: ServiceClient) -> None:
    hub.add_device("a")
    made = await client.put_configuration("ring", wish(2, ""))
    assert version(hub, "a") is None
    await client.put_configuration("ring", wish(2, "deviceId IN ['a', 'z']"), etag=made["etag"])
    assert version(hub, "a") == 2


async def test_content_is_immutable_and_the_etag_decides_a_race(client: ServiceClient) -> None:
    made = await client.put_configuration("c", wish(1))
    with pytest.raises(ConflictError):
        await client.put_configuration("c", wish(1))
    with pytest.raises(UsageError, match="immutable"):
        await client.put_configuration("c", wish(2), etag=made["etag"])
    labelled = {**wish(1), "labels": {"state": "paused"}}
    changed = await client.put_configuration("c", labelled, etag=made["etag"])
    assert changed["labels"] == {"state": "paused"}
    assert changed["createdTimeUtc"] == made["createdTimeUtc"]
    with pytest.raises(ConflictError):
        await client.put_configuration("c", labelled, etag=made["etag"])
    with pytest.raises(ConflictError):
        await client.delete_configuration("c", etag=made["etag"])
    with pytest.raises(NotFoundError):
        await client.configuration("none")


async def test_metrics_count_twins(hub: Hub, client: ServiceClient) -> None:
    for device in ("a", "b", "c"):
        hub.add_device(device)
    applied = "configurations.[[ring]].status = 'Applied'"
    queries = {"big": f"SELECT deviceId FROM devices WHERE {applied} AND NOT deviceId = 'a'"}
    body = {**wish(2, "deviceId IN ['a', 'b']"), "metrics": {"queries": queries}}
    await client.put_configuration("ring", body)
    await client.put_configuration("higher", wish(3, "deviceId = 'b'", 99))
    (ring,) = [each for each in await client.configurations() if each["id"] == "ring"]
    assert ring["systemMetrics"]["results"] == {"targetedCount": 2, "appliedCount": 1}
    assert ring["metrics"] == {"results": {"big": 0}, "queries": queries}


async def test_a_connected_device_hears_only_of_what_changes_for_it(hub: Hub, client: ServiceClient) -> None:
    async with sdk_device(hub, "a") as device:
        queue, handler = collector()
        await within(device.get_twin())
        await set_handler(device, "on_twin_desired_properties_patch_received", handler)
        await client.put_configuration("all", wish(1))
        notice = await within(queue.get())
        assert notice["modelsync"] == {"models": {"anomaly": {"version": 1}}}
        before = notice["$version"]
        # The same value from another configuration is no news.
        await client.put_configuration("higher", wish(1, "*", 20))
        await client.delete_configuration("all")
        assert hub.desired("a")["$version"] == before
        await client.put_configuration("highest", wish(2, "*", 30))
        assert (await within(queue.get()))["$version"] == before + 1


async def test_configurations_outlive_the_hub_and_reach_devices_added_meanwhile(tmp_path: Path) -> None:
    address = HubAddress(loopback_address(), service_port=0)
    async with Hub(tmp_path, address) as hub, ServiceClient(hub.service) as client:
        hub.add_device("a")
        await client.put_configuration("all", wish(1))
    async with Hub(tmp_path, address) as hub, ServiceClient(hub.service) as client:
        assert (await client.twin("a"))["configurations"] == {"all": {"status": "Applied"}}
        hub.state.add(Identity("b"))
        hub.configurations.apply_all()
        assert version(hub, "b") == 1
        await client.delete_configuration("all")
        assert (version(hub, "a"), version(hub, "b")) == (None, None)


BAD: list[dict[str, Any]] = [
    {"content": {}},
    {"content": {"deviceContent": {"reported.x": 1}}},
    {"content": {"deviceContent": {"properties.desired.a..b": 1}}},
    {"content": {"deviceContent": {"properties.desired.a": 1}, "moduleContent": {"properties.desired.a": 1}}},
    {"content": {"deviceContent": {"properties.desired.a b": 1}}},
    {"content": {"modulesContent": {"m": {"properties.desired": 5}}}},
    {**wish(1), "priority": -1},
    {**wish(1), "targetCondition": "tags.a ="},
    {**wish(1), "targetCondition": 5},
    {**wish(1, "tags.a = 1", kind="moduleContent")},
    {**wish(1), "labels": {"a": 1}},
    {**wish(1), "metrics": {"queries": {"x": "SELECT nonsense"}}},
    {**wish(1), "metrics": {"queries": {str(number): "SELECT * FROM devices" for number in range(6)}}},
    {**wish(1), "id": "another"},
]


@pytest.mark.parametrize("body", BAD)
async def test_a_bad_configuration_is_refused_and_leaves_nothing(client: ServiceClient, body: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        await client.put_configuration("c", body)
    assert await client.configurations() == []


async def test_a_hub_holds_a_hundred(hub: Hub, client: ServiceClient) -> None:
    for number in range(100):
        hub.configurations.put(f"c{number}", wish(1, ""), None)
    with pytest.raises(RefusedError, match="quota"):
        await client.put_configuration("one-more", wish(1))
    with pytest.raises(UsageError):
        await client.put_configuration("With Blanks", wish(1))


async def test_rates_are_kept_with_retry_after_and_all_requests_are_logged(tmp_path: Path) -> None:
    traffic = Traffic({"twin_reads": Rate(2, 1.0)})
    async with Hub(tmp_path, HubAddress(loopback_address(), service_port=0), traffic=traffic) as hub:
        hub.add_device("a")
        async with ServiceClient(hub.service) as client:
            for _ in range(3):
                await client.twin("a")
    statuses = [request.status for request in traffic.log]
    assert statuses == [200, 200, 429, 200]
    assert {(request.kind, request.path) for request in traffic.log} == {("twin_reads", "/twins/a")}
    assert traffic.peak("twin_reads", 1.0) == 3


async def test_the_registry_is_changed_in_bulk(hub: Hub, client: ServiceClient) -> None:
    items: list[dict[str, Any]] = [{"id": f"d{n}", "importMode": "create", "tags": {"n": n}} for n in range(100)]
    assert await client.change_registry(items) == []
    assert len([each async for each in client.query("SELECT deviceId FROM devices WHERE tags.n >= 0", page=7)]) == 100
    errors = await client.change_registry(
        [
            {"id": "d1", "importMode": "create"},
            {"id": "d2", "importMode": "updateTwin", "tags": {"n": "two"}},
            {"id": "none", "importMode": "updateTwin", "tags": {"n": 1}},
            {"id": "d3", "importMode": "delete"},
        ]
    )
    assert [error["deviceId"] for error in errors] == ["d1", "none"]
    assert (await client.twin("d2"))["tags"] == {"n": "two"}
    with pytest.raises(NotFoundError):
        await client.twin("d3")
    with pytest.raises(UsageError):
        await client.change_registry([{"id": f"x{n}"} for n in range(101)])


async def test_counts_come_in_pages(hub: Hub, client: ServiceClient) -> None:
    for number in range(5):
        hub.add_device(f"d{number}")
        await tag(client, f"d{number}", site=f"s{number % 3}")
    text = "SELECT tags.site AS site, COUNT() AS n FROM devices GROUP BY tags.site"
    assert [(row["site"], row["n"]) async for row in client.query(text, page=2)] == [("s0", 2), ("s1", 2), ("s2", 1)]
