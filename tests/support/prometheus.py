"""A real Prometheus (Debian's) that scrapes what a test serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.support.addresses import free_port
from tests.support.tools import needs
from tests.support.waiting import PATIENCE_SECONDS


class Prometheus:
    """One that runs. `url` ends without a slash."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self._session = url, session

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression, as the HTTP API has it."""
        async with self._session.get(f"{self.url}/api/v1/query", params={"query": expression}) as response:
            found = await response.json()
        assert found["status"] == "success", (expression, found)
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    async def until(self, expression: str) -> list[dict[str, Any]]:
        """Wait until an expression gives something."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    if found := await self.query(expression):
                        return found
                    await asyncio.sleep(0.3)
        except TimeoutError:
            raise AssertionError(f"nothing for {expression}") from None


@asynccontextmanager
async def prometheus(root: Path, jobs: Mapping[str, Mapping[str, Any]]) -> AsyncIterator[Prometheus]:
    """Scrapes each job's target every second; skips loudly where Prometheus is not installed."""
    needs("prometheus")
    port = free_port()
    config = root / "prometheus.yml"
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [{"job_name": name, **job} for name, job in jobs.items()],
    }
    config.write_text(yaml.safe_dump(settings))
    with (root / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={root / 'tsdb'}"),
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(f"http://127.0.0.1:{port}", await _ready(session, port))
    finally:
        process.terminate()
        await process.wait()


async def _ready(session: aiohttp.ClientSession, port: int) -> aiohttp.ClientSession:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/-/ready") as response:
                    if response.status == 200:
                        return session
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
