"""What `modelsync serve` promises under load and attack: bounded connections and memory, every core, no lost server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types and is only read here
import pytest
from aiohttp import web

from modelsync_server.origin import connection_guard
from modelsync_server.origin.connection_guard import Guard
from tests.support.waiting import PATIENCE_SECONDS, wait_until

from .conftest import CONTENT, PACK, Origin, serve

_REQUEST = f"GET /{PACK} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
_LARGE = b"GET /packs/large HTTP/1.1\r\nHost: x\r\n\r\n"


def _whole(origin: Origin) -> bool:
    with origin.connect() as connection:
        connection.sendall(_REQUEST)
        received = b""
        while block := connection.recv(65536):
            received += block
        return received.endswith(CONTENT)


@asynccontextmanager
async def _guarded(room: int, header_seconds: float, idle_seconds: float) -> AsyncIterator[int]:
    """An aiohttp server behind a guard; its port."""
    guard = Guard(room, header_seconds, idle_seconds)

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(float(request.query.get("sleep", 0)))
        return web.Response(text="yes")

    app = web.Application(middlewares=[guard.middleware])
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    made = runner.server
    assert made is not None
    server = await asyncio.get_running_loop().create_server(lambda: guard.protect(made()), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await runner.cleanup()


async def _ends(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


async def test_a_connection_without_a_request_is_ended_however_it_drips() -> None:
    """The attack called slowloris: a header that never ends, a byte at a time."""
    async with _guarded(10, header_seconds=0.3, idle_seconds=60) as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ended = asyncio.create_task(_ends(reader))
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\nX-Padding: " + b"a" * 2000:
            if ended.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        assert await ended
        writer.close()


async def test_a_long_answer_is_not_taken_for_an_idle_connection_and_an_idle_one_ends() -> None:
    async with _guarded(10, header_seconds=0.2, idle_seconds=0.2) as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /?sleep=0.8 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(3) == b"yes"
        assert await _ends(reader)
        writer.close()


async def test_who_comes_beyond_the_limit_is_turned_away_and_the_others_are_served() -> None:
    async with _guarded(2, header_seconds=60, idle_seconds=60) as port, asyncio.timeout(20):
        first = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await _ends(reader)
        writer.close()
        for reader, writer in first:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"yes")
            writer.close()
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)  # there is room again
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"yes")
        writer.close()


def test_without_the_guard_a_dripping_connection_would_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first test fails without its protection."""
    monkeypatch.setattr(connection_guard._Guarded, "wait", lambda self, seconds: None)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(test_a_connection_without_a_request_is_ended_however_it_drips(), 3))


@pytest.mark.parametrize("tls", [False, True])
def test_slow_readers_cost_little_memory_and_hold_nobody_up(
    store: Path, certificate: tuple[Path, Path], tls: bool
) -> None:
    readers, each = 100, 512 * 1024
    with (store / "packs" / "large").open("wb") as file:
        file.truncate(50_000_000)
    with serve(store, certificate if tls else None) as origin, ExitStack() as stack:
        processes = [psutil.Process(origin.process.pid), *psutil.Process(origin.process.pid).children()]
        assert _whole(origin)
        before = sum(process.memory_info().rss for process in processes)
        for _ in range(readers):
            slow = stack.enter_context(origin.connect())
            slow.sendall(_LARGE)
            assert slow.recv(10)
        assert _whole(origin)
        assert sum(process.memory_info().rss for process in processes) - before < readers * each


def test_every_core_serves_and_a_process_that_dies_is_replaced(store: Path) -> None:
    with serve(store, None, processes=2) as origin:
        parent = psutil.Process(origin.process.pid)
        first, second = parent.children()
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: len(parent.children()) == 2 and first not in parent.children(), "another process")
        assert second in parent.children()
        for _ in range(20):
            assert _whole(origin)


def test_a_killed_origin_leaves_no_process_behind(store: Path) -> None:
    with serve(store, None, processes=2) as origin:
        children = psutil.Process(origin.process.pid).children()
        origin.process.kill()
        assert origin.process.stdout is not None and origin.process.stdout.read() == "", "its output ends with it"
        wait_until(
            lambda: not any(child.is_running() and child.status() != "zombie" for child in children), "their end"
        )


def test_a_port_that_is_taken_is_not_shared(store: Path) -> None:
    with serve(store, None) as origin:
        port = origin.url.rpartition(":")[2]
        with pytest.raises(AssertionError, match="can't listen on"), serve(store, None, port=int(port)):
            pass


def test_a_client_that_leaves_before_its_answer_leaves_no_trace(store: Path) -> None:
    with serve(store, None) as origin:
        for _ in range(20):
            with origin.connect() as rude:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                rude.sendall(_REQUEST.replace(b"close", b"keep-alive") * 20)
        time.sleep(0.3)
        assert _whole(origin)
        origin.process.terminate()
        origin.process.wait(PATIENCE_SECONDS)
        assert origin.process.stderr is not None and origin.process.stderr.read() == ""
