"""One walk for every application: good swap, bad model, hang, crash, rollback, with requests all the while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelsync_daemon.activate import telling
from modelsync_daemon.activate.activation import Patience
from modelsync_daemon.consumers.configured import Configured
from tests.daemon.fakes import NAME, Device, MemoryControlPlane, device
from tests.support.waiting import until

FIRST, SECOND, BAD, HANGS, CRASHES, LAST = range(1, 7)
"""What the versions are; the walk ends at LAST and back at SECOND."""

Ask = Callable[[], Awaitable[int]]
"""One request: the version that answered it. Raises OSError or ValueError if nobody did."""


Started = Callable[[Device], contextlib.AbstractAsyncContextManager[None]]


@contextlib.asynccontextmanager
async def _nothing(_: Device) -> AsyncIterator[None]:
    yield


@dataclass
class Traffic:
    """Requests one after the other, from two clients at once."""

    ask: Ask
    answers: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    async def _client(self) -> None:
        while True:
            try:
                version = await self.ask()
                if version:
                    self.answers.append(version)
            except (OSError, ValueError) as error:
                self.lost.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def flows(self) -> AsyncIterator[None]:
        """As long as the context lasts."""
        tasks = [asyncio.ensure_future(self._client()) for _ in range(2)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def walk(
    root: Path,
    consumers: Configured | None,
    files: Callable[[int], Mapping[str, bytes | None]],
    ask: Ask,
    *,
    drains: bool,
    hangs: bool = True,
    rescue: Callable[[], None] | None = None,
    crash: Callable[[], None] | None = None,
    crash_seconds: float = 1.2,
    late: bool = False,
    started: Started = _nothing,
) -> None:
    """Go the whole way. `files`: of a version (None: a pipe that nobody writes to); `drains`: no request may be lost.

    `hangs`: whether a load can hang; `late`: it can't be called off and may come through; `rescue`: ends a program that
    hangs; `crash`: ends it on probation, again and again (every `crash_seconds`), if the version itself does not;
    `started`: a context for as long as the device runs.
    """
    plane = MemoryControlPlane()

    @contextlib.asynccontextmanager
    async def running(probation: float) -> AsyncIterator[Device]:
        def setup(made: Device) -> None:
            made.preparer.files = files

        patience = Patience(probe=10, probation=probation, settle=3)
        async with device(root, plane, patience, setup=setup, consumers=consumers) as pi, started(pi):
            yield pi

    async with running(1.0) as pi:
        await _goes_to(pi, FIRST)
        await _answers(ask, FIRST)
        async with _traffic(ask, drains, {FIRST, SECOND, *([HANGS] if late else [])}):
            await _goes_to(pi, SECOND)
            await _answers(ask, SECOND)
            await _falls_back(pi, BAD)
            await _answers(ask, SECOND)
            if hangs and rescue is None:
                await _falls_back(pi, HANGS)
                await _answers(ask, SECOND)
        if hangs and rescue is not None:
            pi.wish(HANGS)
            await _until(lambda: "its application does not load" in _error(pi), pi)
            rescue()
            await _falls_back(pi, HANGS)
            await _answers(ask, SECOND)
    async with running(60.0) as pi:
        pi.wish(CRASHES)
        if crash is not None:
            await _until(lambda: pi.row().state == "probation", pi)
            while pi.row().state == "probation":
                crash()
                await asyncio.sleep(crash_seconds)
        await _falls_back(pi, CRASHES)
        await _answers(ask, SECOND)
    async with running(1.0) as pi, _traffic(ask, drains, {SECOND, LAST}):
        await _goes_to(pi, LAST)
        await _answers(ask, LAST)
        await pi.resident.commands.rollback(NAME)
        await _answers(ask, SECOND)


@contextlib.asynccontextmanager
async def _traffic(ask: Ask, drains: bool, versions: set[int]) -> AsyncIterator[None]:
    traffic = Traffic(ask)
    async with traffic.flows():
        yield
    assert traffic.answers and set(traffic.answers) <= versions, set(traffic.answers)
    assert not drains or not traffic.lost, traffic.lost[:3]


def _error(pi: Device) -> str:
    return str((pi.resident.commands.status()["models"][NAME]["error"] or {}).get("text"))


async def _goes_to(pi: Device, version: int) -> None:
    pi.wish(version)
    await _until(lambda: pi.row().state == "active" and (at := pi.current()) and at.version == version, pi)


async def _falls_back(pi: Device, version: int) -> None:
    pi.wish(version)

    def refused() -> bool:
        return version in [each.version for each in pi.database.quarantined(NAME).values()]

    await _until(lambda: refused() and pi.row().state in ("rolled back", "quarantined"), pi)
    await _until(lambda: (telling.read(pi.database, NAME) or {"result": "loaded"})["result"] == "loaded", pi)


async def _answers(ask: Ask, version: int) -> None:
    said: object = None

    async def answers() -> bool:
        nonlocal said
        try:
            said = await ask()
        except (OSError, ValueError) as error:
            said = error
        return said == version

    try:
        await until(answers)
    except AssertionError:
        raise AssertionError(f"version {version} should answer; {said!r} does") from None


async def _until(condition: Callable[[], object], pi: Device) -> None:
    try:
        await pi.until(condition)
    except AssertionError as error:
        raise AssertionError(f"{error} {telling.read(pi.database, NAME)}") from None
