"""The line to the daemon's Unix socket (interfaces §3): hints come in, reports go out. It survives the daemon.

It decides nothing and never touches a model; without a daemon it only keeps trying.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

_LOG = logging.getLogger(__name__)
_SOCKET = "daemon.sock"
_MAX_SOCKET_PATH = 100
_BASE = "http://daemon"

Report = dict[str, Any]


class DaemonLink:
    """Keeps a watch open on the daemon of `data` and posts `reports()`, in a thread of its own; `environment()` once
    after each connect.

    `hint` is called on every event of the daemon and after every connect. Both callbacks come from the link's
    thread and must not block. Retries come every second, jittered; heartbeats every `heartbeat` seconds.
    """

    def __init__(
        self,
        data: Path,
        model: str,
        reports: Callable[[], list[Report]],
        hint: Callable[[], None],
        heartbeat: float = 5.0,
        environment: Callable[[], Report] | None = None,
    ) -> None:
        self._environment = environment
        self._data, self._model = data, model
        self._reports, self._hint, self._heartbeat = reports, hint, heartbeat
        self._loop = asyncio.new_event_loop()
        self._stop, self._changed = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="modelsync-daemon-link", daemon=True)
        self.connected = False
        self.problem: str | None = None

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def changed(self) -> None:
        """Post the reports now. From any thread; after `close` it does nothing."""
        self._call(self._changed.set)

    def close(self) -> None:
        """Hang up and end the thread; may be repeated."""
        self._call(self._stop.set)
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        elif not self._loop.is_closed():
            self._loop.close()

    def _call(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        finally:
            self._loop.close()

    async def _run(self) -> None:
        stop = asyncio.ensure_future(self._stop.wait())
        while not self._stop.is_set():
            talk = asyncio.ensure_future(self._talk())
            await asyncio.wait([talk, stop], return_when=asyncio.FIRST_COMPLETED)
            talk.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._note(await talk)
            self.connected = False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), random.uniform(0.5, 1.5))

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            _LOG.info("%s: no line to the daemon: %s Trying again every second.", self._model, problem)
        self.problem = problem

    async def _talk(self) -> str:
        """One connection, until it ends; returns why."""
        try:
            with _reachable(self._data) as path:
                timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
                connector = aiohttp.UnixConnector(path=path)
                async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                    await self._watch_and_report(session)
            return "the daemon ended the connection."
        except FileNotFoundError:
            return "it does not run (there is no socket)."
        except TimeoutError:
            return "it did not answer in time."
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"{' '.join(str(error).split())}."

    async def _watch_and_report(self, session: aiohttp.ClientSession) -> None:
        url = f"{_BASE}/v1/models/{self._model}/watch"
        async with session.get(url, params={"pid": str(os.getpid())}) as response:
            response.raise_for_status()
            self.connected, self.problem = True, None
            self._hint()
            await self._post_environment(session)
            tasks = [
                asyncio.ensure_future(self._listen(response)),
                asyncio.ensure_future(self._post_reports(session)),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _post_environment(self, session: aiohttp.ClientSession) -> None:
        if self._environment is None:
            return
        url, timeout = f"{_BASE}/v1/models/{self._model}/environment", aiohttp.ClientTimeout(total=10)
        async with session.post(url, json=self._environment(), timeout=timeout) as response:
            if response.status >= 400:  # a daemon of before does not know the question
                _LOG.info("the daemon answered with status %s what this process runs models with", response.status)

    async def _listen(self, response: aiohttp.ClientResponse) -> None:
        async for line in response.content:
            try:
                event = json.loads(line)
            except ValueError:
                event = None  # whatever it was meant to be, looking at the pointers does no harm
            if not isinstance(event, dict) or event.get("event") != "keepalive":
                self._hint()

    async def _post_reports(self, session: aiohttp.ClientSession) -> None:
        url = f"{_BASE}/v1/models/{self._model}/report"
        timeout = aiohttp.ClientTimeout(total=10)
        while True:
            self._changed.clear()
            for report in self._reports():
                async with session.post(url, json=report, timeout=timeout) as response:
                    if response.status >= 400:
                        _LOG.warning("the daemon answered a report with status %s", response.status)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._heartbeat)


@contextlib.contextmanager
def _reachable(data: Path) -> Iterator[str]:
    """A path to the socket that fits into a socket address (108 bytes), usable inside `with`."""
    path = os.fspath(data / _SOCKET)
    if not os.path.exists(path):  # noqa: PTH110
        raise FileNotFoundError(path)
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        yield path
        return
    descriptor = os.open(data, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{_SOCKET}"
    finally:
        os.close(descriptor)
