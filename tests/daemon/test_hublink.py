"""The hub connection survives what the SDK does to it: lost lines, false hints, lost hints, refused credentials."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelsync_daemon.control import hub_link
from modelsync_daemon.control.outbox import Outbox
from modelsync_daemon.control.plane import Twin
from modelsync_daemon.disk.database import Database
from modelsync_protocol.errors import RefusedError, UnreachableError
from tests.daemon.fakes import NAME, MemoryControlPlane, device
from tests.support.virtual_time import virtually


async def test_the_first_connect_is_retried(tmp_path: Path) -> None:
    plane = MemoryControlPlane()
    plane.fail_connects = [UnreachableError("down."), RefusedError("bad key."), UnreachableError("down.")]
    async with device(tmp_path, plane) as pi:
        pi.wish(1)
        await pi.serves(1)
        assert plane.connects == 4


async def test_a_change_made_while_offline_is_found_on_reconnect(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        pi.plane.fail_connects = [UnreachableError("down.")] * 3
        pi.plane.drop()
        pi.wish(2)
        await pi.serves(2)


async def test_a_lost_hint_is_made_good_by_the_timer(tmp_path: Path) -> None:
    async with device(tmp_path, reconcile_seconds=1) as pi:
        await pi.until(lambda: pi.plane.reads == 1)
        pi.plane.mute_hints = True
        pi.wish(1)
        await pi.serves(1)


@virtually
async def test_a_hint_of_an_old_version_costs_no_read(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        reads = pi.plane.reads
        pi.plane._on_hint(pi.plane.desired["$version"])
        pi.plane._on_hint(1)
        await asyncio.sleep(0.4)
        assert pi.plane.reads == reads
        pi.plane._on_hint(None)
        await pi.until(lambda: pi.plane.reads == reads + 1)


@virtually
async def test_the_first_notice_is_followed_at_once_and_a_burst_is_one_more_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_link, "_BURST_SECONDS", 3600.0)
    async with device(tmp_path) as pi:
        link = pi.resident._link
        assert link is not None
        await pi.until(lambda: pi.plane.reads == 1)
        link._read_at -= 3600.0  # the reading on connecting was an hour ago
        pi.plane._on_hint(None)
        await pi.until(lambda: pi.plane.reads == 2, "the reading at once, not after an hour")
        monkeypatch.setattr(hub_link, "_BURST_SECONDS", 0.5)
        link._read_at = asyncio.get_running_loop().time()
        for _ in range(20):
            pi.plane._on_hint(None)
            await asyncio.sleep(0)  # no more: the burst must be over for a test that the machine holds up, too
        await pi.until(lambda: pi.plane.reads == 3)
        await asyncio.sleep(0.6)
        assert pi.plane.reads == 3, "twenty notices at once are one reading"


async def test_a_notice_that_overtakes_the_reading_is_not_forgotten(tmp_path: Path) -> None:
    class Overtaken(MemoryControlPlane):
        async def read_twin(self) -> Twin:
            twin = await super().read_twin()
            if self.reads == 1:
                self.set_desired({"modelsync": {"origin": "http://origin", "models": {NAME: {"version": 1}}}})
            return twin

    async with device(tmp_path, Overtaken()) as pi:
        await pi.serves(1)
        assert pi.plane.reads == 2


async def test_what_the_hub_lost_is_reported_again(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        await pi.until(lambda: pi.shown_model().get("state") == "active")
        pi.plane.reported = {}
        pi.plane.drop()
        await pi.until(lambda: pi.shown_model().get("state") == "active", "the report after the reconnect")


@virtually
async def test_only_differences_are_sent_and_silence_is_silent(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.until(lambda: pi.shown_model().get("state") == "active")
        await asyncio.sleep(0.5)
        count = len(pi.plane.patches)
        pi.resident.ledger.add(5, 5)
        pi.resident.signals.changed.set()
        await asyncio.sleep(0.5)
        assert len(pi.plane.patches) == count, "the ledger alone is no reason to report"
        pi.wish(2)
        await pi.until(lambda: pi.shown_model().get("version") == 2)
        assert all("daemon" not in patch["modelsync"] for patch in pi.plane.patches[count:])


async def test_the_connections_bytes_are_counted(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        await pi.until(lambda: pi.plane.reads > 0)
        await pi.until(lambda: pi.resident.ledger.day().received >= 10)


@virtually
async def test_an_offline_devices_report_waits_and_coalesces(tmp_path: Path) -> None:
    plane = MemoryControlPlane()
    async with device(tmp_path, plane) as pi:
        pi.wish(1)
        await pi.until(lambda: pi.shown_model().get("state") == "active")
        plane.fail_connects = [UnreachableError("down.") for _ in range(100_000)]
        plane.drop()
        await pi.resident.commands.hold(NAME)
        await asyncio.sleep(0.5)
        count = len(plane.patches)
        rows = pi.database.connection.execute("SELECT count(*) FROM documents WHERE key = 'outbox'").fetchone()
        assert rows == (1,)
    plane.fail_connects = []
    async with device(tmp_path, plane) as pi:
        await pi.until(lambda: pi.shown_model().get("hold"), "the hold's report")
        assert len(plane.patches) <= count + 2


@virtually
async def test_a_checking_in_device_hangs_up_when_all_is_done_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_link, "_LINGER_SECONDS", 0.4)
    async with device(tmp_path, connect_every=86400) as pi:
        await pi.until(lambda: pi.plane.connects == 1 and not pi.plane.connected, "hanging up")
        pi.wish(1)
        await asyncio.sleep(0.3)
        assert pi.plane.connects == 1, "nothing is told to a device that is away"
        pi.preparer.block.clear()
        pi.resident.commands.sync()
        await pi.is_in("fetching")
        await asyncio.sleep(0.8)
        assert pi.plane.connected, "it stays while it works"
        pi.preparer.block.set()
        await pi.serves(1)
        await pi.until(lambda: not pi.plane.connected, "hanging up again")
        assert pi.shown_model()["state"] == "active", "and not before its report is out"
        assert pi.plane.connects == 2


async def test_check_ins_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_link, "_LINGER_SECONDS", 0.05)
    monkeypatch.setattr(hub_link, "jitter", lambda seconds: seconds / 1000)
    async with device(tmp_path, connect_every=60) as pi:
        await pi.until(lambda: pi.plane.connects >= 4, "four check-ins")
        pi.wish(1)
        await pi.serves(1)


def test_the_outbox_keeps_one_document_and_sends_what_differs(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    outbox = Outbox(database)
    first = {"modelsync": {"models": {"a": {"state": "fetching"}}, "ledger": {"day": 1}}}
    second = {"modelsync": {"models": {"a": {"state": "active"}, "b": {"state": "idle"}}, "ledger": {"day": 2}}}
    assert outbox.put(first) and outbox.put(second)
    patch = Outbox(database).patch()
    assert patch == second
    outbox.delivered(patch)
    assert outbox.patch() == {}
    assert not outbox.put({"modelsync": {**second["modelsync"], "ledger": {"day": 3}}})
    outbox.put({"modelsync": {"models": {"b": {"state": "idle"}}, "ledger": {"day": 4}}})
    assert outbox.patch()["modelsync"]["models"] == {"a": None}
    database.remember("outbox", "no json")
    assert Outbox(database).patch() == {"modelsync": None}
