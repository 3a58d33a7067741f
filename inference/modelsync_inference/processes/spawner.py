"""Starts and reaps worker processes by way of the zygote (zygote.py), which it keeps running. Linux only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field

from modelsync_inference.confinement.inheritance import harmless
from modelsync_inference.processes.busy_time import BusyMeter

_START_SECONDS = 60.0
_ANSWER_SECONDS = 10.0
_MAX_MESSAGE = 4096
# One thread each: a fork of a process with threads is not safe, and the pages of their stacks are nobody's use.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class SpawnError(Exception):
    """No worker process can be started; the sentence says why."""


@dataclass(eq=False, slots=True)
class Worker:
    """A worker process and our ends of its channels, the first for loading. `line`: which zygote's child it is.

    `ended` and `status` are the spawner's: whether it was reaped, and what is known of its end. `layers`: what it is
    confined by; `verdict`: why it was ended, if whoever started it did that. `meter`: when it had something to do.
    """

    pid: int
    channels: tuple[socket.socket, ...]
    line: int
    ended: bool = False
    status: int | None = None
    layers: tuple[str, ...] = ()
    verdict: str = ""
    meter: BusyMeter = field(default_factory=BusyMeter)


class Spawner:
    """One zygote, started at the first need and again if it died. Any thread may call.

    `parent`: the line to the process that forked this one and is a zygote itself (supervisor.py).
    `program`: the zygote's module.
    """

    def __init__(
        self, parent: socket.socket | None = None, program: str = "modelsync_inference.processes.zygote"
    ) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = parent
        if parent is not None:
            parent.settimeout(_ANSWER_SECONDS)
        self._zygote = os.getppid() if parent is not None else None
        self._line = 0
        self._alive: set[int] = set()

    def pids(self) -> tuple[int, ...]:
        """The zygote's process id and its workers', for whoever adds up memory."""
        zygote = self._zygote
        return (zygote, *tuple(self._alive)) if zygote is not None else ()

    def spawn(self, channels: int) -> Worker:
        """Fork a worker with so many channels; SpawnError if it can't be done."""
        pairs = [socket.socketpair() for _ in range(channels)]
        try:
            with self._lock:
                for attempt in (1, 2):
                    try:
                        answer = self._ask({"spawn": channels}, [theirs.fileno() for _, theirs in pairs])
                        line = self._line
                        self._alive = {*self._alive, int(answer["pid"])}
                        break
                    except (OSError, ValueError) as error:
                        self._end()
                        if attempt == 2:
                            raise SpawnError(f"no worker process can be started: {error}.") from error
        except SpawnError:
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            for _, theirs in pairs:
                theirs.close()
        return Worker(int(answer["pid"]), tuple(ours for ours, _ in pairs), line)

    def kill(self, worker: Worker) -> int | None:
        """End a worker now and free what it held; its exit code, minus its signal, or None if that is unknown."""
        for channel in worker.channels:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for an answer
        with self._lock:
            if worker.ended:
                return worker.status
            worker.ended = True
            self._alive = self._alive - {worker.pid}
            if self._requests is None or worker.line != self._line:
                return None  # it went with its zygote, and its number may be somebody else's by now
            # The pid can't be somebody else's: its parent has not reaped it. A process that is dying keeps its status.
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            try:
                worker.status = int(self._ask({"reap": worker.pid}, [])["status"])
                return worker.status
            except (OSError, ValueError):
                self._end()
                return None

    def close(self) -> None:
        """End the zygote, and with it every worker."""
        with self._lock:
            self._end()

    def _ask(self, request: dict[str, int], descriptors: list[int]) -> dict[str, int]:
        requests = self._requests or self._start()
        socket.send_fds(requests, [json.dumps(request).encode()], descriptors)
        return self._answer(requests)

    def _answer(self, requests: socket.socket) -> dict[str, int]:
        answer = requests.recv(_MAX_MESSAGE)
        if not answer:
            raise ConnectionError("the process that forks them ended")
        document: dict[str, int] = json.loads(answer)
        return document

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**harmless(os.environ.items()), **_ONE_THREAD},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._requests, self._zygote = ours, self._process.pid
        self._line += 1
        ours.settimeout(_START_SECONDS)
        self._answer(ours)
        ours.settimeout(_ANSWER_SECONDS)
        return ours

    def _end(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._zygote, self._alive = None, set()
