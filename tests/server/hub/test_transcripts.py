"""The hub against recorded sessions of the SDK itself; every expected answer is written by hand from the documents.

Sources: MQTT 3.1.1 for bytes; learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub for topics and bodies.
Neither the SDK nor our codec takes part: packets are cut by length and read with amqtt.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from amqtt.adapters import BufferReader
from amqtt.mqtt.publish import PublishPacket

from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.iothub.identity import Identity
from tests.server.hub.record_transcripts import TRANSCRIPTS, split
from tests.support.hub_wire import PATIENCE

CONNACK_NEW, CONNACK_RESUMED = "20020000", "20020100"


@dataclass
class Replay:
    """A recorded session that is being played to a hub."""

    hub: Hub
    identity: Identity
    packets: list[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pending: bytes = b""

    def rid(self, index: int) -> str:
        """The request id in a recorded packet's topic."""
        found = re.search(rb"\$rid=([0-9a-f-]+)", self.packets[index])
        assert found is not None
        return found[1].decode()

    def send(self, index: int, *, swap: tuple[str, str] | None = None) -> None:
        """Send one recorded packet, in two pieces; `swap` replaces an id by another of the same length."""
        packet = self.packets[index]
        if swap is not None:
            assert len(swap[0]) == len(swap[1])
            packet = packet.replace(swap[0].encode(), swap[1].encode())
        self.writer.write(packet[:3])
        self.writer.write(packet[3:])

    async def answers(self, count: int) -> list[bytes]:
        """The hub's next packets, cut by their length."""
        async with asyncio.timeout(PATIENCE):
            while len(found := _whole(self.pending)) < count:
                data = await self.reader.read(65536)
                assert data, f"the hub closed; so far {found!r}"
                self.pending += data
        self.pending = self.pending[sum(map(len, found[:count])) :]
        return found[:count]

    async def nothing_more(self) -> None:
        """A PINGREQ is answered by PINGRESP and nothing before it."""
        self.writer.write(bytes.fromhex("c000"))
        assert await self.answers(1) == [bytes.fromhex("d000")]


