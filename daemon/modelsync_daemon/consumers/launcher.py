"""The process between the daemon and an application's program: it confines it, bounds its time, leaves nothing of it.

A program of its own (`python -m`), so that the daemon, which has threads and secrets, never forks one. It adopts
whatever the program starts (PR_SET_CHILD_SUBREAPER) and ends all of it: when the time is over, when the program ended,
and when the daemon is gone, which it learns from its stdin. It waits until the kernel says that no child is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from modelsync_daemon.confinement import inheritance, landlock

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_KEPT_OUTPUT = 4096
"""Bytes of what the program wrote last that are handed back."""

_LOOK_SECONDS = 0.1
_END_SECONDS = 30.0
"""How long processes that were killed may take to be gone: one that the kernel holds in a disk's read can't be."""

_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_GRACE_SECONDS = 1.0
"""How long the rest of a program that ended may take to end too: the last of a pipe, say."""

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random", "/dev/tty")
_READABLE = (
    "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr", "/opt", "/proc", "/sys/devices/system",
    "/run/systemd", "/run/dbus",
    "/etc/alternatives", "/etc/group", "/etc/hosts", "/etc/ld.so.cache", "/etc/localtime", "/etc/machine-id",
    "/etc/nsswitch.conf", "/etc/passwd", "/etc/resolv.conf", "/etc/ssl",
)  # fmt: skip


def main() -> NoReturn:
    """One line of JSON in (see programs.py), one out; the caller holds stdin open for as long as it waits."""
    job = json.loads(sys.stdin.readline())
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in _IGNORED:  # what the program starts may signal whoever started it
        signal.signal(number, signal.SIG_IGN)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(job, writer, libc)
    os.close(writer)
    found = _wait(pid, reader, time.monotonic() + job["seconds"])
    found["left"] = _end_all(0.0 if found["code"] is None else _GRACE_SECONDS)
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _become(job: Mapping[str, Any], output: int, libc: Any) -> NoReturn:
    """The program's own process, up to its exec."""
    try:
        os.setsid()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for number in (*_IGNORED, signal.SIGPIPE, signal.SIGXFSZ):  # the last two are ignored by Python
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir("/")
        os.dup2(output, 1)
        os.dup2(output, 2)
        inheritance.keep_descriptors([1, 2])
        if job["confined"]:
            _confine(job, libc)
        os.execve(job["argv"][0], job["argv"], job["environment"])
    except OSError as error:
        more = " (confined: `read` may have to allow its folder)" if job["confined"] and error.errno == 13 else ""
        os.write(2, f"it can't be started: {error.strerror}{more}\n".encode())
    finally:
        os._exit(127)


def _confine(job: Mapping[str, Any], libc: Any) -> None:
    if not landlock.version():  # programs.py says so where that is not good enough
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return
    readable = [*_READABLE, job["argv"][0], os.path.realpath(job["argv"][0]), *job["read"]]
    landlock.restrict(
        [Path(path) for path in readable],
        [Path(path) for path in (*_DEVICES, *job["write"])],
        None if job["network"] else (),
        alone=False,  # a reload is a signal as often as not
    )


def _wait(pid: int, output: int, deadline: float) -> dict[str, Any]:
    """Until the program ended, its time is over, or the daemon is gone. `code`: None if it was ended by us."""
    kept, watched = b"", [output, 0]
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select(watched, [], [], min(left, _LOOK_SECONDS))
        if 0 in ready and not os.read(0, 64):
            return {"code": None, "output": ""}
        if output in ready:
            more = os.read(output, 65536)
            kept = (kept + more)[-_KEPT_OUTPUT:]
            if not more:
                watched.remove(output)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            os.set_blocking(output, False)
            with contextlib.suppress(BlockingIOError):
                while more := os.read(output, 65536):
                    kept = (kept + more)[-_KEPT_OUTPUT:]
            return {"code": os.waitstatus_to_exitcode(status), "output": kept.decode("utf-8", "replace")}
    return {"code": None, "output": kept.decode("utf-8", "replace")}


def _end_all(grace: float) -> int:
    """End every process that descends from this one, after `grace` seconds to do so itself; how many had to be."""
    met: set[int] = set()
    patient, give_up = time.monotonic() + grace, time.monotonic() + grace + _END_SECONDS
    while time.monotonic() < give_up:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not _has_children():
            break
        if time.monotonic() >= patient:
            descendants = _descendants()
            met |= set(descendants)
            for pid in descendants:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return len(met)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _descendants() -> Sequence[int]:
    """All of them, by /proc: killing one hands its children to this process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, look = [], [os.getpid()]
    while look:
        more = children.get(look.pop(), [])
        found += more
        look += more
    return found


if __name__ == "__main__":
    main()
