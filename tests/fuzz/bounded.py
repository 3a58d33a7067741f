"""Runs the large bombs in this process with little memory left: ends with 0 if that suffices. A test starts it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from tests.fuzz.bombs import LARGE
from tests.fuzz.targets import TARGETS

ROOM_BYTES = 128 * 1024 * 1024
"""Address space that one input may take; the largest cap in it is an update's header with its skeleton, 40 MiB."""


def limit(room: int) -> None:
    """Leave the process `room` bytes of address space beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * os.sysconf("SC_PAGESIZE") + room
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def main() -> None:
    """A MemoryError escapes with its traceback."""
    made = [(target, make()) for target, make in LARGE.values()]
    limit(ROOM_BYTES)
    for target, data in made:
        TARGETS[target](data)


if __name__ == "__main__":
    main()
