"""The C heap of the process that builds: what is free in it goes back to the system. No files, no network."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return free pages from between what is in use, as much as a header's parts took: room for decoding. glibc only,
    musl gives back by itself."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
