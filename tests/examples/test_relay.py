"""The relay carries every byte, counts what it carries, and breaks a line in each way that it offers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.relay import Relay
from tests.support.waiting import until

PATTERN = bytes(range(251)) * 4_000
"""1,004,000 bytes in which a lost or doubled piece shows."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def relay_to_sender(payload: bytes = PATTERN) -> AsyncIterator[Relay]:
    """A relay to a server that reads a line, sends `payload` and closes."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readline()
            writer.write(payload)
            await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(send, "127.0.0.1", 0)
    async with server, Relay("127.0.0.1", server.sockets[0].getsockname()[1]) as relay:
        yield relay


async def ask(relay: Relay) -> Streams:
    reader, writer = await asyncio.open_connection(relay.host, relay.port)
    writer.write(b"go\n")
    return reader, writer


async def read_until_reset(reader: asyncio.StreamReader) -> bytes:
    """What came before the reset; fails if the stream ends in order."""
    got = bytearray()
    with pytest.raises(ConnectionResetError):
        while piece := await reader.read(65536):
            got += piece
    return bytes(got)


async def fetch(relay: Relay) -> bytes:
    """A whole answer over a connection of its own."""
    reader, writer = await ask(relay)
    try:
        return await reader.read()
    finally:
        writer.close()


async def refused(relay: Relay) -> None:
    """Fails unless a new connection is reset, in the connect or after it."""
    with pytest.raises(ConnectionResetError):
        await fetch(relay)


async def carried(relay: Relay, least: int) -> None:
    await until(lambda: relay.counts().down >= least)


async def test_carries_and_counts_every_byte_in_both_directions() -> None:
    async with relay_to_sender() as relay:
        first, second = await ask(relay), await ask(relay)
        assert await first[0].read() == PATTERN
        assert await second[0].read() == PATTERN
        for _, writer in (first, second):
            writer.close()
        counts = relay.counts()
        assert (counts.up, counts.down, counts.connections) == (6, 2 * len(PATTERN), 2)
        assert [c.carried for c in relay.connections] == [{"up": 3, "down": len(PATTERN)}] * 2
        before = relay.counts()
        await fetch(relay)
        assert (relay.counts() - before).connections == 1


async def test_half_closed_connection_carries_the_answer() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Relay("127.0.0.1", server.sockets[0].getsockname()[1]) as relay:
        reader, writer = await asyncio.open_connection(relay.host, relay.port)
        writer.write(PATTERN)
        writer.write_eof()
        assert await reader.read() == PATTERN
        await until(lambda: not relay.connections[0].open)


async def test_cut_resets_open_connections_and_new_ones_work() -> None:
    async with relay_to_sender() as relay:
        relay.rate = 100_000
        reader, writer = await ask(relay)
        await carried(relay, 5_000)
        relay.cut()
        after_cut = relay.counts().down
        got = await read_until_reset(reader)
        assert got == PATTERN[: len(got)]
        assert relay.counts().down == after_cut
        assert not relay.connections[0].open
        writer.close()
        relay.rate = None
        assert await fetch(relay) == PATTERN


async def test_cut_with_refuse_turns_away_until_restore() -> None:
    async with relay_to_sender() as relay:
        relay.cut(refuse=True)
        await refused(relay)
        assert relay.counts().connections == 0
        relay.restore()
        assert await fetch(relay) == PATTERN


@pytest.mark.parametrize("count", [1, 16_384, 500_001])
async def test_cut_after_lets_exactly_so_many_bytes_through(count: int) -> None:
    async with relay_to_sender() as relay:
        relay.cut_after(count)
        reader, writer = await ask(relay)
        got = await read_until_reset(reader)
        writer.close()
        assert relay.counts().down == count
        assert got == PATTERN[: len(got)]
        assert await fetch(relay) == PATTERN, "it cuts once"


async def test_cut_after_counts_all_connections_and_may_refuse() -> None:
    async with relay_to_sender() as relay:
        relay.cut_after(len(PATTERN) + 1_000, refuse=True)
        await asyncio.gather(*(fetch(relay) for _ in range(3)), return_exceptions=True)
        assert relay.counts().down == len(PATTERN) + 1_000
        await refused(relay)


async def test_cut_after_can_watch_what_the_client_sends() -> None:
    async with relay_to_sender() as relay:
        relay.cut_after(2, "up")
        reader, _ = await ask(relay)
        assert await read_until_reset(reader) == b""
        assert relay.counts().up == 2
        assert relay.counts().down == 0


async def test_rate_holds_the_line_back_and_can_be_lifted_while_it_runs() -> None:
    async with relay_to_sender() as relay:
        relay.rate = 20_000
        loop = asyncio.get_running_loop()
        began = loop.time()
        reader, _ = await ask(relay)
        await carried(relay, 4_000)
        # A token bucket never lets more through than its burst (one slice) and the rate since the beginning.
        assert relay.counts().down <= 20_000 * (loop.time() - began + 2 * 0.05)
        relay.rate = None
        assert await reader.read() == PATTERN


async def test_limited_line_is_shared_by_its_connections() -> None:
    async with relay_to_sender() as relay:
        relay.rate = 40_000
        loop = asyncio.get_running_loop()
        began = loop.time()
        streams = [await ask(relay) for _ in range(4)]
        await carried(relay, 8_000)
        assert relay.counts().down <= 40_000 * (loop.time() - began + 2 * 0.05)
        for _, writer in streams:
            writer.close()


async def test_delay_holds_each_direction_back_and_loses_nothing() -> None:
    async with relay_to_sender() as relay:
        relay.delay = 0.1
        loop = asyncio.get_running_loop()
        began = loop.time()
        reader, _ = await ask(relay)
        await reader.readexactly(1)
        assert loop.time() - began >= 0.199
        relay.delay = 0.0
        assert await reader.read() == PATTERN[1:]


async def test_stall_keeps_connections_open_and_resume_goes_on() -> None:
    async with relay_to_sender() as relay:
        relay.rate = 200_000
        reader, _ = await ask(relay)
        await carried(relay, 10_000)
        relay.stall()
        standing = relay.counts().down
        await asyncio.sleep(0.15)
        assert relay.counts().down == standing
        assert relay.connections[0].open
        relay.rate = None
        relay.resume()
        assert await reader.read() == PATTERN


async def test_unread_answer_waits_in_the_server_and_not_in_the_relay() -> None:
    payload = bytes(64 * 1024 * 1024)
    async with relay_to_sender(payload) as relay:
        reader, writer = await ask(relay)
        await reader.readexactly(1)
        await asyncio.sleep(0.3)
        assert relay.counts().down < len(payload)
        writer.close()


async def test_unreachable_target_shows_as_a_reset() -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with Relay("127.0.0.1", port) as relay:
        await refused(relay)


async def test_leaving_the_context_resets_connections_and_frees_the_port() -> None:
    async with relay_to_sender() as relay:
        relay.stall()
        reader, _ = await ask(relay)
        await until(lambda: bool(relay.connections))
    assert await read_until_reset(reader) == b""
    with pytest.raises(OSError):
        await asyncio.open_connection(relay.host, relay.port)


def test_senseless_settings_are_refused() -> None:
    relay = Relay("127.0.0.1", 1)
    with pytest.raises(ValueError, match="positive"):
        relay.rate = 0
    with pytest.raises(ValueError, match="positive"):
        relay.cut_after(0)
