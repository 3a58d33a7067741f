"""An application that is told of versions goes through good and bad ones as our own server does, whatever tells it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.activate import telling
from modelsync_daemon.activate.activation import Patience
from modelsync_daemon.consumers import configured
from modelsync_daemon.consumers.configured import Configured
from tests.daemon.fakes import NAME, Device, device, reference
from tests.support import told_application
from tests.support.addresses import free_port

PATIENCE = Patience(probe=5, probation=0.4, settle=0)
KINDS = (pytest.param("command", marks=pytest.mark.long), "http", pytest.param("signal", marks=pytest.mark.long))


@dataclass
class World:
    """The application's process, started again whenever it ends as a service manager would, and requests to it."""

    root: Path
    port: int
    process: asyncio.subprocess.Process | None = None
    answers: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    starts: int = 0

    def rules(self, **rules: str) -> None:
        """How versions behave: v2="bad"."""
        (self.root / "rules.json").write_text(json.dumps({key[1:]: rule for key, rule in rules.items()}))

    async def supervise(self) -> None:
        """Keep the process running."""
        while True:
            self.starts += 1
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, told_application.__file__, str(self.root / "models" / NAME), str(self.port)
            )
            try:
                await self.process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
            await asyncio.sleep(0.05)

    def version(self) -> int:
        """What it serves."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/version", timeout=5) as answer:
            return int(json.load(answer)["version"])

    async def is_up(self) -> None:
        """Wait until it answers."""
        for _ in range(500):
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.version)
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the application never answered")

    async def ask_on(self) -> None:
        """One request after the other."""
        while True:
            try:
                self.answers.append(await asyncio.to_thread(self.version))
            except OSError as error:
                self.failures.append(str(error))
                await asyncio.sleep(0.02)

    def consumers(self, kind: str, seconds: float = 20) -> Configured:
        """The settings that tell it by `kind`; what does not load is given up after `seconds`."""
        url = f"http://127.0.0.1:{self.port}"
        reload = f"import urllib.request as r; r.urlopen(r.Request('{url}/reload', b'x'), timeout=20)"
        ways: dict[str, dict[str, Any]] = {
            "http": {"http": {"url": f"{url}/reload"}},
            "command": {
                "command": [sys.executable, "-c", reload],
                "network": True,
                "read": [sys.base_prefix, sys.prefix],
            },
            "signal": {"signal": {"signal": "HUP", "pidfile": str(self.root / "app.pid")}},
        }
        ready = {"http": {"url": f"{url}/version", "expect": {"version": "{version}"}}, "seconds": seconds}
        table = {"activate": {**ways[kind], "seconds": seconds, "ready": {**ready, "every": 0.05}}}
        return configured.read({NAME: table}, {}, Path("/"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path, free_port())
    (tmp_path / "models" / NAME).mkdir(parents=True)
    tasks = [asyncio.ensure_future(made.supervise())]
    try:
        await made.is_up()
        tasks.append(asyncio.ensure_future(made.ask_on()))
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def serves(pi: Device, world: World, version: int) -> None:
    """Wait until the device and the application agree on `version`."""
    await pi.serves(version)
    assert await asyncio.to_thread(world.version) == version


@pytest.mark.parametrize("kind", KINDS)
async def test_good_bad_and_rolled_back_with_requests_in_flight(world: World, kind: str) -> None:
    world.rules(v3="bad")
    consumers = world.consumers(kind, 4 if kind == "signal" else 20)  # which has no answer: not loading is all it says
    async with device(world.root, patience=PATIENCE, consumers=consumers) as pi:
        pi.wish(1)
        await serves(pi, world, 1)
        pi.wish(2)
        await serves(pi, world, 2)
        pi.wish(3)
        await pi.is_in("rolled back")
        assert await asyncio.to_thread(world.version) == 2
        current = pi.current()
        assert current and current.version == 2 and current.previous is None
        assert list(pi.database.quarantined(NAME)) == [reference(3).digest]
        told = telling.read(pi.database, NAME)
        assert told and (told["result"], told["version"], told["generation"]) == ("loaded", 2, 4)
        pi.wish(4)
        await serves(pi, world, 4)
        await pi.resident.commands.rollback(NAME)
        await pi.until(lambda: (telling.read(pi.database, NAME) or {}).get("version") == 2, "being told to go back")
        await pi.until(lambda: (telling.read(pi.database, NAME) or {}).get("result") == "loaded")
        assert await asyncio.to_thread(world.version) == 2
    assert world.starts == 1 and not world.failures, "it drains: no request was lost"
    changes = [
        version for before, version in zip([0, *world.answers], world.answers, strict=False) if version != before
    ]
    assert changes in ([1, 2, 4, 2], [1, 2, 4])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["hang", "deaf"])
async def test_one_that_hangs_or_only_says_yes_goes_back(world: World, kind: str, rule: str) -> None:
    world.rules(v2=rule)
    async with device(world.root, patience=PATIENCE, consumers=world.consumers(kind)) as pi:
        pi.wish(1)
        await serves(pi, world, 1)
    async with device(world.root, pi.plane, PATIENCE, consumers=world.consumers(kind, 1.5)) as pi:
        pi.wish(2)
        await pi.is_in("rolled back")
        assert await asyncio.to_thread(world.version) == 1
        reason = pi.database.quarantined(NAME)[reference(2).digest].reason
        late = {"command": "did not end within 1.5 s and was killed", "http": "was not answered within 1.5 s"}
        expected = late.get(kind) if rule == "hang" else None
        assert (expected or "says version = 1, and not 2") in reason
    assert not world.failures, "the old version served on"


@pytest.mark.parametrize("kind", KINDS)
async def test_one_that_crashes_on_probation_goes_back(world: World, kind: str) -> None:
    world.rules(v2="crash")
    patience = Patience(probe=5, probation=30, settle=0)
    async with device(world.root, patience=patience, consumers=world.consumers(kind)) as pi:
        pi.wish(1)
        await pi.is_in("probation")
        pi.database.transition(NAME, "active")
        pi.wish(2)
        await pi.is_in("rolled back", "serving")
        assert pi.database.quarantined(NAME)[reference(2).digest].reason.startswith(
            ("the application stopped being ready: ", "the application ended and came back ")
        )
        await pi.until(lambda: (telling.read(pi.database, NAME) or {}).get("result") == "loaded")
        await world.is_up()
        current = pi.current()
        assert current and current.version == 1 and await asyncio.to_thread(world.version) == 1
    assert world.failures, "a crash loses requests: nothing can drain it"
