"""The real `modelsyncd pull` under strace, which makes its system calls fail as a disk would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.oneshot import pull
from modelsync_daemon.reconcile.desired import DesiredState
from tests.daemon.fakes import NAME
from tests.reliability.promises import check_no_garbage, check_serves, check_settled
from tests.reliability.world import OTHER, World

BUILD = f"incoming/{NAME}/tree/model.onnx"
"""Where the version under way is written, in the data directory."""


_PATIENCE = 8
"""Seconds for a daemon to reach its target; what the disk refused is tried again later than that."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`call` fails with `error` (or, `short`, does nothing and says that it wrote one byte) at its `when`-th time in a
    thread, `when` as strace takes it; only on `path` of the data directory, if given."""

    call: str
    error: str
    when: str = "1"
    path: str = ""

    def options(self, root: Path) -> list[str]:
        """For strace."""
        what = "retval=1" if self.error == "short" else f"error={self.error}"
        only = ["-P", str(root / self.path)] if self.path else []
        return ["-e", f"trace={self.call}", "-e", f"inject={self.call}:{what}:when={self.when}", *only]

    def __str__(self) -> str:
        return f"{self.call}-{self.error}-{self.when}" + (f"-{Path(self.path).name}" if self.path else "")


def command(world: World, root: Path) -> list[str]:
    """Pull version 3 into `root`, as a process."""
    tool = str(Path(sys.executable).with_name("modelsyncd"))
    return [tool, "pull", NAME, "--origin", world.origin.url, "--data", str(root), "--trust", str(world.shop.trust)]


def pull_with(world: World, data: DataDir, options: Sequence[str]) -> tuple[int, str]:
    """Exit code and stderr of the process under strace with `options`."""
    log = data.root.with_name("strace.log")
    done = subprocess.run(
        ["strace", "-f", "-o", log, *options, *command(world, data.root)], capture_output=True, text=True, timeout=240
    )
    return done.returncode, re.sub(r"strace: .*\n", "", done.stderr)


def check_fault(world: World, data: DataDir, fault: Fault) -> int:
    """With the fault: success or one sentence and exit code 5, and a verified model serves; without it: version 3.

    Returns the exit code. Raises AssertionError.
    """
    code, errors = pull_with(world, data, fault.options(data.root))
    assert "(INJECTED)" in data.root.with_name("strace.log").read_text(errors="replace"), "the fault never struck"
    if fault.call == "write":  # stderr may be what can't be written
        assert code in (0, 5) and "Traceback" not in errors, errors
    else:
        check_sentence(code, errors)
    check_serves(data, OTHER)
    assert check_serves(data, NAME, load=True).version == 3 or code == 5
    check_recovers(world, data)
    return code


def check_daemon_fault(world: World, data: DataDir, fault: Fault) -> None:
    """The same for `modelsyncd run`, which has read that version 3 is desired and has no line to a hub.

    It reaches 3, or ends by itself with exit code 5, or waits and stops in order when asked. Raises AssertionError.
    """
    with contextlib.closing(Database.open(data)) as database:
        wish = {"origin": world.origin.url, "models": {NAME: {"version": 3}}}
        DesiredState(database).accept({"modelsync": wish, "$version": 2})
    config, log = data.root.with_name("modelsyncd.toml"), data.root.with_name("strace.log")
    config.write_text(f'data = "{data.root}"\ntrust = "{world.shop.trust}"\nprobation_seconds = 0\n')
    tool = str(Path(sys.executable).with_name("modelsyncd"))
    daemon = subprocess.Popen(
        ["strace", "-f", "-o", log, *fault.options(data.root), tool, "run", "--config", config],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for _ in range(_PATIENCE * 10):
            pointer = data.read_pointer(NAME)
            if daemon.poll() is not None or (pointer is not None and pointer.version == 3):
                break
            time.sleep(0.1)
        if daemon.poll() is None:
            os.kill(int((data.root / "lock").read_text()), signal.SIGTERM)
        errors = daemon.communicate(timeout=30)[1]
    finally:
        if daemon.poll() is None:
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.communicate()
    assert "(INJECTED)" in log.read_text(errors="replace"), "the fault never struck"
    check_sentence(daemon.returncode, re.sub(r"strace: .*\n", "", errors))
    check_serves(data, OTHER)
    check_serves(data, NAME, load=True)
    check_recovers(world, data)


def check_sentence(code: int, errors: str) -> None:
    """Exit code 0, or 5 with one sentence; never a traceback."""
    assert code in (0, 5), f"exit code {code}: {errors}"
    assert "Traceback" not in errors and "defect" not in errors, errors
    *logged, sentence = errors.splitlines() or [""]
    assert code == 0 or re.fullmatch(r"modelsyncd: .*\.", sentence), errors
    assert all(line.startswith(("WARNING ", "ERROR ")) for line in logged), errors


def check_recovers(world: World, data: DataDir) -> None:
    """The next pull, on a sound machine, ends in version 3 and leaves nothing behind."""
    pull(NAME, world.origin.url, data.root, world.shop.trust, None, 3, lambda done, total: None)
    assert check_serves(data, NAME, load=True).version == 3
    check_settled(data, NAME)
    check_no_garbage(data)
