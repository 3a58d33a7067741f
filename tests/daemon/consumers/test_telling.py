"""Whoever was not told is told until it worked: refusals on the way back, restarts, pulls, the twin's choice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from modelsync_daemon.activate import telling
from modelsync_daemon.activate.activation import Activation, Patience
from modelsync_daemon.activate.inference_processes import Processes
from modelsync_daemon.config import Tables
from modelsync_daemon.consumers import configured
from modelsync_daemon.consumers.configured import Configured
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from tests.daemon.fakes import NAME, Device, MemoryControlPlane, device, install, reference
from tests.support.addresses import free_port

PATIENCE = Patience(probe=5, probation=0.05, settle=0)


@dataclass
class Listener:
    """Takes `POST /load?version=V&generation=G`; `refuses` some versions, never answers those that it `ignores`."""

    port: int = 0
    told: list[tuple[int, int]] = field(default_factory=list)
    refuses: set[int] = field(default_factory=set)
    ignores: set[int] = field(default_factory=set)
    chosen: list[str] = field(default_factory=list)

    async def load(self, request: web.Request) -> web.Response:
        """Be told."""
        version = int(request.query["version"])
        self.told.append((version, int(request.query["generation"])))
        self.chosen.append(request.query.get("way", ""))
        if version in self.ignores:
            await asyncio.sleep(60)
        return web.Response(status=500 if version in self.refuses else 200, text="no such layer")

    def table(self, way: str = "") -> dict[str, Any]:
        """Settings that tell it."""
        url = f"http://127.0.0.1:{self.port}/load?version={{version}}&generation={{generation}}&way={way}"
        return {"http": {"url": url}, "seconds": 1}

    def consumers(self) -> Configured:
        """The same, read."""
        return configured.read({NAME: {"activate": self.table()}}, {}, Path("/"))


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    made, app = Listener(), web.Application()
    app.router.add_post("/load", made.load)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def result(pi: Device) -> str:
    """What is kept of the application."""
    return str((telling.read(pi.database, NAME) or {}).get("result"))


async def test_one_that_does_not_come_back_is_said_loudly_and_told_until_it_does(
    tmp_path: Path, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    async with device(tmp_path, patience=PATIENCE, consumers=listener.consumers()) as pi:
        pi.wish(1)
        await pi.serves(1)
        listener.refuses = {1, 2}
        pi.wish(2)
        await pi.is_in("rolled back", "serving")
        await pi.until(lambda: len([told for told in listener.told if told == (1, 3)]) >= 2, "attempts")
        shown = pi.resident.commands.status()["models"][NAME]
        assert shown["error"]["code"] == "consumer" and shown["version"] == 1
        assert "does not load version 1, and is told again: POST http://127.0.0.1" in shown["error"]["text"]
        assert "Before that: POST" in shown["error"]["text"]
        assert shown["consumer"]["result"] in ("failed", "telling") and shown["consumer"]["attempts"] >= 2
        assert "version 1 is to serve, and its application did not load it" in caplog.text
        assert pi.data.find(NAME, reference(2)), "it may still read what it serves"
        await pi.until(lambda: pi.shown_model()["error"]["code"] == "consumer", "the report")
        listener.refuses = {2}
        await pi.until(lambda: result(pi) == "loaded")
        assert pi.resident.commands.status()["models"][NAME]["error"]["code"] == "serving"
        told = len(listener.told)
        await asyncio.sleep(0.1)
        assert len(listener.told) == told, "told once more for nothing"


async def test_another_wish_goes_before_telling_again(tmp_path: Path, listener: Listener) -> None:
    async with device(tmp_path, patience=PATIENCE, consumers=listener.consumers()) as pi:
        pi.wish(1)
        await pi.serves(1)
        listener.refuses = {1, 2}
        pi.wish(2)
        await pi.is_in("rolled back")
        pi.wish(3)
        await pi.serves(3)
        assert listener.told[-1][0] == 3 and result(pi) == "loaded"


async def test_a_switch_under_way_is_ended_before_another_wish_begins(tmp_path: Path, listener: Listener) -> None:
    """Else a version that nobody saw load would be what is gone back to."""
    async with device(tmp_path, patience=PATIENCE, consumers=listener.consumers()) as pi:
        pi.wish(1)
        await pi.serves(1)
        listener.ignores = {2}
        listener.refuses = {3}
        pi.wish(2)
        await pi.until(lambda: (2, 2) in listener.told)
        pi.wish(3)
        await pi.until(lambda: 3 in [version for version, _ in listener.told], "version 3")
        await pi.until(lambda: pi.row().state == "rolled back" and result(pi) == "loaded")
        current = pi.current()
        assert current and current.version == 1


@pytest.mark.parametrize("moment", ["loading", "falling back", "loaded"])
async def test_a_restart_goes_on_where_it_was(tmp_path: Path, listener: Listener, moment: str) -> None:
    plane = MemoryControlPlane()
    slow = Patience(probe=5, probation=30 if moment == "loaded" else 0.05, settle=0)
    async with device(tmp_path, plane, PATIENCE, consumers=listener.consumers()) as pi:
        pi.wish(1)
        await pi.serves(1)
    async with device(tmp_path, plane, slow, consumers=listener.consumers()) as pi:
        listener.ignores = {"loading": {2}, "falling back": {1}, "loaded": set[int]()}[moment]
        listener.refuses = {2} if moment == "falling back" else set()
        pi.wish(2)
        wanted = (1, 3) if moment == "falling back" else (2, 2)
        await pi.until(lambda: wanted in listener.told)
        if moment == "loaded":
            await pi.is_in("probation")
        await pi.kill()
    listener.ignores = set()
    told = listener.told.count(wanted)
    async with device(tmp_path, plane, PATIENCE, consumers=listener.consumers()) as pi:
        if moment == "falling back":
            await pi.is_in("rolled back", "serving")
        else:
            await pi.serves(2)
        await pi.until(lambda: result(pi) == "loaded")
        more = listener.told.count(wanted) - told
        assert more == (0 if moment == "loaded" else 1), "the same generation, as often as it has to be and no more"


async def test_one_that_brings_the_machine_down_again_and_again_goes_back(tmp_path: Path, listener: Listener) -> None:
    plane = MemoryControlPlane()
    async with device(tmp_path, plane, PATIENCE, consumers=listener.consumers()) as pi:
        pi.wish(1)
        await pi.serves(1)
    listener.ignores = {2}
    plane.set_desired({"modelsync": {"models": {NAME: {"version": 2}}}})
    for attempt in range(1, 4):
        async with device(tmp_path, plane, PATIENCE, consumers=listener.consumers()) as pi:
            await pi.until(lambda attempt=attempt: listener.told.count((2, 2)) == attempt)  # type: ignore[misc]
            await pi.kill()
    async with device(tmp_path, plane, PATIENCE, consumers=listener.consumers()) as pi:
        await pi.is_in("rolled back", "serving")
        assert "restarted again and again while it was brought into service" in pi.row().error_text
        assert listener.told[-1] == (1, 3)


async def test_what_was_pointed_at_without_a_daemon_is_told_at_its_start(tmp_path: Path, listener: Listener) -> None:
    data = DataDir(tmp_path)
    with data.lock():
        database = Database.open(data)
        database.transition(NAME, "resolving")
        Activation(data, database, Processes(), Patience()).point_at_once(NAME, install(data, 1))
        database.close()
    async with device(tmp_path, patience=PATIENCE, consumers=listener.consumers()) as pi:
        await pi.until(lambda: result(pi) == "loaded")
        assert listener.told == [(1, 1)]
    async with device(tmp_path, patience=PATIENCE, consumers=listener.consumers()) as pi:
        await asyncio.sleep(0.1)
        assert listener.told == [(1, 1)], "it knows"
    async with device(tmp_path, patience=PATIENCE) as pi:
        assert "consumer" not in pi.resident.commands.status()["models"][NAME], "the settings name nobody any more"


async def test_the_first_version_that_is_refused_is_not_told_again(tmp_path: Path, listener: Listener) -> None:
    listener.refuses = {1}
    async with device(tmp_path, patience=PATIENCE, consumers=listener.consumers()) as pi:
        pi.wish(1)
        await pi.is_in("quarantined", "serving")
        await asyncio.sleep(0.1)
        assert listener.told == [(1, 1)]
        pi.wish(1, retry="again")
        listener.refuses = set()
        await pi.serves(1)


async def test_a_candidate_may_be_refused_before_the_switch(tmp_path: Path, listener: Listener) -> None:
    check = ["/bin/sh", "-c", 'case "$MODELSYNC_VERSION" in 2) echo opset 99 >&2; exit 1;; esac']
    table = {**listener.table(), "check": {"command": check}}
    consumers = configured.read({NAME: {"activate": table}}, {}, Path("/"))
    async with device(tmp_path, patience=PATIENCE, consumers=consumers) as pi:
        pi.wish(1)
        await pi.serves(1)
        pi.wish(2)
        await pi.is_in("quarantined", "probe")
        assert pi.row().error_text == "sh ended with 1: opset 99" and listener.told == [(1, 1)]


async def test_the_twin_chooses_among_what_the_device_allows_and_nothing_else(
    tmp_path: Path, listener: Listener
) -> None:
    applications = {way: listener.table(way) for way in ("graceful", "hard", "secret")}
    models = {NAME: {"activate": "hard", "twin_activation": ["graceful"]}}
    consumers = configured.read(models, applications, Path("/"))
    tables = Tables(models, tmp_path)
    async with device(tmp_path, patience=PATIENCE, consumers=consumers, models=tables) as pi:
        pi.wish(1)
        await pi.serves(1)
        pi.wish(2, activate="graceful")
        await pi.serves(2)
        pi.wish(3, activate="secret")
        await pi.serves(3)
        assert listener.chosen == ["hard", "graceful", "hard"]
        await pi.until(lambda: "problems" in pi.shown(), "the report")
        [(path, text)] = pi.shown()["problems"].items()
        assert path == f"models/{NAME}/activate" and "don't let the twin choose 'secret'" in text


async def test_a_removed_model_is_forgotten(tmp_path: Path, listener: Listener) -> None:
    async with device(tmp_path, patience=PATIENCE, consumers=listener.consumers()) as pi:
        pi.wish(1)
        await pi.serves(1)
        pi.wish(None, state="absent")
        await pi.until(lambda: telling.read(pi.database, NAME) is None)
        assert listener.told == [(1, 1)]


async def test_one_that_is_down_costs_no_version(tmp_path: Path, listener: Listener) -> None:
    """The first version waits for it; before a later one it is waited for, and nothing is switched."""
    port, listener.port = listener.port, free_port()
    down, listener.port = listener.consumers(), port
    plane = MemoryControlPlane()
    async with device(tmp_path, plane, PATIENCE, consumers=down) as pi:
        pi.wish(1)
        await pi.serves(1)
        await pi.until(lambda: (telling.read(pi.database, NAME) or {}).get("attempts", 0) >= 2)
        assert pi.resident.commands.status()["models"][NAME]["error"]["code"] == "consumer"
        pi.wish(2)
        await pi.is_in("waiting", "consumer")
        current = pi.current()
        assert current and current.version == 1 and not pi.database.quarantined(NAME)
        assert "Connect call failed" in pi.row().error_text
    async with device(tmp_path, plane, PATIENCE, consumers=listener.consumers()) as pi:
        await pi.serves(2)
        assert (2, 2) in listener.told or (2, 3) in listener.told


async def test_what_this_machine_lacks_costs_no_version(tmp_path: Path) -> None:
    table = {"activate": {"command": ["/nowhere/reload"]}}
    async with device(tmp_path, patience=PATIENCE, consumers=configured.read({NAME: table}, {}, Path("/"))) as pi:
        pi.wish(1)
        await pi.is_in("waiting", "consumer")
        assert pi.current() is None and not pi.database.quarantined(NAME)
        assert pi.row().error_text == "/nowhere/reload is not there, or is no program that may be run."
