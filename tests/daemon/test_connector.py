"""Sockets of our making in aiohttp's connections: with today's aiohttp, and with the one of Debian 13."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from modelsync_daemon.transfer.connector import OlderConnector, connector
from tests.support.scripted_origin import ScriptedOrigin

Make = Callable[..., aiohttp.TCPConnector]
BOTH: list[Make] = [connector, OlderConnector]


class _Factory:
    """Makes sockets and remembers them."""

    def __init__(self) -> None:
        self.made: list[socket.socket] = []

    def __call__(self, address: tuple[Any, ...]) -> socket.socket:
        self.made.append(socket.socket(*address[:3]))
        return self.made[-1]


@pytest.mark.parametrize("make", BOTH)
async def test_connections_use_our_sockets(tmp_path: Path, make: Make) -> None:
    (tmp_path / "object").write_bytes(b"bytes")
    factory = _Factory()
    async with ScriptedOrigin(tmp_path) as origin, aiohttp.ClientSession(connector=make(factory, limit=1)) as session:
        for _ in range(2):
            async with session.get(f"{origin.url}/object") as response:
                assert await response.read() == b"bytes"
    assert len(factory.made) == 1


@pytest.mark.parametrize("make", BOTH)
async def test_nobody_there_is_told_as_usual(make: Make) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        async with aiohttp.ClientSession(connector=make(_Factory())) as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://127.0.0.1:{taken.getsockname()[1]}/")
