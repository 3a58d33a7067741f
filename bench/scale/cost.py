"""What a command costs with all of its children: seconds, processor seconds, memory.

Memory is what can't be taken back: anonymous and shared pages (Pss without clean pages of files, which the kernel drops
when somebody needs the room), sampled. A bound that must hold is shown in a cgroup (`tests/support/memory_cgroup.py`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types and is only read here

_SAMPLE_SECONDS = 0.05
_MIB = 1 << 20


class CommandFailed(Exception):
    """A measured command ended with another code than 0; the message ends with what it said."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one command: wall-clock and processor seconds (user and system, children included), and peak MiB."""

    seconds: float
    cpu: float
    peak_mib: float

    @property
    def utilisation(self) -> float:
        """Cores that were busy in the mean."""
        return self.cpu / self.seconds if self.seconds else 0.0


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, seconds: float = 3600.0) -> Cost:
    """Run a command to its end; CommandFailed if it fails or takes longer than `seconds`."""
    with tempfile.TemporaryFile() as said:
        before, begin = os.times(), time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, **(env or {})},
        )
        peak = _Peak(process.pid)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            process.kill()
            process.wait()
            most = peak.stop()
        took, after = time.perf_counter() - begin, os.times()
        if code != 0:
            said.seek(0)
            words = said.read().decode(errors="replace").strip()[-600:]
            raise CommandFailed(f"`{' '.join(map(str, command))[:200]}` ended with {code}: {words}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Cost(took, cpu, most / _MIB)


class _Peak:
    """Samples the memory of a process and its descendants until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most, self._stop = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Bytes at the largest."""
        self._stop.set()
        self._thread.join()
        return self._most

    def _sample(self) -> None:
        with contextlib.suppress(psutil.Error):
            first = psutil.Process(self._pid)
            while not self._stop.wait(_SAMPLE_SECONDS):
                self._most = max(self._most, sum(map(_held, (first, *first.children(recursive=True)))))


def _held(process: psutil.Process) -> int:
    """Bytes of a process that can't be dropped: its share of anonymous, shared and dirty pages."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0  # it has ended meanwhile
    held = {"Pss_Anon:": 0, "Pss_Shmem:": 0, "SwapPss:": 0}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if name in held:
            held[name] = int(rest.split()[0]) * 1024
    return sum(held.values())
