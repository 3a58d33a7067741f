"""Processes of the bench: servers that run meanwhile, and the device's steps, whose time and memory are taken."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelsync_bench.lab import Lab

_LAUNCHER = Path(__file__).with_name("launcher.py")
_END_SECONDS = 5.0


class StepFailed(Exception):
    """A process did not do what it was started for; the message ends with what it said."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a step used: exit code, seconds, CPU seconds, resident bytes; and what it printed."""

    code: int
    seconds: float
    cpu: float
    memory: int
    output: str


class Step:
    """A command on the device, started at once, in a session of its own. `folder` is its home and working directory."""

    def __init__(self, lab: Lab, argv: list[str], folder: Path) -> None:
        self._argv = argv
        self._report, self._out, self._err = (folder / f".{name}" for name in ("used.json", "stdout", "stderr"))
        self._report.unlink(missing_ok=True)
        command = lab.on_device([sys.executable, "-I", "-S", str(_LAUNCHER), str(self._report), *argv])
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """kill -9, its children too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self, seconds: float) -> Used:
        """Wait for its end; StepFailed if it takes longer (it is killed then)."""
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise StepFailed(f"`{self.name}` took longer than {seconds:.0f} s") from None
        except BaseException:
            self.kill()
            raise
        try:
            used = json.loads(self._report.read_text())
        except (OSError, ValueError) as error:
            raise StepFailed(f"`{self.name}` could not be started: {self.errors}") from error
        return Used(used["code"], used["seconds"], used["cpu"], used["memory"], self._out.read_text(errors="replace"))

    @property
    def name(self) -> str:
        """The command's own name."""
        return Path(self._argv[0]).name

    @property
    def errors(self) -> str:
        """The end of what it said on stderr."""
        return self._err.read_text(errors="replace").strip()[-400:]


def run_steps(lab: Lab, commands: list[list[str]], folder: Path, seconds: float) -> list[Used]:
    """Run the device's commands one after the other; StepFailed if one does not exit with 0."""
    used = []
    for argv in commands:
        step = Step(lab, argv, folder)
        used.append(step.wait(seconds))
        if used[-1].code != 0:
            raise StepFailed(f"`{step.name}` ended with {used[-1].code}: {step.errors}")
    return used


@contextmanager
def server(
    lab: Lab, argv: list[str], log: Path, *, port: int | None = None, cwd: Path | None = None, home: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that runs meanwhile, its output in `log`; waits until something listens on `port`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            lab.on_server(argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=cwd,
            env=_environment(home or log.parent),
        )
    try:
        if port is not None:
            _listening(lab, process, argv, port, log)
        yield process
    finally:
        _end(process)


def _listening(lab: Lab, process: subprocess.Popen[bytes], argv: list[str], port: int, log: Path) -> None:
    probe = f"import socket; socket.create_connection(('{lab.server_host}', {port}), 1).close()"
    deadline = time.monotonic() + 20
    command = lab.on_server([sys.executable, "-I", "-S", "-c", probe])
    while subprocess.run(command, capture_output=True).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            raise StepFailed(f"{Path(argv[0]).name} did not start: {log.read_text(errors='replace')[-400:]}")
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(home: Path) -> dict[str, str]:
    """Little, so that no setting of whoever runs the bench changes what is measured."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "TMPDIR": str(home)}
