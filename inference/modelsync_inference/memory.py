"""Giving memory back to the system, and how much this process holds. Linux; elsewhere it does less."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

_STATM = Path("/proc/self/statm")


def give_back() -> None:
    """Collect garbage and return the allocator's free pages, without which every reload grows the process."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc: there is nothing to ask
        return


def resident_bytes() -> int:
    """Resident memory of this process in bytes; 0 where /proc is missing."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
