"""A memory cgroup (v1 or v2) for tests: limits a process and its children without swap. Needs root."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


class CgroupMissing(Exception):
    """No memory cgroup can be made here; the message says why."""


class MemoryCgroup:
    """A fresh cgroup; use as a context manager. Sizes in bytes."""

    def __init__(self, name: str) -> None:
        own = {
            line.split(":")[1]: line.strip().split(":", 2)[2]
            for line in Path("/proc/self/cgroup").read_text().splitlines()
        }
        self._v1 = (_V1 / "memory.usage_in_bytes").exists()
        root = _V1 if self._v1 else _V2
        parent = root / own.get("memory" if self._v1 else "", "/").lstrip("/")
        self.path = parent / f"modelsync-{name}-{os.getpid()}"

    def __enter__(self) -> MemoryCgroup:
        try:
            self.path.mkdir()
            self.limit = -1 if self._v1 else 2**50
        except OSError as error:
            with contextlib.suppress(OSError):
                self.path.rmdir()
            raise CgroupMissing(f"no memory cgroup can be made at {self.path}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def add(self, pid: int) -> None:
        """Move a process into the cgroup; its later children follow."""
        (self.path / "cgroup.procs").write_text(str(pid))

    @property
    def usage(self) -> int:
        """What cannot be reclaimed now: page cache is dropped first as far as possible."""
        with contextlib.suppress(OSError):
            if self._v1:
                (self.path / "memory.force_empty").write_text("0")
            else:
                (self.path / "memory.reclaim").write_text("1G")
        return int((self.path / ("memory.usage_in_bytes" if self._v1 else "memory.current")).read_text())

    @property
    def limit(self) -> int:
        """The limit; without swap where the kernel counts it."""
        return int((self.path / ("memory.limit_in_bytes" if self._v1 else "memory.max")).read_text())

    @limit.setter
    def limit(self, value: int) -> None:
        plain = "memory.limit_in_bytes" if self._v1 else "memory.max"
        swap = "memory.memsw.limit_in_bytes" if self._v1 else "memory.swap.max"
        names = [(plain, str(value)), (swap, str(value) if self._v1 else "0")]
        raised = self._v1 and (value < 0 or value > self.limit)  # version 1: with swap never less than without
        for name, text in reversed(names) if raised else names:
            with contextlib.suppress(OSError) if name == swap else contextlib.nullcontext():
                (self.path / name).write_text(text)

    @property
    def kills(self) -> int:
        """How often the kernel killed a process for want of memory."""
        name = "memory.oom_control" if self._v1 else "memory.events"
        fields = dict(line.split() for line in (self.path / name).read_text().splitlines())
        return int(fields.get("oom_kill", 0))
