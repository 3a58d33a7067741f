"""The client that the public conformance suite drives really verifies: with a store of ours, good and tampered with."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web

from modelsync_server.origin.origin import application
from tests.support.figures import ROOT
from tests.support.shop import Shop


async def _client(*arguments: str) -> int:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.reliability.tuf_client", *arguments, cwd=ROOT
    )
    return await child.wait()


async def test_the_conformance_client_accepts_what_is_signed_and_nothing_else(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", b"a model")
    (tmp_path / "kept").mkdir()
    runner = web.AppRunner(application(shop.path), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/metadata"
        keeps = ("--metadata-dir", str(tmp_path / "kept"))
        assert await _client(*keeps, "init", str(shop.trust)) == 0
        assert await _client(*keeps, "--metadata-url", url, "refresh") == 0
        assert {path.name for path in (tmp_path / "kept").glob("*.json")} >= {"root.json", "timestamp.json"}
        timestamp = shop.path / "metadata" / "timestamp.json"
        timestamp.write_bytes(timestamp.read_bytes().replace(b'"version":', b'"version": 1'))
        assert await _client(*keeps, "--metadata-url", url, "refresh") == 1
    finally:
        await runner.cleanup()
