"""The MQTT codec: right bytes, any slicing, nothing that the standard forbids; amqtt is the referee."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from amqtt.adapters import BufferReader
from amqtt.mqtt import packet_class
from amqtt.mqtt.packet import MQTTFixedHeader
from hypothesis import given
from hypothesis import strategies as st

from modelsync_protocol.mqtt import codec as mqtt

VECTORS: list[tuple[mqtt.Packet, str]] = [
    (
        mqtt.Connect("d", False, 60, "u", b"p"),
        "10 13 00 04 4d 51 54 54 04 c0 00 3c 00 01 64 00 01 75 00 01 70",
    ),
    (mqtt.Connect("d", True, 0), "10 0d 00 04 4d 51 54 54 04 02 00 00 00 01 64"),
    (mqtt.Connack(True, 0), "20 02 01 00"),
    (mqtt.Connack(False, 5), "20 02 00 05"),
    (mqtt.Publish("a/b", b"hi"), "30 07 00 03 61 2f 62 68 69"),
    (mqtt.Publish("a", b"", 1, 10), "32 05 00 01 61 00 0a"),
    (mqtt.Publish("a", b"", 1, 10, duplicate=True, retain=True), "3b 05 00 01 61 00 0a"),
    (mqtt.Publish("°", b"x" * 200), "30 cc 01 00 02 c2 b0" + " 78" * 200),
    (mqtt.Puback(258), "40 02 01 02"),
    (mqtt.Subscribe(1, (("a/#", 1), ("b", 0))), "82 0c 00 01 00 03 61 2f 23 01 00 01 62 00"),
    (mqtt.Suback(1, (1, 0x80)), "90 04 00 01 01 80"),
    (mqtt.Unsubscribe(2, ("a",)), "a2 05 00 02 00 01 61"),
    (mqtt.Unsuback(2), "b0 02 00 02"),
    (mqtt.Pingreq(), "c0 00"),
    (mqtt.Pingresp(), "d0 00"),
    (mqtt.Disconnect(), "e0 00"),
]
STREAM = b"".join(bytes.fromhex(text) for _, text in VECTORS)
PACKETS = [packet for packet, _ in VECTORS]


@pytest.mark.parametrize(("packet", "text"), VECTORS, ids=lambda value: type(value).__name__)
def test_each_packet_has_the_standards_bytes_both_ways(packet: mqtt.Packet, text: str) -> None:
    raw = bytes.fromhex(text)
    assert mqtt.encode(packet) == raw
    assert list(mqtt.Decoder().feed(raw)) == [packet]


def test_a_stream_reads_the_same_whole_and_byte_by_byte() -> None:
    assert list(mqtt.Decoder().feed(STREAM)) == PACKETS
    decoder = mqtt.Decoder()
    assert [packet for index in range(len(STREAM)) for packet in decoder.feed(STREAM[index : index + 1])] == PACKETS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_reads_the_same_in_any_slices(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    decoder = mqtt.Decoder()
    found = [p for a, b in pairwise(edges) for p in decoder.feed(STREAM[a:b])]
    assert found == PACKETS


def test_trailing_bytes_wait_for_the_rest_of_their_packet() -> None:
    decoder = mqtt.Decoder()
    assert list(decoder.feed(bytes.fromhex("c000 4002 01"))) == [mqtt.Pingreq()]
    assert list(decoder.feed(bytes.fromhex("02 c0"))) == [mqtt.Puback(258)]
    assert list(decoder.feed(b"\0")) == [mqtt.Pingreq()]


@pytest.mark.parametrize("packet", PACKETS, ids=lambda value: type(value).__name__)
async def test_amqtt_reads_what_we_write_and_writes_it_again(packet: mqtt.Packet) -> None:
    raw = mqtt.encode(packet)
    reader = BufferReader(raw)
    header = await MQTTFixedHeader.from_stream(reader)
    theirs = await packet_class(header).from_stream(reader, fixed_header=header)
    assert bytes(theirs.to_bytes()) == raw


BROKEN = {
    "remaining length of five bytes": "30 80 80 80 80 01",
    "type 0": "00 00",
    "type 15": "f0 00",
    "QoS 2 handshake": "50 02 00 01",
    "QoS 3": "36 07 00 01 61 00 01 68 69",
    "SUBSCRIBE without its flags": "80 06 00 01 00 01 61 01",
    "SUBSCRIBE without a filter": "82 02 00 01",
    "SUBSCRIBE with an empty filter": "82 05 00 01 00 00 01",
    "SUBSCRIBE for QoS 3": "82 06 00 01 00 01 61 03",
    "SUBSCRIBE with trailing bytes": "82 08 00 01 00 01 61 01 7a 7a",
    "UNSUBSCRIBE without a filter": "a2 02 00 01",
    "packet identifier 0": "82 06 00 00 00 01 61 01",
    "PUBACK too short": "40 01 00",
    "PUBACK too long": "40 03 00 01 00",
    "PINGREQ with a body": "c0 01 00",
    "topic not UTF-8": "30 04 00 02 ff fe",
    "topic with a null": "30 04 00 02 61 00",
    "topic with a wildcard": "30 04 00 02 61 23",
    "topic empty": "30 02 00 00",
    "topic longer than the packet": "30 03 00 09 61",
    "CONNECT with reserved flag": "10 0d 00 04 4d 51 54 54 04 03 00 00 00 01 64",
    "CONNECT with password but no user": "10 10 00 04 4d 51 54 54 04 42 00 00 00 01 64 00 01 70",
    "CONNECT cut in its user name": "10 0f 00 04 4d 51 54 54 04 80 00 00 00 01 64 00 05",
    "CONNECT with trailing bytes": "10 0e 00 04 4d 51 54 54 04 02 00 00 00 01 64 00",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_what_the_standard_forbids_is_refused_and_ends_the_stream(text: str) -> None:
    decoder = mqtt.Decoder()
    with pytest.raises(mqtt.MqttError):
        list(decoder.feed(bytes.fromhex(text)))
    with pytest.raises(mqtt.MqttError):
        list(decoder.feed(b"\xc0\0"))


@pytest.mark.parametrize("text", ["10 0d 00 04 4d 51 54 54 05 02 00 00 00 01 64", "10 08 00 06 4d 51 49 73 64 70"])
def test_another_protocol_version_is_told_apart(text: str) -> None:
    with pytest.raises(mqtt.ProtocolVersionError):
        list(mqtt.Decoder().feed(bytes.fromhex(text)))


def test_an_oversize_packet_is_refused_from_its_header_alone() -> None:
    with pytest.raises(mqtt.MqttError, match="over the limit"):
        list(mqtt.Decoder(limit=1000).feed(bytes.fromhex("30 e8 07")))


def test_packets_before_a_broken_one_still_count() -> None:
    stream = mqtt.Decoder().feed(bytes.fromhex("c000 f000"))
    assert next(stream) == mqtt.Pingreq()
    with pytest.raises(mqtt.MqttError):
        next(stream)


FIVE: list[tuple[mqtt.Packet, str]] = [
    (mqtt.Connack(False, 0), "20 03 00 00 00"),
    (mqtt.Connack(True, 0x87, {0x1F: "no"}), "20 08 01 87 05 1f 00 02 6e 6f"),
    (mqtt.Connack(False, 1), "20 02 00 01"),  # a broker of 3.1.1 refuses in its own form
    (mqtt.Connack(False, 0, {0x13: 1160, 0x22: 10, 0x27: 2000}), "20 0e 00 00 0b 13 04 88 22 00 0a 27 00 00 07 d0"),
    (mqtt.Publish("a", b"x", 1, 10, properties={0x02: 60}), "32 0c 00 01 61 00 0a 05 02 00 00 00 3c 78"),
    (mqtt.Publish("a", b"", retain=True), "31 04 00 01 61 00"),
    (mqtt.Puback(258), "40 02 01 02"),
    (mqtt.Puback(258, 0x87), "40 03 01 02 87"),
    (mqtt.Puback(258, 0x10), "40 04 01 02 10 00"),
    (mqtt.Suback(1, (1, 0x87)), "90 05 00 01 00 01 87"),
    (mqtt.Unsuback(2, (0,)), "b0 04 00 02 00 00"),
    (mqtt.Pingresp(), "d0 00"),
    (mqtt.Disconnect(), "e0 00"),
    (mqtt.Disconnect(0x8E, {}), "e0 09 8e 07 26 00 01 61 00 01 62"),  # user properties are read past
]


@pytest.mark.parametrize(("packet", "text"), FIVE)
def test_a_servers_packets_of_mqtt_5_are_read(packet: mqtt.Packet, text: str) -> None:
    raw = bytes.fromhex(text)
    assert list(mqtt.Decoder(version=5).feed(raw)) == [packet]
    decoder = mqtt.Decoder(version=5)
    assert [one for index in range(len(raw)) for one in decoder.feed(raw[index : index + 1])] == [packet]


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (
            mqtt.Connect("d", True, 60, will=mqtt.Will("w", b"x", 1, True), version=5, properties={0x27: 4096}),
            "10 1a 00 04 4d 51 54 54 05 2e 00 3c 05 27 00 00 10 00 00 01 64 00 00 01 77 00 01 78",
        ),
        (
            mqtt.Connect("d", will=mqtt.Will("w", b"x")),
            "10 13 00 04 4d 51 54 54 04 06 00 00 00 01 64 00 01 77 00 01 78",
        ),
        (mqtt.Publish("", b"x", properties={0x23: 3}), "30 07 00 00 03 23 00 03 78"),
        (mqtt.Publish("a", b"x"), "30 05 00 01 61 00 78"),
        (mqtt.Subscribe(1, (("a/#", 1),)), "82 09 00 01 00 00 03 61 2f 23 01"),
        (mqtt.Unsubscribe(2, ("a",)), "a2 06 00 02 00 00 01 61"),
        (mqtt.Puback(258), "40 02 01 02"),
        (mqtt.Disconnect(), "e0 00"),
        (mqtt.Disconnect(4), "e0 01 04"),
    ],
)
def test_a_clients_packets_of_mqtt_5_have_the_standards_bytes(packet: mqtt.Packet, text: str) -> None:
    assert mqtt.encode(packet, 4 if isinstance(packet, mqtt.Connect) else 5) == bytes.fromhex(text)


@pytest.mark.parametrize(
    "text",
    [
        "20 05 00 00 02 27 00",  # a property cut short
        "20 05 00 00 02 7e 00",  # an unknown one
        "20 07 00 00 04 1f 00 01 ff",  # not UTF-8
        "20 04 00 00 05 00",  # longer than the packet
        "20 08 00 00 05 0b ff ff ff ff",  # a number of five bytes
        "20 07 00 00 ff ff ff ff 01",  # a length of five bytes
        "30 06 00 01 23 00 78 78",  # a wildcard
        "10 0d 00 04 4d 51 54 54 05 02 00 00 00 01 64",  # what only a client sends
        "f0 00",
    ],
)
def test_what_mqtt_5_forbids_is_refused(text: str) -> None:
    with pytest.raises(mqtt.MqttError):
        list(mqtt.Decoder(version=5).feed(bytes.fromhex(text)))


@given(st.binary(max_size=60), st.sampled_from([0x20, 0x30, 0x32, 0x40, 0x90, 0xB0, 0xE0]))
def test_random_packets_of_mqtt_5_never_raise_anything_but_mqtt_errors(body: bytes, first: int) -> None:
    with suppress(mqtt.MqttError):
        list(mqtt.Decoder(version=5).feed(bytes((first, len(body))) + body))


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_but_mqtt_errors(data: bytes) -> None:
    with suppress(mqtt.MqttError):
        list(mqtt.Decoder().feed(data))
