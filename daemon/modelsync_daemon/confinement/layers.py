"""The bounds of the two processes that read what comes from outside: the worker that fetches and builds, and the one
that checks signed metadata. What this machine lacks is left out and said."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import resource
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelsync_daemon.confinement import inheritance, landlock, syscall_filter

LANDLOCK_NEEDED = 2
"""The first version under which a file may be moved from one folder to another: Linux 5.19."""

NO_SECCOMP = (
    "libseccomp is missing, so workers are not kept from starting processes and from reaching others (apt install "
    "python3-seccomp, or apt install libseccomp2 and pip install pyseccomp)."
)
NO_LANDLOCK = (
    "this kernel has no Landlock of version 2 (Linux 5.19 or newer with CONFIG_SECURITY_LANDLOCK, and landlock among "
    "lsm= on its command line): a worker may read and write whatever the daemon's unit may."
)

_MAX_DESCRIPTORS = 1024
_NAME_PORTS = (53, 853)
"""Where names are resolved over TCP; UDP is not bounded by port."""

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/local/lib", "/etc/ld.so.cache")
_PROCESSORS = ("/proc/cpuinfo", "/proc/meminfo", "/proc/self/statm", "/sys/devices/system/cpu")
_NAMES = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/host.conf", "/etc/services",
    "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager",
)  # fmt: skip
_CERTIFICATES = (
    "/etc/ssl", "/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/etc/pki",
)  # fmt: skip
_TIME = ("/etc/localtime", "/usr/share/zoneinfo")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_SONAMES = {"c": ("libc.so.6",), "seccomp": ("libseccomp.so.2",)}
"""What pyseccomp looks for, by the names under which Linux with glibc has them."""
_MODULES = ("modelsync_daemon", "modelsync_protocol", "modelsync_core", "numpy", "aiohttp", "tuf")


@dataclass(frozen=True, slots=True)
class Available:
    """What this machine has. `landlock`: the version of its interface, 0 being none."""

    landlock: int
    seccomp: bool

    @property
    def lacking(self) -> list[str]:
        """One sentence for each layer that is missing, with what follows from it; for doctor, logs and errors."""
        return [
            *([] if self.landlock >= LANDLOCK_NEEDED else [NO_LANDLOCK]),
            *([] if self.seccomp else [NO_SECCOMP]),
        ]


def available() -> Available:
    """Ask kernel and disk, loading nothing: costs milliseconds."""
    bound = importlib.util.find_spec("pyseccomp") is not None and _loads("libseccomp.so.2")
    return Available(landlock.version(), bound or importlib.util.find_spec("seccomp") is not None)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Plan:
    """What is the same for every process that is to be confined. `worker`, `checker`: seccomp's programs, or empty.

    `code`: folders of the interpreter, of installed packages, and of our own.
    """

    worker: bytes
    checker: bytes
    code: tuple[str, ...]


@functools.cache
def plan() -> Plan:
    """Found out once, in a process that is gone afterwards, since libseccomp takes 4 MiB. For the only thread."""
    reader, pid = begin_plan()
    with os.fdopen(reader) as pipe:
        found = json.loads(pipe.read() or '["", ""]')
    os.waitpid(pid, 0)
    return Plan(bytes.fromhex(found[0]), bytes.fromhex(found[1]), tuple(found[2:]))


@functools.cache
def begin_plan() -> tuple[int, int]:
    """Have that process started, while the caller does something else before it calls `plan`; what it says, and it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException), os.fdopen(writer, "w") as pipe:
            json.dump([*(program.hex() for program in _programs()), *_code()], pipe)
        os._exit(0)
    os.close(writer)
    return reader, pid


def _programs() -> list[bytes]:
    """For a process that is gone afterwards: what ctypes is told here it would keep."""
    import ctypes.util

    found = ctypes.util.find_library
    # It runs ldconfig, or a compiler, for each name: 5 ms of a pull's start.
    ctypes.util.find_library = lambda name: next(filter(_loads, _SONAMES.get(name, ())), None) or found(name)
    lib = syscall_filter.library()
    if lib is not None:
        with contextlib.suppress(OSError, RuntimeError):
            return [syscall_filter.program(lib, fetching=fetching) for fetching in (True, False)]
    return [b"", b""]


def confine_worker(readable: Iterable[Path], writable: Iterable[Path], ports: Iterable[int]) -> list[str]:
    """Leave this process what fetching and building need; the names of the layers in force.

    Call it on the only thread, with what has to stay open, open. `readable` files and folders beside the libraries,
    `writable` folders and files that exist; `ports`: of origin and proxy.
    """
    read: tuple[Path | str, ...] = (*_NAMES, *_CERTIFICATES, *_TIME, *_verify_paths(), *readable)
    return _confine(plan().worker, read, writable, (*ports, *_NAME_PORTS))


def confine_checker(pipe: int, writable: Path) -> list[str]:
    """Leave this process one folder, one pipe and what checking signatures needs: no network, no process, no more.

    The names of the layers in force. Call it on the only thread.
    """
    checker = plan().checker
    inheritance.keep_descriptors([pipe])
    return _confine(checker, (*_TIME, "/etc/ssl/openssl.cnf"), [writable], ())


def confine_reader(pipe: int, readable: Path) -> list[str]:
    """Leave this process one file or folder to read and one pipe. As confine_checker."""
    checker = plan().checker
    inheritance.keep_descriptors([pipe])
    return _confine(checker, [readable], (), ())


def lacking(in_force: Sequence[str]) -> list[str]:
    """A sentence for each layer that is not among those in force."""
    names = {layer.split()[0] for layer in in_force}
    return [sentence for name, sentence in (("landlock", NO_LANDLOCK), ("seccomp", NO_SECCOMP)) if name not in names]


def forget_environment() -> None:
    """Keep of the environment what libraries need: no connection string, no key of an application."""
    inheritance.forget_environment()


def _confine(
    program: bytes, readable: Iterable[Path | str], writable: Iterable[Path], ports: Iterable[int]
) -> list[str]:
    layers = []
    with contextlib.suppress(OSError, ValueError):
        for kind, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS)):
            hard = resource.getrlimit(kind)[1]
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (limit, limit))
        layers.append("rlimits")
    if landlock.version() >= LANDLOCK_NEEDED:
        paths = [Path(path) for path in (*_LIBRARIES, *_PROCESSORS, *_DEVICES, *plan().code, *readable)]
        with contextlib.suppress(OSError):
            landlock.restrict(paths, writable, ports)
            layers.insert(0, f"landlock {landlock.version()}")
    if program:
        with contextlib.suppress(OSError):
            syscall_filter.install(program)
            layers += ["seccomp", "no_new_privs"]
    return layers


def _code() -> list[str]:
    """Folders of the interpreter, of installed packages, and of our own where they are not installed."""
    import sysconfig

    from modelsync_protocol.native import library

    places = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    for name in _MODULES:
        found = importlib.util.find_spec(name)
        for folder in (found.submodule_search_locations or ()) if found is not None else ():
            # What a wheel needs may lie beside it (numpy.libs); a folder of sources is nobody's library.
            site = Path(folder).parent
            places.append(str(site) if site.name in ("site-packages", "dist-packages") else folder)
    core, _ = library.where()
    if core is not None:
        places.append(str(core))
    return [*dict.fromkeys(filter(None, (*places, *os.environ.get("LD_LIBRARY_PATH", "").split(":"))))]


def _verify_paths() -> Sequence[str]:
    paths = ssl.get_default_verify_paths()
    return [path for path in (paths.cafile, paths.capath, paths.openssl_cafile, paths.openssl_capath) if path]
