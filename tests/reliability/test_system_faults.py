"""The disk refuses, fills up, turns read-only or forgets: one sentence, exit code 5, and a verified model serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.faults import BUILD, Fault, check_daemon_fault, check_fault
from tests.reliability.world import World
from tests.support.tools import needs

FEW = [
    Fault("fsync", "EIO", "2"),
    Fault("fsync", "EINTR", "3"),
    Fault("fdatasync", "EIO", "1+", "state.db-wal"),
    Fault("fdatasync", "EIO", "1", BUILD),
    Fault("pwrite64", "ENOSPC", "1", BUILD),
    Fault("pwrite64", "short", "1", BUILD),
    Fault("write", "short", "3"),
    Fault("rename", "EIO", "1"),
    Fault("mmap", "ENOMEM", "1+", "state.db-shm"),
]
MANY = [
    *(
        Fault(call, error, str(when))
        for call, errors, times in (
            ("fsync", ("EIO", "ENOSPC"), 12),
            ("fdatasync", ("EIO", "ENOSPC"), 14),
            ("pwrite64", ("EIO", "ENOSPC"), 12),
            ("rename", ("EIO", "ENOSPC"), 9),
            ("mkdir", ("ENOSPC",), 2),
            ("ftruncate", ("EIO", "ENOSPC"), 2),
            ("fchmod", ("EIO",), 1),
            ("symlink", ("ENOSPC",), 1),
            ("unlink", ("EIO",), 2),
        )
        for error in errors
        for when in range(1, times + 1)
    ),
    Fault("write", "ENOSPC", "3"),  # others are messages to another process, where no disk fills up
    *(Fault("pwrite64", "short", str(when), BUILD) for when in (1, 2)),
    *(
        Fault(call, "EIO", "1+", file)
        for file in ("state.db", "state.db-wal")
        for call in ("openat", "pwrite64", "fdatasync", "fsync", "pread64")
    ),
]


@pytest.mark.parametrize("fault", FEW, ids=str)
def test_a_failing_system_call_costs_no_model(small_world: World, tmp_path: Path, fault: Fault) -> None:
    needs("strace")
    code = check_fault(small_world, small_world.device(tmp_path / "data"), fault)
    assert fault.error != "EINTR" or code == 0


OF_A_DAEMON = [
    Fault("pwrite64", "ENOSPC", "1", BUILD),
    *(
        pytest.param(fault, marks=pytest.mark.long)
        for fault in (
            Fault("fsync", "EIO", "2"),
            Fault("fsync", "EINTR", "1+2"),
            Fault("rename", "ENOSPC", "2"),
            Fault("fdatasync", "EIO", "1", BUILD),
            Fault("fdatasync", "EIO", "4", "state.db-wal"),
            Fault("fdatasync", "EIO", "1+", "state.db-wal"),
            Fault("pwrite64", "EROFS", "1+", "state.db-wal"),
            Fault("mmap", "ENOMEM", "1+", "state.db-shm"),
        )
    ),
]


@pytest.mark.parametrize("fault", OF_A_DAEMON, ids=str)
def test_a_failing_system_call_of_the_daemon_costs_no_model(small_world: World, tmp_path: Path, fault: Fault) -> None:
    needs("strace")
    check_daemon_fault(small_world, small_world.device(tmp_path / "data"), fault)


@pytest.mark.long
@pytest.mark.parametrize("fault", MANY, ids=str)
def test_any_failing_system_call_costs_no_model(small_world: World, tmp_path: Path, fault: Fault) -> None:
    needs("strace")
    try:
        check_fault(small_world, small_world.device(tmp_path / "data"), fault)
    except AssertionError as error:
        if "never struck" not in str(error):
            raise
        pytest.skip("this run makes fewer such calls")
