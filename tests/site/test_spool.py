"""What is kept for neighbours: which bytes are here, who writes, what makes room, and what a crash leaves."""

from __future__ import annotations

import fcntl
import os
import random
import signal
from pathlib import Path

import pytest

from modelsync_daemon.disk import spool as spools
from modelsync_daemon.disk.spool import Spool

MIB = 1024 * 1024


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "site", 64 * MIB)
    made.create()
    return made


def fill(spool: Spool, target: str, size: int) -> None:
    writer = spool.write(target)
    assert writer is not None
    writer.size(size)
    writer.write(0, b"x" * size)
    writer.settle()


def test_a_reader_sees_bytes_as_they_come_and_whether_more_will(spool: Spool) -> None:
    assert spool.open("packs/a") is None
    writer = spool.write("packs/a")
    assert writer is not None
    writer.size(100)
    writer.plan(0, 100)
    entry = spool.open("packs/a")
    assert entry is not None
    assert entry.view().available(0) == 0 and entry.growing() and entry.view().coming(0) and entry.view().coming(50)
    writer.write(0, b"a" * 40)
    assert entry.view().available(0) == 40 and entry.read(10, 5) == b"aaaaa" and not entry.view().whole
    writer.write(60, b"b" * 40)
    assert entry.view().available(0) == 40 and entry.view().available(60) == 40
    writer.write(40, b"c" * 20)
    assert entry.view().whole and entry.read(38, 4) == b"aacc"
    writer.close()
    assert not entry.growing()
    entry.close()


def test_any_order_of_ranges_is_merged(spool: Spool) -> None:
    random_ = random.Random(7)
    pieces = [(at, min(1000 - at, 37)) for at in range(0, 1000, 37)]
    random_.shuffle(pieces)
    writer = spool.write("packs/a")
    assert writer is not None
    writer.size(1000)
    for at, count in pieces:
        assert writer.write(at, bytes([at % 251]) * count)
    entry = spool.open("packs/a")
    assert entry is not None and entry.view().whole
    entry.close()
    writer.close()


def test_one_writes_at_a_time(spool: Spool) -> None:
    first = spool.write("packs/a")
    assert first is not None and spool.write("packs/a") is None
    first.close()
    second = spool.write("packs/a")
    assert second is not None
    second.close()


def test_a_killed_writer_is_known_to_be_gone_and_another_goes_on(spool: Spool) -> None:
    pid = os.fork()
    if pid == 0:
        writer = spool.write("packs/a")
        assert writer is not None
        writer.plan(0, 100)
        writer.write(0, b"a" * 30)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    entry = spool.open("packs/a")
    assert entry is not None and not entry.growing() and entry.view().available(0) == 30
    writer = spool.write("packs/a")
    assert writer is not None
    writer.plan(30, 100)
    assert entry.growing() and entry.view().coming(30) and not entry.view().coming(5)
    writer.close()
    entry.close()


def test_what_was_used_longest_ago_makes_room_and_never_what_is_in_use(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "site", 6 * MIB)
    spool.create()
    for number in range(4):
        fill(spool, f"packs/{number}", MIB)
        os.utime(tmp_path / "site" / f"{spools._name(f'packs/{number}')}.data", (1000 + number, 1000 + number))
    held = os.open(tmp_path / "site" / f"{spools._name('packs/0')}.data", os.O_RDONLY)
    assert spools._try_lock(held, fcntl.LOCK_SH)
    fill(spool, "packs/new", 3 * MIB)
    assert spool.open("packs/0") is not None, "somebody is reading it"
    assert spool.open("packs/1") is None
    assert spool.used_bytes <= 6 * MIB
    os.close(held)


def test_what_is_larger_than_the_quota_is_not_kept_and_nothing_breaks(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "site", 2 * MIB)
    spool.create()
    writer = spool.write("packs/a")
    assert writer is not None
    written = [writer.write(at, b"x" * MIB) for at in range(0, 4 * MIB, MIB)]
    assert written[0] and not written[-1]
    assert spool.used_bytes <= 2 * MIB


def test_a_start_keeps_what_is_whole_and_a_power_cut_what_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("one")
    monkeypatch.setattr(spools, "_BOOT_ID", boot)
    spool = Spool(tmp_path / "site", 64 * MIB)
    spool.create()
    fill(spool, "packs/whole", 10)
    writer = spool.write("packs/half")
    assert writer is not None
    writer.size(10)
    writer.write(0, b"x")
    writer.close()
    durable = spool.write("packs/durable")
    assert durable is not None
    durable.write(0, b"x")
    durable.settle(durable=True)
    spool.create()
    assert [spool.open(f"packs/{name}") is not None for name in ("whole", "half", "durable")] == [True, False, True]
    boot.write_text("two")
    spool.create()
    assert [spool.open(f"packs/{name}") is not None for name in ("whole", "durable")] == [False, True]


@pytest.mark.parametrize("damage", [b"", b"\0" * 700, b"\xff" * 2000, b"{}" + b"\1" * 600])
def test_a_damaged_log_is_no_more_than_a_miss(spool: Spool, tmp_path: Path, damage: bytes) -> None:
    fill(spool, "packs/a", 100)
    (tmp_path / "site" / f"{spools._name('packs/a')}.log").write_bytes(damage)
    entry = spool.open("packs/a")
    assert entry is not None
    with entry:
        entry.view()
        assert entry.begun >= 0
        assert len(entry.read(0, 10)) <= 10
    spool.create()
