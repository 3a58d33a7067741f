"""Our MQTT client against a server that says what Mosquitto never does; its bytes are written by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from modelsync_daemon.control.mqtt_client import TAKEN_OVER, MqttClient, TcpStream, VersionRefusedError
from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError
from modelsync_protocol.mqtt import codec as mqtt
from tests.support.waiting import PATIENCE_SECONDS


class Server:
    """What it got, and what it says: each of `answers` after one more read, the rest at once."""

    def __init__(self, answers: list[str]) -> None:
        self.answers, self.heard = answers, b""
        self.writer: asyncio.StreamWriter

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.heard += data
                if self.answers:
                    writer.write(bytes.fromhex(self.answers.pop(0)))
        writer.close()


@contextlib.asynccontextmanager
async def line(*answers: str, version: int = 5, seconds: float = 2.0) -> AsyncIterator[tuple[MqttClient, Server]]:
    made = Server(list(answers))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with server:
        stream = TcpStream(*await asyncio.open_connection(*server.sockets[0].getsockname()[:2]))
        client = MqttClient(stream, mqtt.Connect("d", version=version), lambda packet: None, seconds)
        try:
            yield client, made
        finally:
            await client.closed()


async def test_a_topic_is_written_out_once() -> None:
    async with line("20 06 00 00 03 22 00 01", "40 02 00 01", "40 02 00 02", "40 02 00 03") as (client, server):
        await client.begin()
        for topic in ("long/topic", "long/topic", "other/topic"):
            await client.publish(topic, b"x", retain=True)
        assert server.heard.count(b"long/topic") == 1, "the second time it is an alias of two bytes"
        assert server.heard.count(b"other/topic") == 1 and server.heard.endswith(b"other/topic\0\x03\0x")


async def test_who_took_the_place_is_told_and_everybody_who_waits_is_freed() -> None:
    async with line("20 03 00 00 00", "e0 02 8e 00") as (client, _):
        await client.begin()
        with pytest.raises(UnreachableError, match="another client connected with the same client id"):
            await client.publish("a", b"x")
        assert client.ending == TAKEN_OVER and client.lost.done()
        with pytest.raises(UnreachableError):
            await client.ping()


@pytest.mark.parametrize(
    ("version", "answer", "error", "said"),
    [
        (4, "20 02 00 04", RefusedError, "user name or password"),
        (4, "20 02 00 05", RefusedError, "does not authorise"),
        (4, "20 02 00 03", UnreachableError, "code 3"),
        (4, "20 02 00 01", VersionRefusedError, "does not speak MQTT 3.1.1"),
        (5, "20 02 00 01", VersionRefusedError, "does not speak MQTT 5"),
        (5, "20 03 00 84 00", VersionRefusedError, "does not speak MQTT 5"),
        (5, "20 03 00 86 00", RefusedError, "user name or password"),
        (5, "20 03 00 9a 00", RefusedError, "no retained messages"),
        (5, "20 0a 00 89 07 1f 00 04 62 75 73 79", UnreachableError, r"code 137 \(busy\)"),
        (5, "ff ff", UnreachableError, "lost"),
    ],
)
async def test_each_refusal_says_whether_trying_again_helps(
    version: int, answer: str, error: type[ModelsyncError], said: str
) -> None:
    async with line(answer, version=version) as (client, _):
        with pytest.raises(error, match=said):
            await client.begin()


async def test_what_is_not_answered_or_too_large_is_a_lost_line() -> None:
    async with line("20 03 00 00 00", seconds=0.2) as (client, _):
        await client.begin()
        with pytest.raises(UnreachableError, match="no answer"):
            await client.publish("a", b"x")
        assert client.lost.done()
    async with line("20 03 00 00 00") as (client, server):
        await client.begin()
        server.writer.write(bytes.fromhex("30 ff ff ff 7f"))  # 256 MB are announced
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert "over the limit" in await client.lost


async def test_a_broker_that_says_no_to_one_topic_keeps_the_line() -> None:
    async with line("20 03 00 00 00", "40 03 00 01 87", "90 04 00 02 00 87", "d0 00") as (client, _):
        await client.begin()
        with pytest.raises(RefusedError, match="publishes to a: check its access list"):
            await client.publish("a", b"x")
        with pytest.raises(RefusedError, match="subscribe to b"):
            await client.subscribe(("b", 1))
        await client.ping()
        assert not client.lost.done()
