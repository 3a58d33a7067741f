"""The hub's connection through a real proxy (tinyproxy), as MQTT and as WebSockets, with a right and a wrong word."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from modelsync_server.hub import certificates
from tests.support.addresses import free_port
from tests.support.azure_world import HIDDEN_PORT, Cloud, cloud
from tests.support.detours import websocket_front
from tests.support.shop import Shop
from tests.support.tools import needs
from tests.support.waiting import PATIENCE_SECONDS


@pytest.fixture
async def made(tmp_path: Path, worker_id: str) -> AsyncIterator[Cloud]:
    async with cloud(tmp_path, worker_id) as made:
        await Shop.open(tmp_path)
        yield made


@asynccontextmanager
async def tinyproxy(folder: Path, port_allowed: int) -> AsyncIterator[tuple[int, Path]]:
    """One that lets `user` with `pass word` connect to a port; its port and its log."""
    needs("tinyproxy")
    port, log = free_port(), folder / "tinyproxy.log"
    me = pwd.getpwuid(os.geteuid()).pw_name
    (folder / "tinyproxy.conf").write_text(
        f"User {me}\nPort {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nBasicAuth user pass-word\n"
        f'ConnectPort {port_allowed}\nLogFile "{log}"\nLogLevel Connect\nMaxClients 20\nTimeout 600\n'
    )
    process = await asyncio.create_subprocess_exec("tinyproxy", "-d", "-c", str(folder / "tinyproxy.conf"))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                if not socket.socket().connect_ex(("127.0.0.1", port)):
                    break
                await asyncio.sleep(0.05)
        yield port, log
    finally:
        process.terminate()
        await process.wait()


async def _start(made: Cloud, proxy: str, *settings: str) -> None:
    text = f'connection_string = "{made.hub.add_device("pi")}"'
    await made.start(made.root / "store" / "metadata" / "1.root.json", text, f'proxy = "{proxy}"', *settings)


async def test_mqtt_goes_through_a_real_proxy(made: Cloud) -> None:
    async with tinyproxy(made.root, 8883) as (port, log):
        await _start(made, f"http://user:pass-word@127.0.0.1:{port}")
        await made.until(lambda: "modelsync" in made.hub.reported("pi"), "a report")
        assert f"CONNECT {made.relay.host}:8883" in log.read_text()


async def test_a_wrong_password_is_told_without_it(made: Cloud) -> None:
    async with tinyproxy(made.root, 8883) as (port, _):
        await _start(made, f"http://user:geheim@127.0.0.1:{port}")
        await made.until(lambda: "401: Unauthorized" in made.log.read_text(), "the refusal")
        assert "geheim" not in made.log.read_text()


async def test_websockets_go_through_a_real_proxy(made: Cloud) -> None:
    if os.geteuid() != 0:
        pytest.skip("LOUD: NOT TESTED: WebSockets, whose port 443 needs root")
    async with AsyncExitStack() as stack:
        port, log = await stack.enter_async_context(tinyproxy(made.root, 443))
        context = certificates.ensure(made.root / "hub", made.relay.host).server_context()
        front = websocket_front(made.relay.host, context, HIDDEN_PORT, made.hub.ca_pem)
        paths = await stack.enter_async_context(front)
        await _start(made, f"http://user:pass-word@127.0.0.1:{port}", "websockets = true")
        await made.until(lambda: "modelsync" in made.hub.reported("pi"), "a report")
        assert paths == ["/$iothub/websocket"] and f"CONNECT {made.relay.host}:443" in log.read_text()
        assert (made.relay.counts().up, made.relay.counts().down) == (0, 0), "not past the proxy"
        await made.stop()
        await asyncio.sleep(0)
