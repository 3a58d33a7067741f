"""Prometheus of the story: the real one, started with the story's rules; asked as its users ask it. Decides nothing."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import aiohttp

from examples.demo.stage import StageError
from examples.stories.telling import Story

RULES = Path(__file__).with_name("rules.yml")
SCRAPE_SECONDS = 1


class Prometheus:
    """`await Prometheus(story).start(targets)`; then `value`, `series` and `firing`."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._url = ""
        self._session: aiohttp.ClientSession

    @staticmethod
    def missing() -> str:
        """Why there is none on this machine; empty if there is one."""
        return (
            "" if shutil.which("prometheus") else "Prometheus is not installed here (Debian: `apt install prometheus`)."
        )

    async def start(self, targets: dict[str, str]) -> Prometheus:
        """Scrape `targets` (address by job), each second."""
        folder = self._story.work / "prometheus"
        folder.mkdir()
        jobs = "".join(
            f"  - job_name: {job}\n    static_configs: [{{ targets: ['{address}'] }}]\n"
            for job, address in targets.items()
        )
        (folder / "prometheus.yml").write_text(
            f"global: {{ scrape_interval: {SCRAPE_SECONDS}s, evaluation_interval: {SCRAPE_SECONDS}s }}\n"
            f"rule_files: ['{RULES}']\nscrape_configs:\n{jobs}"
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        program = shutil.which("prometheus")
        assert program is not None
        await self._story.process("prometheus").start(
            *(program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
            ready=False,
        )
        self._url = f"http://127.0.0.1:{port}/api/v1"
        self._session = await self._story.stack.enter_async_context(aiohttp.ClientSession())

        async def ready() -> bool:
            try:
                return bool(await self._ask("query", query="up"))
            except (aiohttp.ClientError, StageError):
                return False

        await self._story.until("Prometheus' first scrape", ready)
        return self

    async def value(self, query: str) -> float | None:
        """The one number that a query gives now; None if it gives none."""
        found = await self._ask("query", query=query)
        return float(found[0]["value"][1]) if found else None

    async def series(self, query: str, begin: float, end: float) -> list[dict[str, Any]]:
        """{"metric": labels, "values": [[Unix time, text], …]} of each series from `begin` to `end`."""
        return await self._ask("query_range", query=query, start=f"{begin}", end=f"{end}", step=f"{SCRAPE_SECONDS}")

    async def firing(self, alert: str) -> bool:
        """Whether the alert fires."""
        return bool(await self._ask("query", query=f'ALERTS{{alertname="{alert}", alertstate="firing"}}'))

    async def _ask(self, what: str, **parameters: str) -> list[dict[str, Any]]:
        async with self._session.get(f"{self._url}/{what}", params=parameters) as answer:
            starting = answer.status == 503  # it says so in plain words, until it has read its data
            document: dict[str, Any] = (
                {"error": "it is not ready yet"} if starting else await answer.json(content_type=None)
            )
        if document.get("status") != "success":
            raise StageError(f"Prometheus does not answer {parameters}: {document.get('error')}")
        found: list[dict[str, Any]] = document["data"]["result"]
        return found
