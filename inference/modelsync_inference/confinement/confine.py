"""What a process that is to run a model's code gives up before it does, for good and for every thread it starts."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelsync_inference.confinement import landlock, syscall_filter

LANDLOCK_NEEDED = 3
"""The first version that guards truncation: Linux 6.2."""

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24
_CAPABILITY_VERSION = 0x20080522
_MAX_CAPABILITIES = 64
_MAX_DESCRIPTORS = 256
_DEVICES = tuple(Path("/dev") / name for name in ("null", "zero", "urandom", "random"))

INSTALL_SECCOMP = (
    "no network and no new processes can't be enforced here: install libseccomp (apt install python3-seccomp, or "
    "apt install libseccomp2 and pip install pyseccomp)."
)
INSTALL_FILES = (
    "that nothing but the artifact can be read can't be enforced here: install bubblewrap (apt install bubblewrap) "
    "where user namespaces are allowed, or use Linux 6.2 or newer with Landlock."
)


class UnconfinedError(Exception):
    """A layer that has to be there is not; the sentence says what to install."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is left. `memory`: bytes beyond what the process has mapped already; `scratch`: bytes of a written file.

    `writable` is empty unless bubblewrap has made a private folder. `wrapped`: by bubblewrap, so that files are
    guarded already. `landlock`: whether to use it.
    """

    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    memory: int
    scratch: int
    wrapped: bool
    landlock: bool = True


def confine(bounds: Bounds) -> list[str]:
    """Give everything else up; the names of the layers in force. UnconfinedError if too few are to be had."""
    layers = ["bubblewrap"] if bounds.wrapped else []
    lib = syscall_filter.library()
    if lib is None:
        raise UnconfinedError(INSTALL_SECCOMP)
    _limit(bounds)
    drop_capabilities()
    if not bounds.wrapped:
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    version = landlock.version() if bounds.landlock else 0
    if version >= LANDLOCK_NEEDED:
        try:
            landlock.restrict((*bounds.readable, *_DEVICES), bounds.writable)
            layers.append(f"landlock {version}")
        except OSError:
            version = 0
    if version < LANDLOCK_NEEDED and not bounds.wrapped:
        raise UnconfinedError(INSTALL_FILES)
    try:
        syscall_filter.deny(lib)
    except (OSError, RuntimeError) as error:
        raise UnconfinedError(f"{INSTALL_SECCOMP[:-1]} ({error}).") from error
    return [*layers, "seccomp", "no_new_privs", "rlimits"]


def missing(layers: Sequence[str]) -> list[str]:
    """What would make it tighter still."""
    names = {layer.split()[0] for layer in layers}
    return [name for name in ("bubblewrap", "landlock") if name not in names]


def _limit(bounds: Bounds) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    lower(resource.RLIMIT_AS, mapped + bounds.memory)
    lower(resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS)
    lower(resource.RLIMIT_FSIZE, bounds.scratch)
    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_MEMLOCK, 0)


def lower(kind: int, limit: int) -> None:
    """Lower a limit for good, as far as it is not lower already; OSError."""
    _, hard = resource.getrlimit(kind)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def drop_capabilities() -> None:
    """Give up all capabilities; UnconfinedError."""
    libc = _libc()
    for capability in range(_MAX_CAPABILITIES):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for those that we may not drop, having none
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise UnconfinedError("capabilities can't be dropped here.")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
