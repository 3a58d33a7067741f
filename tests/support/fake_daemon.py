"""The inference-facing half of the daemon's socket (docs/interfaces.md §3), in a thread. It records the reports."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.waiting import PATIENCE_SECONDS, wait_until


class FakeDaemon:
    """Listens on `data`/daemon.sock between `start` and `stop`."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._started, self._stop = threading.Event(), asyncio.Event()
        self._streams: list[web.StreamResponse] = []
        self.pids: list[int] = []
        self.reports: list[dict[str, Any]] = []

    def start(self) -> FakeDaemon:
        """Listen."""
        self._thread.start()
        assert self._started.wait(PATIENCE_SECONDS)
        return self

    def stop(self) -> None:
        """Hang up on everybody and take the socket away, as a daemon's end does."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_SECONDS)

    def say(self, line: bytes) -> None:
        """Send a line to every watcher."""
        for stream in self._streams:
            asyncio.run_coroutine_threadsafe(stream.write(line + b"\n"), self._loop).result(PATIENCE_SECONDS)

    def hint(self, event: str) -> None:
        """Send the hint `event`."""
        self.say(json.dumps({"event": event}).encode())

    def expect(self, **fields: Any) -> dict[str, Any]:
        """Wait for a report with these fields and return the latest such."""
        wait_until(lambda: any(fields.items() <= report.items() for report in self.reports), f"a report {fields}")
        return [report for report in self.reports if fields.items() <= report.items()][-1]

    def _main(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models/{model}/watch", self._watch)
        app.router.add_post("/v1/models/{model}/report", self._report)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        # A short path, whatever the length of the real one: as a daemon has it that binds from inside its folder.
        descriptor = os.open(self._data, os.O_PATH | os.O_DIRECTORY)
        await web.UnixSite(runner, f"/proc/self/fd/{descriptor}/daemon.sock").start()
        (self._data / "daemon.sock").chmod(0o660)
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()
        (self._data / "daemon.sock").unlink(missing_ok=True)
        os.close(descriptor)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.pids.append(int(request.query["pid"]))
        stream = web.StreamResponse()
        await stream.prepare(request)
        self._streams.append(stream)
        try:
            await self._stop.wait()
        finally:
            self._streams.remove(stream)
        return stream

    async def _report(self, request: web.Request) -> web.Response:
        self.reports.append(await request.json())
        return web.Response(status=204)
