"""The running daemon and an offline medium: budgets, windows, wishes, restarts, failures; what the socket takes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.disk.states import State
from modelsync_daemon.local import socket_client
from modelsync_daemon.local.socket_api import SocketApi
from modelsync_protocol.errors import RefusedError, UsageError
from tests.daemon.fakes import NAME, Device, device

STICK = "/media/stick"


async def bring(pi: Device, *versions: int) -> dict[str, Any]:
    """Insert a stick with these versions; what is decided."""
    found: dict[str, Any] = (await pi.resident.commands.bring(STICK, {NAME: list(versions)}))[NAME]
    return found


def result(pi: Device) -> Any:
    return pi.resident.commands.imported()[NAME]["result"]


async def test_a_medium_is_no_line_and_waits_for_no_window_and_no_budget(tmp_path: Path) -> None:
    async with device(tmp_path, bytes_per_day=0, windows=("00:00-00:01", "12:00-12:01"), rate_limit=1) as pi:
        assert (await bring(pi, 2, 1))["result"] == "coming"
        await pi.serves(2)
        assert result(pi) == "brought" and pi.row().bytes == 0
        [job] = pi.preparer.jobs
        assert (job.media, job.origin, job.byte_limit, job.rate_limit, job.secrets) == (STICK, "", None, None, ())
        await pi.until(lambda: pi.shown_model().get("version") == 2)  # the hub is told as always
        assert (await bring(pi, 2))["result"] == "here" and len(pi.preparer.jobs) == 1


async def test_what_is_just_being_fetched_comes_from_the_medium_instead(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.preparer.block.clear()
        pi.wish(3)
        await pi.until(lambda: pi.row().state == State.FETCHING)
        pi.preparer.block.set()
        pi.preparer.block = asyncio.Event()
        assert (await bring(pi, 4, 3))["version"] == 3, "the hub can be asked: its wish counts"
        await pi.until(lambda: len(pi.preparer.jobs) == 2)
        assert pi.preparer.jobs[1].media == STICK
        pi.preparer.block.set()
        await pi.serves(3)


async def test_a_wish_that_is_not_on_the_medium_goes_on_over_the_line(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        assert (await bring(pi, 3, 2))["result"] == "left"
        assert len(pi.preparer.jobs) == 1 and pi.resident.commands.status()["models"][NAME]["version"] == 1


async def test_a_medium_that_fails_is_forgotten_and_the_line_goes_on(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        pi.plane.set_desired({"modelsync": {"models": {NAME: None}}})
        await pi.until(lambda: pi.resident.commands._device.desired.now.models == {})
        pi.preparer.fail = [RefusedError("the stick is foreign.")]
        await bring(pi, 2)
        await pi.until(lambda: result(pi) == "failed")
        found = pi.resident.commands.imported()[NAME]
        assert (found["text"], found["exit_code"]) == ("the stick is foreign.", 3)
        await pi.until(lambda: pi.row().state == State.ACTIVE)
        current = pi.current()
        assert current is not None and current.version == 1
        pi.wish(2)
        await pi.serves(2)
        assert pi.preparer.jobs[-1].media is None


async def test_an_import_that_a_restart_interrupted_goes_on_from_the_medium(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.preparer.block.clear()
        await bring(pi, 2)
        await pi.until(lambda: pi.row().state == State.FETCHING)
    async with device(tmp_path) as pi:
        await pi.serves(2)
        assert [job.media for job in pi.preparer.jobs] == [STICK]


async def test_a_hold_keeps_a_medium_out_too(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        await bring(pi, 1)
        await pi.serves(1)
        await pi.resident.commands.hold(NAME)
        found = await bring(pi, 2)
        assert (found["result"], found["exit_code"]) == ("left", 3) and "release it" in found["text"]


async def test_reports_have_rising_numbers_whatever_the_clock_does(tmp_path: Path) -> None:
    now = [2_000_000_000.0]
    async with device(tmp_path, clock=lambda: now[0]) as pi:
        first = pi.resident.commands.carried_report()
        now[0] -= 1_000_000
        second = pi.resident.commands.carried_report()
        now[0] += 5_000_000
        third = pi.resident.commands.carried_report()
    assert first["sequence"] == 2_000_000_000 and second["sequence"] == first["sequence"] + 1
    assert third["sequence"] == int(now[0]) and set(third["reported"]) == {"modelsync"}
    async with device(tmp_path, clock=lambda: 5.0) as pi:
        assert pi.resident.commands.carried_report()["sequence"] == third["sequence"] + 1


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"path": "relative", "models": {}},
        {"path": STICK, "models": []},
        {"path": STICK, "models": {"../x": [1]}},
        {"path": STICK, "models": {NAME: []}},
        {"path": STICK, "models": {NAME: ["1"]}},
        {"path": STICK, "models": {NAME: [0]}},
        {"path": STICK, "models": {NAME: 1}},
    ],
)
async def test_the_socket_takes_no_wrong_medium(tmp_path: Path, document: Any) -> None:
    async with device(tmp_path) as pi:
        api = SocketApi(pi.resident.commands, pi.resident.processes, pi.data.socket)
        await api.start()
        try:
            with pytest.raises(UsageError):
                await asyncio.to_thread(socket_client.call, pi.data.socket, "POST", "/v1/import", document)
            assert await asyncio.to_thread(socket_client.call, pi.data.socket, "GET", "/v1/import") == {}
        finally:
            await api.stop()
