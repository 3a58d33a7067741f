"""The service REST: paths, bodies, ETags and errors as in Microsoft's reference (api-version 2021-04-12)."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub.certificates import ensure
from modelsync_server.hub.hub import HUB_NAME, POLICY, Hub
from modelsync_server.iothub import sas
from modelsync_server.iothub.connection_string import ServiceConnection, parse_service
from modelsync_server.iothub.errors import HubError
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import NotFoundError, NotOnlineError, ServiceClient, TwinConflictError
from tests.support.hub_sdk import sdk_device
from tests.support.hub_wire import connect_packet, wire

VERSION = {"api-version": "2021-04-12"}


class Rest:
    """A plain HTTP client with a valid token: what any other service SDK would send."""

    def __init__(self, hub: Hub, session: aiohttp.ClientSession) -> None:
        self._hub = hub
        self._session = session

    async def __call__(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str
    ) -> tuple[int, Any, Any]:
        """Return status, parsed body and headers; `headers` use '_' for '-'."""
        key = self._hub.service.key
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["Authorization"] = sas.sign(key, HUB_NAME, int(time.time()) + 600, POLICY) if token is None else token
        url = self._hub.service.base_url + path
        params = {} if "api-version" in path else VERSION
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, url, data=data, params=params, headers=sent) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if raw else None, response.headers


@pytest.fixture
async def rest(hub: Hub) -> AsyncIterator[Rest]:
    context = ssl.create_default_context(cafile=str(hub.ca_path))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield Rest(hub, session)


@pytest.fixture
async def client(hub: Hub) -> AsyncIterator[ServiceClient]:
    async with ServiceClient(hub.service) as running:
        yield running


async def test_a_device_is_created_read_changed_and_deleted(rest: Rest) -> None:
    status, made, headers = await rest("PUT", "/devices/pi", {"deviceId": "pi"})
    assert status == 200
    assert (made["deviceId"], made["status"], made["connectionState"]) == ("pi", "enabled", "Disconnected")
    assert made["authentication"]["type"] == "sas"
    assert set(made["authentication"]["symmetricKey"]) == {"primaryKey", "secondaryKey"}
    assert headers["ETag"] == f'"{made["etag"]}"'

    status, error, headers = await rest("PUT", "/devices/pi", {"deviceId": "pi"})
    assert (status, headers["iothub-errorcode"]) == (409, "DeviceAlreadyExists")
    assert error["Message"].startswith("ErrorCode:DeviceAlreadyExists;")

    status, changed, _ = await rest("PUT", "/devices/pi", made | {"status": "disabled"}, If_Match=f'"{made["etag"]}"')
    assert (status, changed["status"]) == (200, "disabled")
    assert changed["authentication"] == made["authentication"]
    assert (await rest("PUT", "/devices/pi", made, If_Match=f'"{made["etag"]}"'))[0] == 412

    assert (await rest("DELETE", "/devices/pi", If_Match="*"))[0] == 204
    status, error, headers = await rest("GET", "/devices/pi")
    assert (status, headers["iothub-errorcode"]) == (404, "DeviceNotFound")
    assert error["Message"] == "ErrorCode:DeviceNotFound;pi"
    assert error["ExceptionMessage"].startswith("Tracking ID:")


async def test_modules_belong_to_a_device_and_go_with_it(rest: Rest) -> None:
    assert (await rest("PUT", "/devices/pi/modules/m", {"deviceId": "pi", "moduleId": "m"}))[0] == 404
    await rest("PUT", "/devices/pi", {})
    status, made, _ = await rest("PUT", "/devices/pi/modules/m", {"deviceId": "pi", "moduleId": "m"})
    assert (status, made["moduleId"]) == (200, "m")
    assert [module["moduleId"] for module in (await rest("GET", "/devices/pi/modules"))[1]] == ["m"]
    await rest("DELETE", "/devices/pi")
    status, _, headers = await rest("GET", "/twins/pi/modules/m")
    assert (status, headers["iothub-errorcode"]) == (404, "DeviceNotFound")


async def test_a_given_key_is_kept_and_a_bad_one_refused(rest: Rest) -> None:
    key = "YW5vdGhlciBrZXksIG5vIHNlY3JldCBlaXRoZXIhISE="
    body = {"authentication": {"type": "sas", "symmetricKey": {"primaryKey": key, "secondaryKey": key}}}
    assert (await rest("PUT", "/devices/a", body))[1]["authentication"]["symmetricKey"]["primaryKey"] == key
    wrong: list[Any] = [
        {"authentication": {"symmetricKey": {"primaryKey": "not base64!"}}},
        {"authentication": {"symmetricKey": {"primaryKey": 5}}},
        {"authentication": {"type": "certificateAuthority"}},
        {"authentication": [1]},
        {"deviceId": "other"},
        {"deviceId": 5},
        {"status": ["enabled"]},
    ]
    for document in wrong:
        assert (await rest("PUT", "/devices/b", document))[0] == 400, document
    assert (await rest("GET", "/devices/b"))[0] == 404


@pytest.mark.parametrize("path", ["/twins/pi", "/twins/pi/modules/m"])
async def test_a_twin_has_the_documented_shape(hub: Hub, rest: Rest, path: str) -> None:
    hub.add_device("pi", "m")
    status, twin, headers = await rest("GET", path)
    assert status == 200
    documented = {
        "deviceId",
        "etag",
        "deviceEtag",
        "status",
        "statusUpdateTime",
        "connectionState",
        "lastActivityTime",
        "cloudToDeviceMessageCount",
        "authenticationType",
        "x509Thumbprint",
        "version",
        "properties",
        "tags",
        "capabilities",
    }
    assert documented <= twin.keys()
    assert ("moduleId" in twin) == path.endswith("/m")
    for section in twin["properties"].values():
        assert section["$version"] == 1
        assert "$lastUpdated" in section["$metadata"]
    assert headers["ETag"] == f'"{twin["etag"]}"'


async def test_a_patch_merges_tags_and_desired_and_moves_the_etag(hub: Hub, rest: Rest) -> None:
    hub.add_device("pi")
    before = (await rest("GET", "/twins/pi"))[1]
    body = {"tags": {"ring": 1}, "properties": {"desired": {"a": {"b": 1}, "c": 2}}}
    status, twin, _ = await rest("PATCH", "/twins/pi", body, If_Match=f'"{before["etag"]}"')
    assert status == 200
    assert twin["tags"] == {"ring": 1}
    desired = twin["properties"]["desired"]
    assert (desired["a"], desired["c"], desired["$version"]) == ({"b": 1}, 2, 2)
    assert twin["etag"] != before["etag"]

    status, _, headers = await rest("PATCH", "/twins/pi", body, If_Match=f'"{before["etag"]}"')
    assert (status, headers["iothub-errorcode"]) == (412, "PreconditionFailed")
    assert hub.desired("pi")["$version"] == 2

    await rest("PATCH", "/twins/pi", {"properties": {"desired": {"a": {"b": None}, "c": None}}}, If_Match="*")
    assert hub.desired("pi") == {"a": {}, "$version": 3}


async def test_a_put_replaces_tags_and_desired(hub: Hub, rest: Rest) -> None:
    hub.add_device("pi")
    hub.set_desired("pi", {"a": 1})
    await rest("PATCH", "/twins/pi", {"tags": {"x": 1}})
    twin = (await rest("PUT", "/twins/pi", {"properties": {"desired": {"b": 2}}}))[1]
    assert hub.desired("pi") == {"b": 2, "$version": 3}
    assert twin["tags"] == {}


async def test_reported_properties_do_not_move_the_etag(hub: Hub, rest: Rest) -> None:
    async with sdk_device(hub) as device:
        before = (await rest("GET", "/twins/pi"))[1]
        await device.patch_twin_reported_properties({"a": 1})
        after = (await rest("GET", "/twins/pi"))[1]
    assert after["properties"]["reported"]["a"] == 1
    assert after["connectionState"] == "Connected"
    assert (after["etag"], after["version"]) == (before["etag"], before["version"] + 1)


BAD_TWINS: list[Any] = [
    {"properties": {"desired": {"a.b": 1}}},
    {"properties": {"desired": {"a": "x" * 5000}}},
    {"properties": {"desired": [1]}},
    {"properties": 1},
    {"tags": {"a": "x" * 4096, "b": "x" * 4096}},
    [],
]


@pytest.mark.parametrize("body", BAD_TWINS)
async def test_a_bad_twin_change_is_a_400_and_changes_nothing(hub: Hub, rest: Rest, body: Any) -> None:
    hub.add_device("pi")
    status, error, _ = await rest("PATCH", "/twins/pi", body)
    assert status == 400
    assert error["Message"].startswith("ErrorCode:")
    assert hub.desired("pi") == {"$version": 1}


async def test_a_method_for_an_absent_device_is_iot_hubs_404(hub: Hub, rest: Rest) -> None:
    hub.add_device("pi")
    status, error, headers = await rest("POST", "/twins/pi/methods", {"methodName": "status"})
    assert (status, headers["iothub-errorcode"]) == (404, "DeviceNotOnline")
    assert error["ExceptionMessage"] == ""
    detail = json.loads(error["Message"])
    assert (detail["errorCode"], detail["message"]) == (404103, "Timed out waiting for device to connect.")
    assert detail["info"] == {"timeout": "00:00:00"}
    assert (await rest("POST", "/twins/po/methods", {"methodName": "status"}))[1]["Message"].startswith(
        "ErrorCode:DeviceNotFound"
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"methodName": ""},
        {"methodName": "a", "responseTimeoutInSeconds": 1},
        {"methodName": "a", "connectTimeoutInSeconds": True},
        {"methodName": "a", "payload": "x" * 140_000},
    ],
)
async def test_a_malformed_method_call_is_a_400(hub: Hub, rest: Rest, body: Any) -> None:
    hub.add_device("pi")
    assert (await rest("POST", "/twins/pi/methods", body))[0] == 400


async def test_a_device_that_does_not_answer_is_a_504(hub: Hub) -> None:
    hub.add_device("pi")
    pi = Identity("pi")
    async with wire(hub) as device:
        await device.ask(connect_packet(hub, pi))
        await device.ask(mqtt.Subscribe(1, (("$iothub/methods/POST/#", 1),)))
        with pytest.raises(HubError) as caught:
            # REST allows no less than 5 seconds.
            await hub.devices.invoke(pi, "status", None, response_seconds=0.1, connect_seconds=0)
        call = await device.receive()
        assert isinstance(call, mqtt.Publish)
        rid = call.topic.partition("$rid=")[2]
        late = mqtt.Publish(f"$iothub/methods/res/200/?$rid={rid}", b"{}", 1, 2)
        assert await device.ask(late) == mqtt.Puback(2), "an answer that comes too late is no offence"
    assert caught.value.status == 504
    detail = json.loads(caught.value.body()["Message"])
    assert (detail["errorCode"], detail["message"]) == (504101, "Timed out waiting for the response from device.")


async def test_a_query_pages_with_continuation_tokens(hub: Hub, rest: Rest) -> None:
    for index in range(5):
        hub.add_device(f"pi{index}")
    found, headers = [], {"x_ms_max_item_count": "2"}
    while True:
        status, page, answer = await rest("POST", "/devices/query", {"query": "SELECT * FROM devices"}, **headers)
        assert status == 200 and answer["x-ms-item-type"] == "Twin"
        found.append([twin["deviceId"] for twin in page])
        if "x-ms-continuation" not in answer:
            break
        headers["x_ms_continuation"] = answer["x-ms-continuation"]
    assert found == [["pi0", "pi1"], ["pi2", "pi3"], ["pi4"]]
    assert (await rest("POST", "/devices/query", {"query": "SELECT * FROM devices"}, x_ms_continuation="?"))[0] == 400


async def test_a_query_tells_devices_from_modules_and_filters(hub: Hub, client: ServiceClient) -> None:
    hub.add_device("a", "m")
    hub.add_device("b", "m")
    hub.set_desired("b", {"modelsync": {"ring": 2}}, "m")
    assert [t["deviceId"] async for t in client.query("select * from devices", page=1)] == ["a", "b"]
    where = "SELECT * FROM devices.modules WHERE moduleId = 'm' AND properties.desired.modelsync.ring >= 2"
    assert [(t["deviceId"], t["moduleId"]) async for t in client.query(where)] == [("b", "m")]
    with pytest.raises(UsageError):
        [t async for t in client.query("SELECT deviceId FROM jobs")]


def bad_tokens(key: str) -> dict[str, str]:
    later = int(time.time()) + 600
    return {
        "none": "",
        "other key": sas.sign("YW5vdGhlciBrZXksIG5vIHNlY3JldCBlaXRoZXIhISE=", HUB_NAME, later, POLICY),
        "expired": sas.sign(key, HUB_NAME, 1_600_000_000, POLICY),
        "other policy": sas.sign(key, HUB_NAME, later, "stranger"),
        "no policy": sas.sign(key, HUB_NAME, later),
        "other hub": sas.sign(key, "elsewhere.example", later, POLICY),
        "bearer": "Bearer abc",
    }


async def test_every_wrong_token_is_a_401(hub: Hub, rest: Rest) -> None:
    for name, token in bad_tokens(hub.service.key).items():
        status, error, headers = await rest("GET", "/twins/pi", token=token)
        assert (status, headers["iothub-errorcode"]) == (401, "IotHubUnauthorizedAccess"), name
        assert error["Message"].startswith("ErrorCode:IotHubUnauthorizedAccess;"), name


async def test_other_api_versions_unknown_paths_and_huge_bodies_are_refused(hub: Hub, rest: Rest) -> None:
    assert (await rest("GET", "/twins/pi?api-version=2016-02-03"))[0] == 400
    assert (await rest("GET", "/nothing"))[0] == 404
    assert (await rest("GET", "/twins/a%20b"))[0] == 400
    hub.add_device("pi")
    assert (await rest("PATCH", "/twins/pi", {"tags": {"a": "x" * 600_000}}))[0] == 413


async def test_the_client_registers_changes_and_removes(client: ServiceClient) -> None:
    odd = "a%2f:+#?b"
    await client.register(odd)
    twin = await client.set_desired(odd, {"a": 1})
    assert twin["properties"]["desired"]["a"] == 1
    assert (await client.set_desired(odd, {"a": 2}, etag=twin["etag"]))["properties"]["desired"]["a"] == 2
    with pytest.raises(TwinConflictError):
        await client.set_desired(odd, {"a": 3}, etag=twin["etag"])
    assert (await client.twin(odd))["deviceId"] == odd
    await client.remove(odd)
    with pytest.raises(NotFoundError):
        await client.twin(odd)


async def test_a_bearer_token_is_sent_instead_of_the_key(hub: Hub) -> None:
    async def token() -> str:
        return "entra-token"

    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.json_response({"deviceId": "pi"})

    app = web.Application()
    app.router.add_get("/twins/pi", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(
        runner, hub.address.host, 0, ssl_context=ensure(hub.directory, hub.address.host).server_context()
    )
    await site.start()
    gateway = f"{hub.address.host}:{runner.addresses[0][1]}"
    connection = ServiceConnection("contoso.azure-devices.net", "service", "YQ==", gateway, hub.ca_path)
    try:
        async with ServiceClient(connection, bearer=token) as azure:
            assert await azure.twin("pi") == {"deviceId": "pi"}
    finally:
        await runner.cleanup()
    assert seen == ["Bearer entra-token"]


async def test_the_client_tells_who_is_at_fault(hub: Hub, client: ServiceClient) -> None:
    hub.add_device("pi")
    with pytest.raises(NotOnlineError):
        await client.invoke("pi", "status")
    wrong_key = ServiceConnection(HUB_NAME, POLICY, "b3RoZXIga2V5", hub.service.gateway, hub.service.ca_file)
    async with ServiceClient(wrong_key) as stranger:
        with pytest.raises(RefusedError):
            await stranger.twin("pi")
    async with ServiceClient(ServiceConnection(HUB_NAME, POLICY, "b3RoZXIga2V5", hub.service.gateway)) as trusting:
        with pytest.raises(RefusedError, match="certificate"):
            await trusting.twin("pi")
    nobody = ServiceConnection(HUB_NAME, POLICY, "b3RoZXIga2V5", f"{hub.address.host}:1")
    async with ServiceClient(nobody) as lonely:
        with pytest.raises(UnreachableError):
            await lonely.twin("pi")


async def test_methods_of_many_devices_run_side_by_side(hub: Hub, client: ServiceClient) -> None:
    for name in ("a", "b"):
        hub.add_device(name)
    results = await asyncio.gather(
        *(client.invoke(name, "x", connect_seconds=1) for name in ("a", "b")), return_exceptions=True
    )
    assert [type(result) for result in results] == [NotOnlineError, NotOnlineError]


def test_azures_service_connection_strings_are_read() -> None:
    found = parse_service("HostName=contoso.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey=YQ==")
    assert (found.base_url, found.policy, found.key, found.ca_file) == (
        "https://contoso.azure-devices.net",
        "service",
        "YQ==",
        None,
    )
    for text in ("", "HostName=a", "HostName=a;DeviceId=b;SharedAccessKey=c", "nonsense"):
        with pytest.raises(UsageError):
            parse_service(text)
