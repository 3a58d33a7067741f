"""The data directory: one daemon at a time, pointers are whole, garbage goes and nothing that is named ever does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.durable import durable_write
from modelsync_daemon.disk.pointer import Pointer
from modelsync_protocol.errors import LocalError, UsageError
from tests.daemon.fakes import NAME, install


def test_two_daemons_on_one_directory_are_refused(tmp_path: Path) -> None:
    with (
        DataDir(tmp_path / "d").lock(),
        pytest.raises(LocalError, match=rf"in use by another modelsyncd.*{os.getpid()}"),
    ):
        DataDir(tmp_path / "d").lock()
    DataDir(tmp_path / "d").lock().close()


def test_a_child_keeps_the_lock_until_it_is_gone(tmp_path: Path) -> None:
    lock = DataDir(tmp_path).lock()
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(lock.fileno(),),
    )
    assert child.stdout is not None
    child.stdout.readline()
    lock.close()
    with pytest.raises(LocalError):
        DataDir(tmp_path).lock()
    child.communicate()
    DataDir(tmp_path).lock().close()


def test_an_unusable_directory_is_a_local_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="data directory"):
        DataDir(tmp_path / "file").lock()


def test_a_pointer_comes_back_as_it_was_written(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.create()
    one, two = install(data, 1), install(data, 2)
    data.write_current(Pointer(NAME, two, 7, one))
    assert data.read_pointer(NAME) == Pointer(NAME, two, 7, one)
    assert (tmp_path / "models" / NAME / "current").readlink() == Path(two.path)
    data.write_current(Pointer(NAME, one, 8))
    assert (tmp_path / "models" / NAME / "current").readlink() == Path(one.path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format":2}', '{"format":1,"name":"anomaly","version":1}', "x" * 5000, '{"format":1}\x00']
)
def test_a_damaged_pointer_is_no_pointer_and_costs_no_version(tmp_path: Path, text: str) -> None:
    data = DataDir(tmp_path)
    install(data, 1)
    (tmp_path / "models" / NAME / "current.json").write_text(text)
    assert data.read_pointer(NAME) is None
    assert data.prune(NAME) == []
    data.clean()
    assert [item.version for item in data.installed(NAME)] == [1]


def test_a_pointer_to_another_folder_is_damaged(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    one = install(data, 1)
    data.write_current(Pointer(NAME, one, 1))
    file = tmp_path / "models" / NAME / "current.json"
    file.write_text(file.read_text().replace(f'"path": "{one.path}"', '"path": "../../etc"'))
    assert data.read_pointer(NAME) is None


def test_pruning_keeps_what_pointers_name(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    made = [install(data, version) for version in (1, 2, 3, 4, 5)]
    data.write_current(Pointer(NAME, made[3], 2, made[2]))
    data.write_candidate(Pointer(NAME, made[4], 3, made[3]))
    assert data.prune(NAME, keep=[made[0]]) == [made[1]]
    assert [item.version for item in data.installed(NAME)] == [5, 4, 3, 1]


def test_only_complete_versions_count_and_garbage_is_cleaned(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    one, two, three = (install(data, version) for version in (1, 2, 3))
    data.write_current(Pointer(NAME, one, 1))
    folder = tmp_path / "models" / NAME
    (folder / f"{two.path}.manifest").unlink()
    for path in (folder / three.path).iterdir():
        path.unlink()
    (folder / three.path).rmdir()
    (folder / ".modelsync-123").write_text("half a pointer")
    trash = tmp_path / ".trash-1"
    trash.mkdir()
    (trash / "locked").mkdir()
    (trash / "locked" / "file").write_text("")
    (trash / "locked").chmod(0o500)
    assert [item.version for item in data.all_installed()] == [1]
    data.clean()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [one.path, f"{one.path}.manifest", "current", "current.json"]
    )
    assert not list(tmp_path.glob(".trash*"))


def test_removing_a_model_takes_its_pointer_first_and_everything_after(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.write_current(Pointer(NAME, install(data, 1), 1))
    (data.incoming(NAME) / "half").write_text("")
    data.remove_model(NAME)
    data.remove_model(NAME)
    assert not (tmp_path / "models" / NAME).exists() and not (tmp_path / "incoming" / NAME).exists()
    assert data.model_names() == []


def test_names_from_outside_never_leave_the_directory(tmp_path: Path) -> None:
    for name in ("../x", "", "A", "a/b", "."):
        with pytest.raises(UsageError):
            DataDir(tmp_path).model_dir(name)


def test_too_little_space_is_a_local_error(tmp_path: Path) -> None:
    DataDir(tmp_path).check_space(1)
    with pytest.raises(LocalError, match="free some space"):
        DataDir(tmp_path).check_space(2**60)


def test_a_failed_durable_write_leaves_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "f"
    durable_write(file, b"old", 0o600)
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(LocalError):
        durable_write(tmp_path / "none" / "f", b"new")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("")
    with pytest.raises(LocalError):
        durable_write(tmp_path / "folder", b"new")
    assert file.read_bytes() == b"old" and sorted(p.name for p in tmp_path.iterdir()) == ["f", "folder"]


def test_what_is_the_daemons_own_is_closed_to_everybody_else_also_in_a_directory_of_a_former_version(
    tmp_path: Path,
) -> None:
    data = DataDir(tmp_path / "data")
    for folder in ("trust", "incoming"):
        (data.root / folder).mkdir(parents=True, mode=0o755)
    data.state_db.touch(0o644)
    data.create()
    Database.open(data).close()
    second = Database.open(data)
    found = {path.name: path.stat().st_mode & 0o777 for path in data.root.iterdir()}
    second.close()
    closed = {
        "trust": 0o700,
        "incoming": 0o700,
        "machine": 0o700,
        "state.db": 0o600,
        "state.db-wal": 0o600,
        "state.db-shm": 0o600,
    }
    assert {name: mode for name, mode in found.items() if name != "models"} == closed
    assert found["models"] == 0o755
