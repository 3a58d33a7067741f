"""Whether a new version is loaded beside the old one or instead of it. It reads sizes and decides; it loads nothing.

TensorFlow Serving calls the two policies availability-preserving and resource-preserving; so do we.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from modelsync_inference.model.memory import resident_bytes

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
MEMORY_FLOOR = 16 << 20
"""What a load takes beside the model itself, and what has to stay free for everybody else, bytes."""


class Policy(StrEnum):
    """How a version replaces another."""

    AVAILABILITY = "availability"
    RESOURCE = "resource"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """`budget`: bytes that this process may hold; None: what the system or the control group has left.

    `factor`: memory that a model takes while it loads, in sizes of its files: about 1.1 if its weights are mapped,
    about 3 if they are parsed and copied.
    `floor`: bytes that it takes however small it is. `held`: bytes that this process holds now, with its workers.
    """

    policy: Policy = Policy.AVAILABILITY
    budget: int | None = None
    factor: float = 1.1
    floor: int = MEMORY_FLOOR
    held: Callable[[], int] = resident_bytes

    def fits_beside(self, version: Path) -> bool:
        """Whether the version in folder `version` may be loaded while another one serves."""
        if self.policy is not Policy.AUTO:
            return self.policy is Policy.AVAILABILITY
        size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
        room = self.budget - self.held() if self.budget is not None else available_bytes()
        return room is None or size * self.factor + self.floor <= room


def available_bytes() -> int | None:
    """Memory that may still be taken, by the system's word and the control group's; None where neither says."""
    rooms = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                rooms.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            rooms.append(int(limit) - int((_CGROUP / "memory.current").read_text()))
    return min(rooms, default=None)
