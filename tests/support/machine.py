"""A container that boots a root file system with its own systemd, on this machine's network. Needs root.

What it changes lies in memory and is gone at the end; `run` executes commands in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.support.waiting import PATIENCE_SECONDS

_BOOT_SECONDS = 240.0
_STOP_SECONDS = 60.0


class MachineFailed(AssertionError):
    """A command in the machine failed, or it did not boot; the message holds what it said."""


class Machine:
    """A booted `root`. `shared` are folders that it sees read-only under /mnt, by their names."""

    def __init__(self, root: Path, log: Path, shared: Sequence[Path] = (), patience: float = 1.0) -> None:
        self._root, self._log, self._shared = root, log, shared
        self.patience = patience
        """Factor on every waiting time: an emulated machine is slow."""
        self._cgroup = _unified() / f"modelsync-machine-{os.getpid()}-{root.name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Machine:
        self._cgroup.mkdir()
        try:
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run("systemctl", "poweroff", check=False)
            if self._process is not None:
                self._process.wait(_STOP_SECONDS * self.patience)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._end()

    def run(self, *command: str, check: bool = True, seconds: float = 120.0) -> str:
        """Run a command as root in the machine; what it wrote to stdout and stderr. Raises MachineFailed."""
        enter = ["nsenter", f"--target={self._init}", "--all", "--root", "--wdns=/"]
        done = subprocess.run(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds * self.patience,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )
        text = done.stdout.decode(errors="replace")
        if check and done.returncode:
            raise MachineFailed(f"{' '.join(command)} exited with {done.returncode}: {text[-3000:]}")
        return text

    def write(self, path: str, text: str, mode: str = "644", owner: str = "root:root") -> None:
        """Put a file into the machine."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"', "sh", path, text)
        self.run("chmod", mode, path)
        self.run("chown", owner, path)

    def property(self, unit: str, name: str) -> str:
        """A property of a unit, as `systemctl show` has it."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def processes(self, unit: str) -> list[int]:
        """The unit's processes, by the numbers that this machine's kernel gives them."""
        found = next(self._cgroup.rglob(f"{unit}/cgroup.procs"), None)
        return [] if found is None else [int(pid) for pid in found.read_text().split()]

    def journal(self, unit: str) -> str:
        """What a unit and systemd about it wrote."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def _boot(self) -> None:
        shared = [f"--bind-ro={path}:/mnt/{path.name}" for path in self._shared]
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        name = f"m{os.getpid()}-{self._root.name.split('-')[1]}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    # Into a control group of its own first: systemd-nspawn takes over the one that it is started in.
                    *("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self._cgroup)),
                    *("systemd-nspawn", "--quiet", f"--directory={self._root}", f"--machine={name}"),
                    *("--register=no", "--keep-unit", "--volatile=overlay", "--link-journal=no", *shared, "--boot"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        deadline = time.monotonic() + _BOOT_SECONDS * self.patience
        while time.monotonic() < deadline and self._process.poll() is None:
            self._init = self._init or self._find_init()
            if self._init and self.run("systemctl", "is-system-running", check=False).strip() in (
                "running",
                "degraded",
            ):
                return
            time.sleep(0.5)
        raise MachineFailed(f"the machine did not boot: {self._log.read_text(errors='replace')[-3000:]}")

    def _find_init(self) -> int:
        """The process that is number 1 inside."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            for pid in children.read_text().split():
                status = Path(f"/proc/{pid}/status").read_text()
                if any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in status.splitlines()):
                    return int(pid)
        except OSError:
            pass
        return 0

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            if self._init:
                os.kill(self._init, signal.SIGKILL)
            try:
                self._process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(PATIENCE_SECONDS)
        for folder in sorted(self._cgroup.rglob("*/"), reverse=True):
            if folder.is_dir():
                folder.rmdir()
        self._cgroup.rmdir()


def _unified() -> Path:
    """Where the unified control group hierarchy is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise MachineFailed("no unified control group hierarchy is mounted here.")
