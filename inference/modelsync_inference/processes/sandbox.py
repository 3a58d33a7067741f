"""Starts, watches and ends the confined worker processes of one model (code_worker.py)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from modelsync_inference.confinement import bubblewrap
from modelsync_inference.confinement.confine import missing
from modelsync_inference.processes.spawner import SpawnError, Worker
from modelsync_inference.runtimes.model_kinds import Kind

_LOG = logging.getLogger(__name__)
_CREDENTIALS = struct.Struct("3i")
_MAX_HELLO = 4096
_START_SECONDS = 60.0
_END_SECONDS = 0.5
_BACKGROUND_SHARE = 0.1
_MAX_LINE = 1000
_LINES_A_MINUTE = 600

_SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime",
)  # fmt: skip
_FACTS = (
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu", "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/cpu",
)  # fmt: skip
"""What libraries ask to know how many processors there are."""

_ENVIRONMENT = ("LANG", "LC_ALL", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH")
"""What a worker sees of our environment; the rest may hold secrets."""

_FIXED = {
    "PATH": "/usr/bin:/bin",
    "HOME": str(bubblewrap.SCRATCH),
    "TMPDIR": str(bubblewrap.SCRATCH),
    "PYTHONDONTWRITEBYTECODE": "1",
    "JOBLIB_MULTIPROCESSING": "0",
    "PYTHONUNBUFFERED": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


@dataclass(frozen=True, slots=True)
class Allowance:
    """What code may use. `memory`: bytes beyond its interpreter and libraries. `scratch`: bytes of its /tmp.

    `idle_seconds`: processor time beyond what its work may take, which is all processors while it is asked for
    something, and a tenth of one always. `bubblewrap`, `landlock`: whether to use them where they are to be had.
    """

    memory: int = 512 << 20
    scratch: int = 64 << 20
    idle_seconds: float = 10.0
    bubblewrap: bool = True
    landlock: bool = True


@dataclass(eq=False, slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    wrapped: bool
    started: float = field(default_factory=time.monotonic)


class Sandbox:
    """The workers of the model `name`. Any thread may call."""

    def __init__(self, name: str, allowance: Allowance | None = None) -> None:
        self._name, self._allowance = name, allowance or Allowance()
        self._lock = threading.Lock()
        self._running: dict[Worker, _Running] = {}
        self._watching = False
        # The kernel ends a worker with the thread that started it, so that thread must stay.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="modelsync-sandbox")

    def pids(self) -> tuple[int, ...]:
        """The workers' process ids, and those of what they are wrapped in."""
        with self._lock:
            return tuple({pid for worker, its in self._running.items() for pid in (worker.pid, its.process.pid)})

    def spawn(self, kind: Kind, folder: Path, libraries: Sequence[str], channels: int) -> Worker:
        """Start a worker for the artifact in `folder`; SpawnError says what is missing if it can't be confined.

        `libraries`: modules that it imports before it is confined, so that they don't count as the model's memory.
        """
        worker = self._starter.submit(self._spawn, kind, folder, libraries, channels).result()
        lacking = missing(worker.layers)
        _LOG.info(
            "%s: its code runs within %s%s.",
            self._name,
            ", ".join(worker.layers),
            f"; {' and '.join(lacking)} could not be had" if lacking else "",
        )
        return worker

    def kill(self, worker: Worker) -> int | None:
        """End a worker and free what it held; its exit code, minus its signal, or None if that is unknown."""
        for channel in worker.channels:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
        with self._lock:
            running = self._running.pop(worker, None)
        if running is not None:
            worker.status = _end(running)
        return worker.status

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            workers = tuple(self._running)
        for worker in workers:
            self.kill(worker)
        self._starter.shutdown()

    def _spawn(self, kind: Kind, folder: Path, libraries: Sequence[str], channels: int) -> Worker:
        pairs = [socket.socketpair() for _ in range(channels)]
        ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        running = None
        try:
            ours[0].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            running = self._start(kind, folder, libraries, theirs)
            for channel in theirs:
                channel.close()
            pid, hello = _hello(ours[0])
            if "failed" in hello:
                raise SpawnError(str(hello["failed"]))
            worker = Worker(pid, tuple(ours), 0, layers=tuple(hello["layers"]))
        except (OSError, ValueError, KeyError, SpawnError) as error:
            for channel in (*ours, *theirs):
                channel.close()
            if running is not None:
                _end(running)
            if isinstance(error, SpawnError):
                raise
            raise SpawnError(f"no confined process can be started: {error}.") from error
        with self._lock:
            self._running[worker] = running
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="modelsync-sandbox-watch", daemon=True).start()
        return worker

    def _start(self, kind: Kind, folder: Path, libraries: Sequence[str], theirs: Sequence[socket.socket]) -> _Running:
        allowance = self._allowance
        readable = _readable(folder)
        wrapper = bubblewrap.command(readable, folder, allowance.scratch) if allowance.bubblewrap else None
        wrapped = wrapper is not None
        orders = {
            "channels": [channel.fileno() for channel in theirs],
            "kind": kind.value,
            "folder": str(folder),
            "libraries": libraries,
            "bounds": {
                "readable": [*map(str, readable), *([str(bubblewrap.SCRATCH), "/proc"] if wrapped else _FACTS)],
                "writable": [str(bubblewrap.SCRATCH)] if wrapped else [],
                "memory": allowance.memory,
                "scratch": allowance.scratch,
                "wrapped": wrapped,
                "landlock": allowance.landlock,
            },
        }
        python = [sys.executable, "-s", "-P", "-m", "modelsync_inference.processes.code_worker", json.dumps(orders)]
        process = subprocess.Popen(
            [*(wrapper or ()), *python],
            pass_fds=orders["channels"],  # type: ignore[arg-type]
            env=_environment(folder),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        threading.Thread(target=_log_lines, args=(self._name, process.stdout), daemon=True).start()
        return _Running(process, wrapped)

    def _watch(self) -> None:
        """End workers that use the processors without having been asked for anything."""
        allowance = self._allowance
        cores = os.cpu_count() or 1
        while True:
            time.sleep(min(2.0, allowance.idle_seconds / 2))
            with self._lock:
                running = dict(self._running)
                if not running:
                    self._watching = False
                    return
            for worker, its in running.items():
                used, busy = _cpu_seconds(worker.pid), worker.meter.seconds()
                background = _BACKGROUND_SHARE * (time.monotonic() - its.started)
                if used > allowance.idle_seconds + cores * busy + background and not worker.verdict:
                    worker.verdict = (
                        f"the model used {used:.0f} s of processor time, and was asked for {busy:.0f} s of work only; "
                        "its process was ended."
                    )
                    _LOG.warning("%s: %s", self._name, worker.verdict)
                    its.process.kill()


def _hello(channel: socket.socket) -> tuple[int, dict[str, Any]]:
    """The worker's process id as we see it, which the kernel adds to the message, and the message."""
    channel.settimeout(_START_SECONDS)
    data, extra, _, _ = channel.recvmsg(_MAX_HELLO, socket.CMSG_SPACE(_CREDENTIALS.size))
    if not data:
        raise ConnectionError("it ended before it was ready (the log says more)")
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    pid = next((_CREDENTIALS.unpack(raw)[0] for _, kind, raw in extra if kind == socket.SCM_CREDENTIALS), 0)
    while not data.endswith(b"\n"):
        more = channel.recv(_MAX_HELLO)
        if not more:
            raise ConnectionError("it ended before it was ready (the log says more)")
        data += more
    hello: dict[str, Any] = json.loads(data)
    return pid, hello


def _end(running: _Running) -> int | None:
    process = running.process
    try:
        status = process.wait(_END_SECONDS)  # a process that is dying keeps its status
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    # bubblewrap ends as a shell does: with 128 and the signal that ended what it ran.
    return 128 - status if running.wrapped and status > 128 else status


def _readable(folder: Path) -> list[Path]:
    """The interpreter, its libraries, and the artifact; nothing that the artifact only is a part of."""
    code = [sys.prefix, sys.base_prefix, sys.exec_prefix, *(entry for entry in sys.path if entry)]
    configured = Path("/etc").glob("python3*")
    paths = dict.fromkeys(path.absolute() for path in (*map(Path, _SYSTEM), *configured, *map(Path, code)))
    return [*(path for path in paths if not folder.is_relative_to(path)), folder]


def _environment(folder: Path) -> dict[str, str]:
    passed = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {**passed, **_FIXED, "AZUREML_MODEL_DIR": str(folder), "AML_APP_ROOT": str(folder)}


def _log_lines(name: str, output: IO[bytes]) -> None:
    """What the model prints goes to the log, as far as one can wish to read it."""
    minute, count = 0, 0
    with output:
        while line := output.readline(_MAX_LINE):
            now = int(time.monotonic() // 60)
            minute, count = (minute, count + 1) if now == minute else (now, 1)
            if count <= _LINES_A_MINUTE:
                _LOG.info("%s: %s", name, line.decode(errors="replace").rstrip())
            elif count == _LINES_A_MINUTE + 1:
                _LOG.warning("%s prints more than %d lines a minute; the rest is dropped.", name, _LINES_A_MINUTE)


def _cpu_seconds(pid: int) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
