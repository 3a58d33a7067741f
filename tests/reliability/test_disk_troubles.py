"""A disk that fills up, turns read-only or lost its database: a verified model serves, and all goes on afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelsync_daemon.disk.database import DamagedDatabase, Database
from modelsync_daemon.disk.states import State
from modelsync_daemon.oneshot import pull
from modelsync_protocol.errors import LocalError
from tests.daemon.fakes import NAME, device
from tests.reliability.faults import check_recovers, check_sentence, command
from tests.reliability.matrix import live
from tests.reliability.promises import check_no_garbage, check_serves
from tests.reliability.world import KIB, World
from tests.support.tools import needs_root
from tests.support.waiting import PATIENCE_SECONDS

ROUNDS = 10
_DISK = 24 * 1024 * KIB
_RESERVE = 8 * 1024 * KIB
"""What the daemon leaves free before it begins; here the disk fills up behind its back."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of _DISK bytes."""
    needs_root()
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


class Filler:
    """Takes what is free on a disk, but for `left` bytes, once `after` bytes have been fetched."""

    def __init__(self, folder: Path, after: int, left: int) -> None:
        self._file, self._after, self._left, self._free = folder / "filler", after, left, folder
        self.struck = False

    def __call__(self, done: int, total: int) -> None:
        if done >= self._after and not self.struck:
            self.struck = True
            with self._file.open("wb") as file:
                file.write(bytes(max(0, shutil.disk_usage(self._free).free - self._left)))

    def remove(self) -> None:
        """Free it again."""
        self._file.unlink(missing_ok=True)


def test_a_disk_that_is_full_ten_times_over_costs_no_model(big_world: World, disk: Path) -> None:
    data = big_world.device(disk / "data")
    chance, troubles = random.Random(6), 0
    for _ in range(ROUNDS):
        filler = Filler(disk, chance.randrange(big_world.update_bytes), chance.randrange(0, 256 * KIB, 4 * KIB))
        try:
            pull(NAME, big_world.origin.url, data.root, big_world.shop.trust, None, 3, filler)
        except LocalError as error:
            troubles += 1
            assert "free" in str(error) and str(error).endswith("."), error
        check_serves(data, NAME)
        filler.remove()
        if check_serves(data, NAME).version == 3:
            check_recovers(big_world, data)
            shutil.rmtree(data.root)
            big_world.device(data.root)
    assert troubles >= ROUNDS // 2
    check_recovers(big_world, data)


def test_a_full_disk_at_the_start_is_said_before_a_byte_is_fetched(big_world: World, disk: Path) -> None:
    data = big_world.device(disk / "data")
    Filler(disk, 0, _RESERVE)(0, 0)
    fetched: list[int] = []
    with pytest.raises(LocalError, match="free some space"):
        pull(
            *(NAME, big_world.origin.url, data.root, big_world.shop.trust, None, 3),
            lambda done, total: fetched.append(done),
        )
    assert not any(fetched)
    check_serves(data, NAME)


def test_a_disk_that_turns_read_only_is_said_and_recovers(small_world: World, disk: Path) -> None:
    data = small_world.device(disk / "data")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        done = subprocess.run(command(small_world, data.root), capture_output=True, text=True, timeout=240)
        check_sentence(done.returncode, done.stderr)
        assert done.returncode == 5
        check_serves(data, NAME, load=True)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    check_recovers(small_world, data)


def test_a_damaged_database_is_kept_aside_and_rebuilt_from_disk_and_twin(small_world: World, tmp_path: Path) -> None:
    data = small_world.device(tmp_path / "data")
    size = data.state_db.stat().st_size
    with data.state_db.open("r+b") as file:
        file.seek(size // 3)
        file.write(random.randbytes(size // 3))
    damaged = data.state_db.read_bytes()
    asyncio.run(live(small_world, data, "update", None))
    assert check_serves(data, NAME).version == 3
    assert (data.root / "state.db.damaged").read_bytes() == damaged
    (data.root / "state.db.damaged").unlink()
    check_no_garbage(data)


def test_nothing_is_left_in_the_write_ahead_log(small_world: World, tmp_path: Path) -> None:
    data = small_world.device(tmp_path / "data")
    subprocess.run(command(small_world, data.root), capture_output=True, check=True, timeout=240)
    check_no_garbage(data)
    with contextlib.closing(Database.open(data)) as database:
        database.transition(NAME, State.WAITING)
        database.checkpoint()
        with contextlib.closing(sqlite3.connect(f"file:{data.state_db}?mode=ro&immutable=1", uri=True)) as copied:
            row = copied.execute("SELECT state FROM models WHERE name = ?", (NAME,)).fetchone()
        assert row == ("waiting",), "a copy of state.db alone is complete"


def test_a_database_damaged_in_service_is_said_and_the_next_start_rebuilds_it(
    small_world: World, tmp_path: Path
) -> None:
    data = small_world.device(tmp_path / "data")
    with contextlib.closing(Database.open(data)) as database:
        database.checkpoint()
        size = data.state_db.stat().st_size
        with data.state_db.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        database.connection.execute("PRAGMA shrink_memory")  # what is in memory would hide the damage
        with pytest.raises(DamagedDatabase, match="rebuilds"):
            database.transition(NAME, State.WAITING)
    asyncio.run(live(small_world, data, "update", None))
    assert check_serves(data, NAME).version == 3
    assert (data.root / "state.db.damaged").exists()


async def test_a_database_damaged_in_service_ends_the_daemon_so_that_its_restart_rebuilds_it(tmp_path: Path) -> None:
    async with device(tmp_path / "data") as pi:
        pi.wish(1)
        await pi.serves(1)
        pi.database.checkpoint()
        with pi.data.state_db.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (pi.data.state_db.stat().st_size - 4096))
        pi.database.connection.execute("PRAGMA shrink_memory")
        pi.wish(2)
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises((DamagedDatabase, sqlite3.DatabaseError)):
                await pi.task
    async with device(tmp_path / "data", pi.plane) as pi:
        await pi.serves(2)
