"""Giving memory back to the system, and how much this process holds. Linux; elsewhere it does less."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_STATM = Path("/proc/self/statm")


def give_back() -> None:
    """Return the allocator's free pages to the system, without which every reload grows the process.

    No garbage is collected: sessions and tensors go with their last reference, and a full collection of a server's
    heap would hold every thread up for ten milliseconds or more.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc: there is nothing to ask
        return


def resident_bytes(children: Iterable[int] = ()) -> int:
    """Memory of this process and of `children`, in bytes, shared pages counted once; 0 where /proc is missing."""
    children = tuple(children)
    if children:
        return sum(_proportional(pid) for pid in (os.getpid(), *children))
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
