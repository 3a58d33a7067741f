"""Confines a process that reads one artifact and computes: an ONNX worker. What a kernel lacks is left out and said.

Two steps, both for good: `lay_out` leaves one folder to write to, for as long as none but our own code reads the
artifact; `close` takes that too, and network, processes and memory, before foreign code parses a byte.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modelsync_inference.confinement import landlock, syscall_filter
from modelsync_inference.confinement.confine import drop_capabilities, lower
from modelsync_inference.confinement.syscall_filter import Files

_DEVICES = tuple(Path("/dev") / name for name in ("null", "zero", "urandom", "random"))
_MAX_DESCRIPTORS = 256
_SLACK = 512 << 20
"""Address space that allocators and stacks reserve without using it, bytes."""

NO_SECCOMP = (
    "libseccomp is missing, so models are not kept from the network and from other processes (apt install "
    "python3-seccomp, or apt install libseccomp2 and pip install pyseccomp)."
)
NO_LANDLOCK = (
    "this kernel has no Landlock (Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and landlock among lsm= on its "
    "command line)"
)


@dataclass(frozen=True, slots=True)
class Available:
    """What this machine has. `landlock`: the version of its interface, 0 being none."""

    landlock: int
    seccomp: bool

    @property
    def files(self) -> bool:
        """Whether a path in an artifact that leads out of it leads nowhere."""
        return self.landlock > 0 or self.seccomp

    @property
    def lacking(self) -> list[str]:
        """One sentence for each layer that is missing, with what follows from it; for doctor, logs and reports."""
        found = []
        if not self.seccomp:
            found.append(NO_SECCOMP)
        if not self.landlock:
            instead = "models are read whole into memory instead of being mapped, and no file is opened afterwards"
            found.append(f"{NO_LANDLOCK}: " + (f"{instead}." if self.seccomp else "a model may read what we may read."))
        return found


def available() -> Available:
    """Ask the kernel; costs milliseconds, and 40 at the first time, when libseccomp is looked for."""
    return Available(landlock.version(), syscall_filter.library() is not None)


@dataclass(frozen=True, slots=True)
class Reader:
    """The bounds of one process: it reads `libraries` and the artifact's `folder`.

    `memory`: bytes that it may map beyond `mapped`, what it has mapped before (mapped_bytes). `devices`: nodes that it
    opens for writing, as drivers of accelerators do: then addresses, which they reserve without measure, are not
    limited, and that nothing else is written is Landlock's to enforce. `listens_to_nobody`: see syscall_filter.deny.
    """

    libraries: tuple[Path, ...]
    folder: Path
    memory: int
    mapped: int
    devices: tuple[Path, ...] = ()
    listens_to_nobody: bool = False

    def lay_out(self, cache: Path) -> bool:
        """Leave nothing to write to but `cache`, which exists; False if this kernel can't."""
        return _restrict((*self.libraries, *_DEVICES, self.folder, cache), (cache, *self.devices))

    def close(self, also: Iterable[Path], *, in_memory: bool) -> list[str]:
        """Give up the rest but reading `also`; the names of the layers in force. Call it on the only thread.

        `in_memory`: the artifact is in memory already, so no file has to be opened any more; that needs seccomp only.
        """
        layers = []
        if self.listens_to_nobody:
            _listen_to_nobody()
        with contextlib.suppress(OSError, ValueError):
            self._limit()
            layers.append("rlimits")
        if _restrict((*self.libraries, *_DEVICES, self.folder, *also), self.devices):
            layers.insert(0, f"landlock {landlock.version()}")
        with contextlib.suppress(Exception):  # UnconfinedError, where the kernel refuses even that
            drop_capabilities()
        lib = syscall_filter.library()
        if lib is not None:
            with contextlib.suppress(OSError, RuntimeError):
                guarded = Files.GUARDED if self.devices else Files.READ
                files = Files.NONE if in_memory else guarded
                syscall_filter.deny(lib, files, listens_to_nobody=self.listens_to_nobody)
                layers += ["seccomp", "no_new_privs"]
        return layers

    def _limit(self) -> None:
        if not self.devices:
            lower(resource.RLIMIT_AS, self.mapped + self.memory + _SLACK)
        lower(resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS)
        lower(resource.RLIMIT_FSIZE, 0)
        lower(resource.RLIMIT_CORE, 0)
        lower(resource.RLIMIT_MEMLOCK, 0)


def mapped_bytes() -> int:
    """Address space of this process, bytes; to be asked before /proc is out of reach."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def no_more_threads() -> None:
    """Have this process start no threads any more, where seccomp is to be had."""
    lib = syscall_filter.library()
    if lib is not None:
        with contextlib.suppress(OSError, RuntimeError):
            syscall_filter.no_more_threads(lib)


def _listen_to_nobody() -> None:
    """Make descriptor 0 a listening socket that no process can reach: its name is gone. OSError."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen()
        os.dup2(listener.fileno(), 0)


def _restrict(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    if landlock.version() == 0:
        return False
    try:
        landlock.restrict(readable, writable)
    except OSError:
        return False
    return True
