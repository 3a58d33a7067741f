"""The unmodified azure-iot-device against the hub: device and module, twins, methods, drops and restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import MethodResponse
from azure.iot.device.aio import IoTHubDeviceClient, IoTHubModuleClient
from azure.iot.device.exceptions import CredentialError

from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.hub.workload import Workload, WorkloadAddress
from modelsync_server.iothub.errors import HubError
from modelsync_server.iothub.identity import Identity
from tests.support.hub_sdk import collector, sdk_device, sdk_module, set_handler, shut_down
from tests.support.waiting import until, within

EITHER = pytest.mark.parametrize(("connected", "module"), [(sdk_device, None), (sdk_module, "modelsync")])


@EITHER
async def test_a_twin_is_read_reported_and_merged(hub: Hub, connected: Any, module: str | None) -> None:
    async with connected(hub) as client:
        hub.set_desired("pi", {"modelsync": {"models": {"anomaly": {"version": 1}}}}, module)
        twin = await within(client.get_twin())
        assert twin["desired"] == {"modelsync": {"models": {"anomaly": {"version": 1}}}, "$version": 2}
        await within(client.patch_twin_reported_properties({"a": {"b": 1, "c": 2}}))
        await within(client.patch_twin_reported_properties({"a": {"b": None}, "d": [1, 2]}))
        expected = {"a": {"c": 2}, "d": [1, 2], "$version": 3}
        assert (await within(client.get_twin()))["reported"] == expected
        assert hub.reported("pi", module) == expected


@EITHER
async def test_a_connected_client_hears_every_desired_change(hub: Hub, connected: Any, module: str | None) -> None:
    async with connected(hub) as client:
        notices, handler = collector()
        await within(client.get_twin())
        await within(set_handler(client, "on_twin_desired_properties_patch_received", handler))
        hub.set_desired("pi", {"a": 1, "b": {"c": 2}}, module)
        hub.set_desired("pi", {"a": None}, module)
        assert await within(notices.get()) == {"a": 1, "b": {"c": 2}, "$version": 2}
        assert await within(notices.get()) == {"a": None, "$version": 3}


@EITHER
async def test_a_direct_method_reaches_the_client_and_its_answer_comes_back(
    hub: Hub, connected: Any, module: str | None
) -> None:
    async with connected(hub) as client:

        async def answer(request: Any) -> None:
            reply = MethodResponse.create_from_method_request(
                request, 207, {"name": request.name, "got": request.payload}
            )
            await client.send_method_response(reply)

        await within(set_handler(client, "on_method_request_received", answer))
        result = await within(
            hub.devices.invoke(Identity("pi", module), "do it", {"n": 1}, response_seconds=10, connect_seconds=0)
        )
        assert (result.status, result.payload) == (207, {"name": "do it", "got": {"n": 1}})


async def test_a_method_waits_for_a_device_that_is_about_to_connect(hub: Hub) -> None:
    hub.add_device("pi")
    call = asyncio.create_task(
        hub.devices.invoke(Identity("pi"), "status", None, response_seconds=10, connect_seconds=20)
    )
    async with sdk_device(hub) as client:

        async def answer(request: Any) -> None:
            await client.send_method_response(MethodResponse.create_from_method_request(request, 200, None))

        await within(set_handler(client, "on_method_request_received", answer))
        assert (await within(call)).status == 200


async def test_a_method_fails_at_once_when_its_device_goes_away(hub: Hub) -> None:
    async with sdk_device(hub) as client:
        requests, handler = collector()
        await within(set_handler(client, "on_method_request_received", handler))
        call = asyncio.create_task(
            hub.devices.invoke(Identity("pi"), "status", None, response_seconds=60, connect_seconds=0)
        )
        await within(requests.get())
    with pytest.raises(HubError) as caught:
        await within(call)
    assert caught.value.code == 404103


@pytest.mark.parametrize("kind", ["key", "device"])
async def test_a_wrong_key_or_an_unknown_device_is_refused_for_good(hub: Hub, kind: str) -> None:
    text = hub.add_device("pi")
    text = text.replace("DeviceId=pi", "DeviceId=po") if kind == "device" else hub.add_device("po").replace("po", "pi")
    client: Any = IoTHubDeviceClient.create_from_connection_string(text, server_verification_cert=hub.ca_pem)
    async with shut_down(client):
        with pytest.raises(CredentialError):
            await within(client.connect())


async def test_a_client_without_our_ca_does_not_connect(hub: Hub) -> None:
    client: Any = IoTHubDeviceClient.create_from_connection_string(hub.add_device("pi"))
    async with shut_down(client):
        with pytest.raises(Exception, match=r"(?i)tls|connection|certificate"):
            await within(client.connect())
    assert hub.devices.connected_since(Identity("pi")) is None


async def test_a_bad_reported_patch_is_an_error_to_its_sender_and_changes_nothing(hub: Hub) -> None:
    async with sdk_device(hub) as client:
        with pytest.raises(Exception, match=r"(?i)unexpected|service|status"):
            await within(client.patch_twin_reported_properties({"a": "x" * 5000}))
        assert hub.reported("pi") == {"$version": 1}
        await within(client.patch_twin_reported_properties({"a": "x" * 4000}))


async def test_a_second_connection_with_the_same_id_drops_the_first(hub: Hub) -> None:
    async with sdk_device(hub, connection_retry=False) as first:
        changes, _ = collector()
        loop = asyncio.get_running_loop()

        async def changed() -> None:
            loop.call_soon_threadsafe(changes.put_nowait, first.connected)

        first.on_connection_state_change = changed
        async with sdk_device(hub, connection_retry=False) as second:
            assert await within(changes.get()) is False
            await within(second.patch_twin_reported_properties({"who": "second"}))
            assert second.connected
    assert hub.reported("pi")["who"] == "second"


async def test_a_client_reconnects_to_a_restarted_hub_and_finds_all_state(tmp_path: Path, address: HubAddress) -> None:
    directory = tmp_path / "hub"
    async with Hub(directory, address) as hub:
        text, ca = hub.add_device("pi"), hub.ca_pem
        client: Any = IoTHubDeviceClient.create_from_connection_string(
            text, server_verification_cert=ca, connection_retry_interval=1
        )
        async with shut_down(client):
            await within(client.connect())
            notices, handler = collector()
            await within(client.get_twin())
            await within(set_handler(client, "on_twin_desired_properties_patch_received", handler))
            await within(client.patch_twin_reported_properties({"kept": True}))
            hub.set_desired("pi", {"a": 1})
            await within(notices.get())
            await hub.__aexit__(None, None, None)

            async with Hub(directory, address) as again:
                assert again.reported("pi") == {"kept": True, "$version": 2}
                await until(lambda: again.devices.connected_since(Identity("pi")), "the client")
                # The SDK never subscribes again: the session's subscriptions must have survived the restart.
                again.set_desired("pi", {"b": 2})
                while (await within(notices.get())).get("b") != 2:
                    pass
                twin = await within(client.get_twin())
                assert twin["desired"] == {"a": 1, "b": 2, "$version": 3}


async def test_a_change_made_while_the_client_is_away_is_not_queued(hub: Hub) -> None:
    notices, handler = collector()
    async with sdk_device(hub) as client:
        await within(client.get_twin())
        await within(set_handler(client, "on_twin_desired_properties_patch_received", handler))
    hub.set_desired("pi", {"missed": 1})
    async with sdk_device(hub) as client:
        await within(set_handler(client, "on_twin_desired_properties_patch_received", handler))
        hub.set_desired("pi", {"heard": 1})
        assert (await within(notices.get()))["$version"] == 3
        assert (await within(client.get_twin()))["desired"] == {"missed": 1, "heard": 1, "$version": 3}


@pytest.mark.parametrize("transport", ["socket", "http"])
async def test_an_edge_module_connects_from_its_environment(
    hub: Hub, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = WorkloadAddress(tmp_path / "w.sock" if transport == "socket" else None, hub.address.host)
    async with Workload(hub.state, Identity("edge", "modelsync"), hub.address.host, listen) as workload:
        for name, value in workload.environment.items():
            monkeypatch.setenv(name, value)
        client: Any = await asyncio.to_thread(IoTHubModuleClient.create_from_edge_environment)
        async with shut_down(client):
            await within(client.connect())
            await within(client.patch_twin_reported_properties({"edge": True}))
    assert hub.reported("edge", "modelsync") == {"edge": True, "$version": 2}