def _whole(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= 2:
        try:
            packet = split(data)[0]
        except IndexError:
            break
        if len(packet) > len(data) or not _complete(packet):
            break
        found.append(packet)
        data = data[len(packet) :]
    return found


def _complete(packet: bytes) -> bool:
    try:
        again = split(packet + b"\xc0\0")
    except IndexError:
        return False
    return again[0] == packet


async def message(packet: bytes) -> tuple[str, int, Any]:
    """Topic, QoS and parsed body of a PUBLISH, read by amqtt."""
    read = await PublishPacket.from_stream(BufferReader(packet))
    assert read.topic_name is not None and not read.retain_flag and not read.dup_flag
    return read.topic_name, int(read.qos or 0), json.loads(read.data) if read.data else None


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((TRANSCRIPTS / f"{name}.json").read_text())
    return loaded


@asynccontextmanager
async def replay(name: str, directory: Path, address: HubAddress) -> AsyncIterator[Replay]:
    """A hub at the time of the recording that knows the recorded keys, and a connection to it."""
    recorded = load(name)
    identity = Identity(recorded["device"], recorded["module"])
    packets = [bytes.fromhex(packet["hex"]) for packet in recorded["packets"]]
    async with Hub(directory, address, clock=lambda: float(recorded["recorded_at"])) as hub:
        hub.state.add(Identity(identity.device), primary_key=recorded["key"])
        hub.state.add(identity, primary_key=recorded["key"])
        context = ssl.create_default_context(cafile=str(hub.ca_path))
        reader, writer = await asyncio.open_connection(hub.address.host, hub.address.device_port, ssl=context)
        try:
            yield Replay(hub, identity, packets, reader, writer)
        finally:
            writer.transport.abort()


@pytest.mark.parametrize("name", ["device", "module"])
async def test_the_sdks_recorded_session_gets_the_documented_answers(
    name: str, tmp_path: Path, address: HubAddress
) -> None:
    async with replay(name, tmp_path, address) as session:
        hub, identity = session.hub, session.identity

        session.send(0)  # CONNECT, clean_session 0
        assert await session.answers(1) == [bytes.fromhex(CONNACK_NEW)]

        session.send(1)  # SUBSCRIBE $iothub/twin/res/#, packet 1, QoS 1
        assert await session.answers(1) == [bytes.fromhex("9003000101")]

        session.send(2)  # GET twin
        puback, answer = await session.answers(2)
        assert puback == bytes.fromhex("40020002")
        assert await message(answer) == (
            f"$iothub/twin/res/200/?$rid={session.rid(2)}",
            0,
            {"desired": {"$version": 1}, "reported": {"$version": 1}},
        )

        session.send(3)  # SUBSCRIBE desired notices, packet 3
        assert await session.answers(1) == [bytes.fromhex("9003000301")]

        hub.set_desired(identity.device, {"telemetrySendFrequency": "5m", "route": None}, identity.module)
        assert await message((await session.answers(1))[0]) == (
            "$iothub/twin/PATCH/properties/desired/?$version=2",
            0,
            {"telemetrySendFrequency": "5m", "route": None, "$version": 2},
        )

        session.send(4)  # reported patch
        puback, answer = await session.answers(2)
        assert puback == bytes.fromhex("40020004")
        assert await message(answer) == (f"$iothub/twin/res/204/?$rid={session.rid(4)}&$version=2", 0, None)
        assert hub.reported(identity.device, identity.module) == {"firmware_version": "v1.1", "$version": 2}

        session.send(5)  # reported patch with a key that IoT Hub forbids
        puback, answer = await session.answers(2)
        assert puback == bytes.fromhex("40020005")
        topic, _, body = await message(answer)
        assert topic == f"$iothub/twin/res/400/?$rid={session.rid(5)}"
        assert {"errorCode", "trackingId", "message", "timestampUtc"} <= body.keys()
        assert hub.reported(identity.device, identity.module)["$version"] == 2

        session.send(6)  # SUBSCRIBE methods, packet 6
        assert await session.answers(1) == [bytes.fromhex("9003000601")]

        call = asyncio.create_task(
            hub.devices.invoke(identity, "status", {"full": True}, response_seconds=5, connect_seconds=0)
        )
        topic, qos, body = await message((await session.answers(1))[0])
        called = re.fullmatch(r"\$iothub/methods/POST/status/\?\$rid=([0-9a-f]+)", topic)
        assert called is not None
        assert (qos, body) == (0, {"full": True})
        session.send(7, swap=(session.rid(7), called[1]))  # the SDK's answer to that call
        assert await session.answers(1) == [bytes.fromhex("40020007")]
        answer_of_device = await call
        assert (answer_of_device.status, answer_of_device.payload) == (200, {"ok": True})

        telemetry: list[tuple[Identity, bytes]] = []
        hub.devices.on_telemetry = lambda who, packet: telemetry.append((who, packet.payload))
        session.send(8)
        assert await session.answers(1) == [bytes.fromhex("40020008")]
        assert telemetry == [(identity, b"21 degrees")]

        await session.nothing_more()
        session.send(9)  # DISCONNECT
        assert await session.reader.read() == b""


async def test_a_recorded_session_is_resumed_by_a_restarted_hub(tmp_path: Path, address: HubAddress) -> None:
    async with replay("device", tmp_path, address) as session:
        for index in (0, 1, 3):
            session.send(index)
        await session.answers(3)
    async with replay("device", tmp_path, address) as session:
        session.send(0)
        assert await session.answers(1) == [bytes.fromhex(CONNACK_RESUMED)]
        session.send(2)  # GET without a new SUBSCRIBE: the subscription survived
        _, answer = await session.answers(2)
        assert (await message(answer))[0] == f"$iothub/twin/res/200/?$rid={session.rid(2)}"
        session.hub.set_desired(session.identity.device, {"a": 1})
        assert (await message((await session.answers(1))[0]))[2] == {"a": 1, "$version": 2}


async def test_a_recorded_token_is_refused_after_its_hour(tmp_path: Path, address: HubAddress) -> None:
    recorded = load("device")
    async with Hub(tmp_path, address, clock=lambda: recorded["recorded_at"] + 3700.0) as hub:
        hub.state.add(Identity(recorded["device"]), primary_key=recorded["key"])
        context = ssl.create_default_context(cafile=str(hub.ca_path))
        reader, writer = await asyncio.open_connection(hub.address.host, hub.address.device_port, ssl=context)
        writer.write(bytes.fromhex(recorded["packets"][0]["hex"]))
        assert await reader.read() == bytes.fromhex("20020005")
        writer.close()
