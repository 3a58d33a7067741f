"""The hub as edgeHub: messages of the real SDK go from outputs to inputs and to the cloud, and wait for who is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import typer
from azure.iot.device import Message as SdkMessage
from azure.iot.device.aio import IoTHubModuleClient
from typer.testing import CliRunner

from modelsync_protocol.errors import UsageError
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.cli import hub_commands
from modelsync_server.hub import messages
from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.hub.messages import Messages
from modelsync_server.hub.routes import EDGE_HUB, Message, Sink
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import ServiceClient
from tests.server.hub.test_transcripts import replay
from tests.support.hub_sdk import collector, sdk_device, sdk_module, set_handler, shut_down
from tests.support.waiting import until, within

_INTO = 'INTO BrokeredEndpoint("/modules/scoring/inputs/readings")'
ROUTES = {
    "schemaVersion": "1.1",
    "routes": {
        "in": f"FROM /messages/modules/sensor/outputs/readings {_INTO}",
        "up": {"route": "FROM /messages/modules/scoring/outputs/answers INTO $upstream", "priority": 0},
    },
}


def sdk_message(text: str, **properties: str) -> Any:
    kind: Any = SdkMessage
    message = kind(text)
    message.custom_properties.update(properties)
    return message


def route(hub: Hub, desired: dict[str, Any] = ROUTES) -> None:
    hub.add_device("pi", EDGE_HUB)
    hub.set_desired("pi", desired, EDGE_HUB)


def bodies(hub: Hub) -> list[str]:
    return [item.message.body.decode() for item in hub.messages.upstream()]


async def test_a_message_goes_from_an_output_to_an_input_and_the_answer_to_the_cloud(hub: Hub) -> None:
    route(hub)
    async with sdk_module(hub, module="sensor") as sensor, sdk_module(hub, module="scoring") as scoring:
        arrived, handler = collector()
        await within(set_handler(scoring, "on_message_received", handler))
        sent = sdk_message('{"t": 21.5}', unit="°C & =/?", empty="")
        sent.message_id, sent.correlation_id = "m-1", "c-1"
        sent.content_type, sent.content_encoding = "application/json", "utf-8"
        await within(sensor.send_message_to_output(sent, "readings"))
        got = await within(arrived.get())
        assert (got.input_name, got.data, got.message_id, got.correlation_id) == (
            "readings",
            b'{"t": 21.5}',
            "m-1",
            "c-1",
        )
        assert got.custom_properties == {"unit": "°C & =/?", "empty": "", "$.cdid": "pi", "$.cmid": "sensor"}
        assert (got.content_type, got.content_encoding) == ("application/json", "utf-8")
        await within(scoring.send_message_to_output(sdk_message("[1]"), "answers"))
        await within(sensor.send_message_to_output(sdk_message("nobody's"), "other"))
        (item,) = hub.messages.upstream()
        assert (item.message.sender, item.message.body) == (Identity("pi", "scoring"), b"[1]")
        assert item.document()["properties"] == {"$.on": "answers"} and item.document()["body"] == [1]


async def test_without_routes_everything_goes_to_the_cloud(hub: Hub) -> None:
    async with sdk_device(hub) as device, sdk_module(hub, module="sensor") as sensor:
        await within(device.send_message(sdk_message("1")))
        await within(sensor.send_message_to_output(sdk_message("2"), "readings"))
        assert bodies(hub) == ["1", "2"]


async def test_messages_wait_in_order_for_a_module_that_is_away_and_survive_the_hub(
    tmp_path: Path, address: HubAddress
) -> None:
    count = 130  # more than one window
    async with Hub(tmp_path / "hub", address) as hub:
        route(hub)
        async with sdk_module(hub, module="sensor") as sensor:
            for number in range(count):
                await within(sensor.send_message_to_output(sdk_message(str(number)), "readings"))
    async with Hub(tmp_path / "hub", address) as hub, sdk_module(hub, module="scoring") as scoring:
        arrived, handler = collector()
        await within(set_handler(scoring, "on_message_received", handler))
        assert [int((await within(arrived.get())).data) for _ in range(count)] == list(range(count))
        await until(lambda: not hub.messages.waiting(Identity("pi", "scoring")), "the acknowledgements")


async def test_a_module_gets_again_what_it_did_not_acknowledge(tmp_path: Path, address: HubAddress) -> None:
    lose = True

    def losing(identity: Identity, packet: mqtt.Publish) -> Iterable[float]:
        return () if lose and "/inputs/" in packet.topic else (0.0,)

    async with Hub(tmp_path / "hub", address, outgoing=losing) as hub:
        route(hub)
        scoring = Identity("pi", "scoring")
        hub.add_device("pi", "scoring")
        text = hub.add_device(scoring.device, scoring.module)
        client: Any = IoTHubModuleClient.create_from_connection_string(
            text, server_verification_cert=hub.ca_pem, connection_retry_interval=1
        )
        async with shut_down(client), sdk_module(hub, module="sensor") as sensor:
            arrived, handler = collector()
            await within(set_handler(client, "on_message_received", handler))  # connects, too
            await within(sensor.send_message_to_output(sdk_message("once"), "readings"))
            await asyncio.sleep(0.1)
            assert arrived.empty() and len(hub.messages.waiting(scoring)) == 1
            lose = False
            hub.device_side.drop_all()
            assert (await within(arrived.get())).data == b"once"
            await until(lambda: not hub.messages.waiting(scoring), "the acknowledgement")


async def test_a_wrong_route_is_refused_and_the_old_ones_stay(hub: Hub) -> None:
    route(hub)
    async with ServiceClient(hub.service) as service:
        with pytest.raises(UsageError, match=r"route 'up': the local hub does not understand the condition '\$body"):
            wrong = {"routes": {"up": "FROM /* WHERE $body.t > 5 INTO $upstream"}}
            await service.set_desired("pi", wrong, EDGE_HUB)
        twin = await service.twin("pi", EDGE_HUB)
        assert twin["properties"]["desired"]["routes"] == ROUTES["routes"]
        await service.set_desired("pi", {"routes": {"up": None}}, EDGE_HUB)
        hub.add_device("pi", "other")
        await service.set_desired("pi", {"routes": "of another kind"}, "other")


async def test_the_last_messages_are_kept_and_the_oldest_make_room(tmp_path: Path) -> None:
    with Messages(tmp_path, kept=3) as store:
        sender, module = Identity("pi", "a"), Identity("pi", "b")
        for number in range(5):
            store.add(Message(sender, {}, str(number).encode()), [Sink(), Sink("b", "in")])
        assert [item.message.body for item in store.upstream()] == [b"2", b"3", b"4"]
        assert [item.message.body for item in store.waiting(module)] == [b"2", b"3", b"4"]
        assert [item.message.body for item in store.upstream(after=store.upstream()[0].seq, limit=1)] == [b"4"]
        assert store.waiting(Identity("pi", "c")) == []
    with Messages(tmp_path) as store:
        assert len(store.upstream()) == 3 and messages.KEPT > 3


async def test_the_command_prints_what_went_to_the_cloud(hub: Hub) -> None:
    for number, device in enumerate(("pi", "po", "pi")):
        hub.messages.add(
            Message(Identity(device, "m"), {"$.on": "x", "k": "v"}, f'{{"n": {number}}}'.encode()), [Sink()]
        )
    hub.messages.add(Message(Identity("pi"), {}, b"\xff no JSON"), [Sink()])

    def run(*arguments: str) -> list[Any]:
        app = typer.Typer()
        hub_commands.register(app)
        done = CliRunner().invoke(app, ["hub", "messages", *arguments, "--state", str(hub.directory)])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    lines = await asyncio.to_thread(run)
    assert [line["body"] for line in lines] == [{"n": 0}, {"n": 1}, {"n": 2}, "\ufffd no JSON"]
    assert lines[0]["properties"] == {"$.on": "x", "k": "v"} and (lines[0]["device"], lines[0]["module"]) == ("pi", "m")
    assert [line["seq"] for line in await asyncio.to_thread(run, "--device", "pi", "--last", "2")] == [3, 4]


async def test_the_sdks_recorded_scoring_session_gets_its_input_and_its_answer_goes_up(
    tmp_path: Path, address: HubAddress
) -> None:
    async with replay("scorer", tmp_path, address) as session:
        hub, identity = session.hub, session.identity
        sent = Message(Identity("edge-1", "sensor"), {"$.on": "readings", "$.mid": "m-1"}, b'{"t": 21}')
        hub.messages.add(sent, [Sink("scoring", "in 1")])
        session.send(0)
        await session.answers(1)
        session.send(1)  # SUBSCRIBE devices/edge-1/modules/scoring/inputs/#
        suback, publish = await session.answers(2)
        assert suback == bytes.fromhex("9003000101")
        topic = b"devices/edge-1/modules/scoring/inputs/in%201/%24.mid=m-1&%24.cdid=edge-1&%24.cmid=sensor"
        body = len(topic).to_bytes(2, "big") + topic + b"\x00\x01" + b'{"t": 21}'
        assert publish == bytes([0x32, len(body)]) + body
        assert len(hub.messages.waiting(identity)) == 1
        session.send(2)  # PUBACK
        session.send(3)  # PUBLISH to the output `answers`
        assert await session.answers(1) == [bytes.fromhex("40020002")]
        assert hub.messages.waiting(identity) == []
        (up,) = hub.messages.upstream()
        assert up.message.properties["$.on"] == "answers" and up.message.properties["$.cid"] == "m-1"
        assert up.message.body == b'{"score": 1}'
