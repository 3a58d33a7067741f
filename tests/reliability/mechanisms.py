"""What keeps a model through crashes: each mechanism, the test that fails without it, and how it is taken away.

docs/reliability.md prints this list (`python -m tests.reliability.mechanisms`), and test_mechanisms.py takes each
mechanism away and sees the test fail. A removal changes the product in the process of the test only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_daemon.activate import activation
from modelsync_daemon.build import pipeline
from modelsync_daemon.build.target_tree import Assembly
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.journal import Build
from modelsync_daemon.reconcile.reconciler import Reconciler
from modelsync_protocol import manifest as manifests
from modelsync_protocol.manifest import Manifest

_WIDTH = 120
RECORDED_TEST = "test_crash_states.py::test_without_a_durable_step_a_crash_breaks_a_promise"
RECORDED = "its system calls are struck from the recording"
MATRIX = "tests/reliability/test_kill_matrix.py::test_a_fault_in_any_state_loses_nothing"
CRASHES = "tests/reliability/test_crash_states.py::test_a_crash_leaves_the_old_or_the_new"
TROUBLES = "tests/reliability/test_disk_troubles.py"
RESIDENT = "tests/daemon/test_resident.py"
PROBATION = "tests/daemon/test_probation.py"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """`name` says what the product does, `test` is the node that fails without it, `how` the removal in words.

    `remove` takes it away in this process; None where the test does so itself.
    """

    name: str
    test: str
    how: str
    remove: Callable[[], None] | None = None


def _nothing(*_: Any, **__: Any) -> None:
    """In place of a mechanism."""


def _set(owner: Any, name: str, value: Any = _nothing) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


def _prune_all_but_current(self: DataDir, name: str, keep: object = ()) -> list[object]:
    pointer = self.read_pointer(name)
    for item in self.installed(name):
        if pointer is not None and item.reference != pointer.reference:
            self._discard(item.path)
            self._discard(item.manifest_path)
    return []


async def _believe(self: pipeline._Job, made: Assembly, target: Manifest) -> Manifest:
    return manifests.complete(target.skeleton, iter(list(made.reader.digests())))


def _write_through_links(self: Assembly, number: int, file: Any) -> int:
    path = self.root / file.path
    path.chmod(0o600)
    return os.open(path, os.O_WRONLY)


def _tidy_or_die(self: Reconciler, name: str) -> None:
    self._data.prune(name)


def _recorded(step: str) -> Mechanism:
    return Mechanism(step, f"tests/reliability/{RECORDED_TEST}[{step}]", RECORDED)


def _mechanisms() -> tuple[Mechanism, ...]:
    from tests.reliability.test_crash_states import REMOVALS

    return (
        *(_recorded(step) for step in REMOVALS),
        Mechanism(
            "verification of every chunk before a version is moved into place",
            "tests/daemon/test_prepare_faults.py::test_damaged_update_is_repaired_from_packs",
            "`_verify` believes what is on the disk",
            _set(pipeline._Job, "_verify", _believe),
        ),
        Mechanism(
            "the journal: what was fetched is not fetched again",
            f"{MATRIX}[fetching-kill-after]",
            "`Build.advance` records nothing",
            _set(Build, "advance"),
        ),
        Mechanism(
            "a file that another version links to is copied before it is written",
            "tests/daemon/test_prepare_faults.py"
            "::test_file_that_is_linked_from_a_corrupt_base_is_repaired_without_touching_the_base",
            "`Assembly._writable` opens it as it is",
            _set(Assembly, "_writable", _write_through_links),
        ),
        Mechanism(
            "the clean-up at start takes what a crash left",
            f"{CRASHES}[device-40]",
            "`DataDir.clean` does nothing",
            _set(DataDir, "clean"),
        ),
        Mechanism(
            "the link `current` follows the pointer after a crash between the two",
            f"{MATRIX}[activating-kill-in]",
            "`DataDir.follow_pointer` does nothing",
            _set(DataDir, "follow_pointer"),
        ),
        Mechanism(
            "a candidate that was refused before a kill is taken away at start",
            f"{MATRIX}[quarantined-kill-in]",
            "`Reconciler._tidy` does nothing",
            _set(Reconciler, "_tidy"),
        ),
        Mechanism(
            "an error while pruning at start does not end the daemon",
            f"{MATRIX}[active-error-before]",
            "`Reconciler._tidy` lets it through",
            _set(Reconciler, "_tidy", _tidy_or_die),
        ),
        Mechanism(
            "the previous version is kept",
            f"{MATRIX}[active-kill-after]",
            "`DataDir.prune` keeps only the current one",
            _set(DataDir, "prune", _prune_all_but_current),
        ),
        Mechanism(
            "quarantine: what was refused is not tried again",
            f"{RESIDENT}::test_a_refused_candidate_never_becomes_current_and_is_quarantined",
            "`Database.quarantine` remembers nothing",
            _set(Database, "quarantine"),
        ),
        Mechanism(
            "a device that restarts again and again on probation goes back",
            "tests/daemon/test_resume.py::test_a_device_that_restarts_again_and_again_on_probation_rolls_back",
            "the count of starts has no limit",
            _set(activation, "_MAX_STARTS", sys.maxsize),
        ),
        Mechanism(
            "an inference process that ends again and again on probation: back to the previous version",
            f"{PROBATION}::test_a_crash_loop_on_probation_rolls_back",
            "the count of deaths has no limit",
            _set(activation, "_MAX_DEATHS", sys.maxsize),
        ),
        Mechanism(
            "space is checked before a byte is fetched",
            f"{TROUBLES}::test_a_full_disk_at_the_start_is_said_before_a_byte_is_fetched",
            "`DataDir.check_space` is content",
            _set(DataDir, "check_space"),
        ),
        Mechanism(
            "a damaged state.db is kept aside and rebuilt",
            f"{TROUBLES}::test_a_damaged_database_is_kept_aside_and_rebuilt_from_disk_and_twin",
            "`Database.open` checks nothing",
            _set(Database, "open", classmethod(lambda cls, data, clock=None: cls(data.state_db))),
        ),
        Mechanism(
            "the write-ahead log is emptied after each update",
            f"{TROUBLES}::test_nothing_is_left_in_the_write_ahead_log",
            "`Database.checkpoint` does nothing",
            _set(Database, "checkpoint"),
        ),
        Mechanism(
            "one daemon per data directory",
            "tests/daemon/test_datadir.py::test_two_daemons_on_one_directory_are_refused",
            "`flock` grants everything",
            _set(fcntl, "flock"),
        ),
    )


MECHANISMS = _mechanisms()


def listing() -> str:
    """The list as docs/reliability.md prints it."""
    lines = []
    for each in MECHANISMS:
        file, _, function = each.test.partition("::")
        place = f"its own case in `{RECORDED_TEST}`" if each.remove is None else f"`{Path(file).name}::{function}`"
        text = f"- {each.name}: {place}; {each.how}."
        wrapped = textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        lines += wrapped
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(listing())
