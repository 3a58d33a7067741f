"""state.db: steps outside the table are refused, a damaged file is rebuilt from disk, two processes get along."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Pointer
from modelsync_daemon.disk.states import State, TransitionError
from modelsync_protocol.errors import LocalError
from tests.daemon.fakes import NAME, install


def _open(root: Path) -> Database:
    data = DataDir(root)
    data.create()
    return Database.open(data)


def test_a_step_is_durable_and_keeps_its_time(tmp_path: Path) -> None:
    now = [100.0]
    data = DataDir(tmp_path)
    data.create()
    database = Database.open(data, lambda: now[0])
    database.transition(NAME, "resolving", attempts=1)
    now[0] = 200.0
    database.transition(NAME, State.RESOLVING, attempts=2)
    other = Database(data.state_db)
    row = other.model(NAME)
    assert (row.state, row.since, row.attempts) == (State.RESOLVING, 100, 2)
    database.transition(NAME, State.PLANNING)
    assert other.model(NAME).since == 200


def test_a_step_outside_the_table_changes_nothing(tmp_path: Path) -> None:
    database = _open(tmp_path)
    with pytest.raises(TransitionError):
        database.transition(NAME, State.PROBATION, attempts=5)
    assert database.models() == []
    with pytest.raises(TypeError, match="no such columns"):
        database.update(NAME, nonsense=1)


@pytest.mark.parametrize("damage", ["rubbish", "zeros in the middle", "cut"])
def test_a_damaged_file_is_moved_aside_and_rebuilt(tmp_path: Path, damage: str) -> None:
    data = DataDir(tmp_path)
    database = _open(tmp_path)
    data.write_current(Pointer(NAME, install(data, 3), 9))
    for number in range(200):
        database.quarantine(f"m{number}", "a" * 64, 1, "reason " * 20, "")
    database.close()
    content = data.state_db.read_bytes()
    if damage == "rubbish":
        content = b"not a database" * 1000
    elif damage == "cut":
        content = content[: len(content) // 2]
    else:
        content = content[:4096] + bytes(len(content) - 4096)
    data.state_db.write_bytes(content)
    database = Database.open(data)
    row = database.model(NAME)
    assert (row.state, row.generation) == (State.ACTIVE, 9)
    assert (tmp_path / "state.db.damaged").read_bytes() == content


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = _open(tmp_path)
    database.connection.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(LocalError, match="newer modelsyncd"):
        _open(tmp_path)
    assert not (tmp_path / "state.db.damaged").exists()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    connection = _open(tmp_path).connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_resident_and_worker_may_both_write(tmp_path: Path) -> None:
    one = _open(tmp_path)
    two = Database(DataDir(tmp_path).state_db)
    one.transition(NAME, State.RESOLVING)
    two.transition(NAME, State.PLANNING)
    one.remember("k", "v")
    two.connection.execute("INSERT INTO journal VALUES (?, ?, 1, 2, 0)", (NAME, "a" * 64))
    assert one.model(NAME).state == State.PLANNING and two.document("k") == "v"


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    database = _open(tmp_path)
    with pytest.raises(ZeroDivisionError), database.transaction() as connection:
        connection.execute("INSERT INTO documents VALUES ('k', 'v')")
        raise ZeroDivisionError
    assert database.document("k") is None


def test_remembering_the_same_again_writes_nothing(tmp_path: Path) -> None:
    database = _open(tmp_path)
    database.remember("k", "v")
    before = database.connection.total_changes
    database.remember("k", "v")
    database.withdraw(NAME, frozenset())
    assert database.connection.total_changes == before


def test_withdrawn_and_quarantined_are_remembered_until_the_model_goes(tmp_path: Path) -> None:
    database = _open(tmp_path)
    database.withdraw(NAME, frozenset({1, 2}))
    database.withdraw(NAME, frozenset({2, 3}))
    database.quarantine(NAME, "a" * 64, 4, "bad", "t")
    database.quarantine(NAME, "b" * 64, 5, "bad", "t")
    assert database.withdrawn(NAME) == {1, 2, 3}
    database.unquarantine(NAME, "a" * 64)
    assert [item.version for item in database.quarantined(NAME).values()] == [5]
    database.unquarantine(NAME)
    assert database.quarantined(NAME) == {}
    database.forget(NAME)
    assert database.withdrawn(NAME) == frozenset()


def test_an_unreadable_place_is_a_local_error(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises((LocalError, sqlite3.OperationalError)) as caught:
        _open(tmp_path)
    assert isinstance(caught.value, LocalError)
