"""The device side against clients that are wrong, hostile, slow or expired, on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub.device_side import Limits
from modelsync_server.hub.hub import HUB_NAME, Hub, HubAddress
from modelsync_server.iothub.errors import HubError
from modelsync_server.iothub.identity import Identity
from tests.support.hub_wire import PATIENCE, connect_packet, wire

PI = Identity("pi")
REFUSED = mqtt.Connack(False, mqtt.NOT_AUTHORISED)
OTHER_KEY = "YW5vdGhlciBrZXksIG5vIHNlY3JldCBlaXRoZXIhISE="


@pytest.fixture(autouse=True)
def registered(hub: Hub) -> None:
    hub.add_device("pi", "m")


async def test_a_good_token_is_accepted_for_device_and_module(hub: Hub) -> None:
    for identity in (PI, Identity("pi", "m")):
        async with wire(hub) as client:
            assert await client.ask(connect_packet(hub, identity)) == mqtt.Connack(False, 0)
            assert await client.ask(mqtt.Pingreq()) == mqtt.Pingresp()


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": OTHER_KEY},
        {"expiry": 1_600_000_000},
        {"resource": f"{HUB_NAME}/devices/other"},
        {"resource": f"{HUB_NAME}/devices/pi/modules/m"},
        {"resource": "elsewhere.example/devices/pi"},
    ],
    ids=["key", "expiry", "other device", "module's token", "other hub"],
)
async def test_a_wrong_token_gets_connack_5_and_the_door(hub: Hub, wrong: dict[str, object]) -> None:
    async with wire(hub) as client:
        await client.send(connect_packet(hub, PI, **wrong))  # type: ignore[arg-type]  # values fit their keys
        assert await client.closed() == [REFUSED]
    assert hub.devices.connected_since(PI) is None


async def test_unknown_disabled_and_unnamed_clients_get_connack_5(hub: Hub) -> None:
    good = connect_packet(hub, PI)
    hub.registry.put(Identity("off"), status="disabled")
    wrong = [
        connect_packet(hub, Identity("stranger"), key=OTHER_KEY),
        connect_packet(hub, Identity("off")),
        mqtt.Connect("pi", False, 60, None, None),
        mqtt.Connect("pi", False, 60, "elsewhere.example/pi/?api-version=2019-10-01", good.password),
        mqtt.Connect("pi", False, 60, f"{HUB_NAME}/other/?api-version=2019-10-01", good.password),
        mqtt.Connect("pi", False, 60, good.username, b"\xff\xfe"),
    ]
    for packet in wrong:
        async with wire(hub) as client:
            await client.send(packet)
            assert await client.closed() == [REFUSED]


async def test_a_client_id_that_is_no_device_id_gets_connack_2(hub: Hub) -> None:
    async with wire(hub) as client:
        await client.send(mqtt.Connect("a/b/c", False, 60, "u", b"p"))
        assert await client.closed() == [mqtt.Connack(False, mqtt.IDENTIFIER_REJECTED)]


async def test_another_mqtt_version_gets_connack_1(hub: Hub) -> None:
    async with wire(hub) as client:
        await client.send(bytes.fromhex("100d 0004 4d515454 05 02 0000 0001 64"))
        assert await client.closed() == [mqtt.Connack(False, mqtt.UNACCEPTABLE_PROTOCOL)]


BEFORE_CONNECT = {
    "http": b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n",
    "ping first": b"\xc0\0",
    "oversize": bytes.fromhex("30ffffff7f"),
    "random": bytes(range(7, 250)),
    "a CONNECT of 100 KB": bytes.fromhex("10a08d06"),
}


@pytest.mark.parametrize("data", BEFORE_CONNECT.values(), ids=BEFORE_CONNECT.keys())
async def test_garbage_before_connect_closes_without_a_word(hub: Hub, data: bytes) -> None:
    async with wire(hub) as client:
        await client.send(data)
        assert await client.closed() == []


AFTER_CONNECT = {
    "second CONNECT": bytes.fromhex("100d 0004 4d515454 04 02 0000 0001 64"),
    "oversize": bytes.fromhex("30ffffff7f"),
    "QoS 2": mqtt.encode(mqtt.Publish("devices/pi/messages/events/", b"", 2, 1)),
    "somebody else's topic": mqtt.encode(mqtt.Publish("devices/other/messages/events/", b"")),
    "a free topic": mqtt.encode(mqtt.Publish("news", b"hello")),
    "twin without rid": mqtt.encode(mqtt.Publish("$iothub/twin/GET/", b"")),
    "hub's packet": bytes.fromhex("20020000"),
}


@pytest.mark.parametrize("data", AFTER_CONNECT.values(), ids=AFTER_CONNECT.keys())
async def test_what_iot_hub_does_not_allow_closes_the_session(hub: Hub, data: bytes) -> None:
    async with wire(hub) as client:
        await client.ask(connect_packet(hub, PI))
        await client.send(data)
        assert await client.closed() == []
    assert hub.devices.connected_since(PI) is None


async def test_a_message_of_256_kb_is_taken_and_a_larger_one_is_not(hub: Hub) -> None:
    got: list[int] = []
    hub.devices.on_telemetry = lambda identity, packet: got.append(len(packet.payload))
    topic = "devices/pi/messages/events/"
    async with wire(hub) as client:
        await client.ask(connect_packet(hub, PI))
        assert await client.ask(mqtt.Publish(topic, b"x" * 256 * 1024, 1, 7)) == mqtt.Puback(7)
        await client.send(mqtt.encode(mqtt.Publish(topic, b"x" * 264 * 1024, 1, 8))[:1000])
        assert await client.closed() == []
    assert got == [256 * 1024]


async def test_only_ones_own_topics_can_be_subscribed(hub: Hub) -> None:
    async with wire(hub) as client:
        await client.ask(connect_packet(hub, PI))
        filters = (("$iothub/twin/res/#", 1), ("#", 1), ("devices/other/messages/devicebound/#", 1), ("+/+", 0))
        assert await client.ask(mqtt.Subscribe(9, filters)) == mqtt.Suback(9, (1, 0x80, 0x80, 0x80))


async def test_subscriptions_survive_for_clean_session_0_and_end_with_1(hub: Hub) -> None:
    notices = "$iothub/twin/PATCH/properties/desired/#"
    async with wire(hub) as client:
        assert await client.ask(connect_packet(hub, PI)) == mqtt.Connack(False, 0)
        await client.ask(mqtt.Subscribe(1, ((notices, 1),)))
    async with wire(hub) as client:
        assert await client.ask(connect_packet(hub, PI)) == mqtt.Connack(True, 0)
        hub.set_desired("pi", {"a": 1})
        assert isinstance(await client.receive(), mqtt.Publish)
        assert await client.ask(mqtt.Unsubscribe(2, (notices,))) == mqtt.Unsuback(2)
        hub.set_desired("pi", {"a": 2})
        assert await client.ask(mqtt.Pingreq()) == mqtt.Pingresp()
    async with wire(hub) as client:
        assert await client.ask(connect_packet(hub, PI, clean_session=True)) == mqtt.Connack(False, 0)
    async with wire(hub) as client:
        assert await client.ask(connect_packet(hub, PI)) == mqtt.Connack(False, 0)


async def test_a_second_connection_takes_over_and_the_first_is_closed(hub: Hub) -> None:
    async with wire(hub) as first, wire(hub) as second:
        await first.ask(connect_packet(hub, PI))
        await second.ask(connect_packet(hub, PI))
        assert await first.closed() == []
        assert await second.ask(mqtt.Pingreq()) == mqtt.Pingresp()
        assert hub.devices.connected_since(PI) is not None


async def test_a_removed_device_is_cut_off(hub: Hub) -> None:
    async with wire(hub) as device, wire(hub) as module:
        await device.ask(connect_packet(hub, PI))
        await module.ask(connect_packet(hub, Identity("pi", "m")))
        hub.registry.delete(PI)
        assert await device.closed() == await module.closed() == []


async def test_silence_beyond_one_and_a_half_keep_alives_ends_the_session(hub: Hub) -> None:
    async with wire(hub) as client:
        await client.ask(connect_packet(hub, PI, keep_alive=1))
        assert await client.closed() == []


async def test_a_drip_of_bytes_does_not_keep_a_session_alive(hub: Hub) -> None:
    async with wire(hub) as client:
        await client.ask(connect_packet(hub, PI, keep_alive=1))
        letter = mqtt.encode(mqtt.Publish("devices/pi/messages/events/", b"x" * 1000))
        dripping = asyncio.create_task(_drip(client.send, letter))
        assert await client.closed() == []
        dripping.cancel()


async def test_a_token_that_expires_ends_the_session(hub: Hub) -> None:
    async with wire(hub) as client:
        assert await client.ask(connect_packet(hub, PI, expiry=int(time.time()) + 2)) == mqtt.Connack(False, 0)
        assert await client.closed() == []


async def test_a_slow_connect_is_cut_off_and_others_are_served(tmp_path: Path, address: HubAddress) -> None:
    async with Hub(tmp_path / "slow", _beside(address), limits=Limits(connect_seconds=0.5)) as hub:
        hub.add_device("pi")
        raw_reader, raw_writer = await asyncio.open_connection(hub.address.host, hub.address.device_port)
        async with wire(hub) as slow, wire(hub) as good:
            dripping = asyncio.create_task(_drip(slow.send, mqtt.encode(connect_packet(hub, PI))))
            assert await good.ask(connect_packet(hub, PI)) == mqtt.Connack(False, 0)
            assert await slow.closed() == []
            dripping.cancel()
            async with asyncio.timeout(PATIENCE):
                assert await raw_reader.read() == b"", "a client that never begins TLS is closed as well"
            assert await good.ask(mqtt.Pingreq()) == mqtt.Pingresp()
        raw_writer.close()


async def test_a_client_that_does_not_read_is_dropped_and_costs_bounded_memory(
    tmp_path: Path, address: HubAddress
) -> None:
    async with Hub(tmp_path / "full", _beside(address), limits=Limits(unsent_bytes=100_000)) as hub:
        hub.add_device("pi")
        async with wire(hub) as client:
            await client.ask(connect_packet(hub, PI))
            await client.ask(mqtt.Subscribe(1, (("$iothub/methods/POST/#", 1),)))
            calls = [
                asyncio.create_task(
                    hub.devices.invoke(PI, "fill", "x" * 120_000, response_seconds=60, connect_seconds=0)
                )
                for _ in range(200)
            ]
            async with asyncio.timeout(PATIENCE):
                results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, HubError) for result in results)
            assert hub.devices.connected_since(PI) is None


async def _drip(send: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    for index in range(len(data)):
        await send(data[index : index + 1])
        await asyncio.sleep(0.1)


def _beside(address: HubAddress) -> HubAddress:
    """Another hub on the same host next to the fixture's: any free ports."""
    return HubAddress(address.host, device_port=0, service_port=0)
