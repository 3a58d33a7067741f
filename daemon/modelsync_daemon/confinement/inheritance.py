"""What a forked process inherits and must not keep: environment and descriptors. It never touches files or models."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_KEPT = (
    "LANG", "LC_ALL", "TZ", "PATH", "HOME", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "MODELSYNC_CORE",
)  # fmt: skip
_KEPT_KINDS = ("OMP_", "OPENBLAS_", "MKL_", "MALLOC_", "ORT_")
_ENV_START, _ENV_END = 47, 48
"""Numbers of the fields of /proc/self/stat, after the name, counted from 0 (proc(5)): where variables begin and end."""


def harmless(environment: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The variables that a worker needs. The rest may hold secrets: connection strings, keys, an application's own."""
    return {name: value for name, value in environment if name in _KEPT or name.startswith(_KEPT_KINDS)}


def forget_environment() -> None:
    """Keep what is harmless; the rest goes from this process's variables and from /proc/self/environ."""
    kept = harmless(os.environ.items())
    os.environ.clear()
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ENV_START]), int(fields[_ENV_END])
        if 0 < start < end:
            ctypes.memset(start, 0, end - start)
    os.environ.update(kept)


def keep_descriptors(kept: Iterable[int]) -> None:
    """Close every descriptor but `kept` and stderr; stdin and stdout become /dev/null unless they are kept."""
    wanted = sorted({2, *kept})
    if not {0, 1} <= set(wanted):
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in {0, 1} - set(wanted):
            os.dup2(nothing, standard)
    before = 2
    for descriptor in [*(number for number in wanted if number > before), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(before + 1, descriptor)
        before = descriptor
