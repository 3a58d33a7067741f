"""A hub that throttles or is down for a moment is asked again; one that stays so is told as unreachable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from modelsync_protocol.errors import UnreachableError
from modelsync_server.hub import certificates
from modelsync_server.iothub import service_client
from modelsync_server.iothub.connection_string import ServiceConnection
from modelsync_server.iothub.service_client import ServiceClient


@asynccontextmanager
async def _hub(folder: Path, statuses: list[int]) -> AsyncIterator[ServiceClient]:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"deviceId": "pi"}, status=statuses.pop(0))

    paths = certificates.ensure(folder, "127.0.0.1")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=paths.server_context()).start()
    connection = ServiceConnection("h", "p", "eA==", f"127.0.0.1:{runner.addresses[0][1]}", paths.ca)
    try:
        async with ServiceClient(connection) as client:
            yield client
    finally:
        await runner.cleanup()


async def test_a_throttling_hub_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_client, "_RETRY_SECONDS", 0.01)
    async with _hub(tmp_path, [429, 503, 200]) as hub:
        assert (await hub.twin("pi"))["deviceId"] == "pi"
    async with _hub(tmp_path, [429, 429, 429]) as hub:
        with pytest.raises(UnreachableError, match="later"):
            await hub.twin("pi")


async def test_a_direct_method_is_never_repeated(tmp_path: Path) -> None:
    answers = [503, 200]
    async with _hub(tmp_path, answers) as hub:
        with pytest.raises(UnreachableError):
            await hub.invoke("pi", "sync")
    assert answers == [200]
