"""One process that a file names by its number: whether it lives, and a signal to it alone. Linux 5.3 and newer."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from modelsync_daemon.activate.consumer import NotServing, NotThere

_MAX_BYTES = 64
_MAX_COMM = 15
"""Characters of a process's name that the kernel keeps (proc(5))."""

_STARTED = 19
"""Number of the field of /proc/PID/stat, after the name, counted from 0 (proc(5)): ticks from boot to its start."""


@dataclass(frozen=True, slots=True)
class Found:
    """A process id, and when it began, which no other process of that id has."""

    pid: int
    started: int


def of(pidfile: Path, program: str | None = None) -> Found:
    """The living process that `pidfile` names; NotThere if there is none, or if its name is not `program`.

    Times are not compared: a device without a clock may have written the file in 1970.
    """
    try:
        text = pidfile.read_bytes()[:_MAX_BYTES].split(b"\n")[0].strip()
    except OSError as error:
        raise NotThere(f"{pidfile} can't be read ({error.strerror}): the application does not run.") from error
    if not text.isdigit() or int(text) < 2:
        raise NotThere(f"{pidfile} holds no process id.")
    pid = int(text)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError as error:
        raise NotThere(f"{pidfile} names process {pid}, which is not there: the application does not run.") from error
    if stat[0] == "Z":
        raise NotThere(f"{pidfile} names process {pid}, which ended: the application does not run.")
    if program is not None and name != program[:_MAX_COMM]:
        raise NotThere(f"{pidfile} names process {pid}, which is {name} and not {program}.")
    return Found(pid, int(stat[_STARTED]))


def send(pidfile: Path, number: signal.Signals, program: str | None = None) -> None:
    """Send a signal to the process that wrote `pidfile`; NotServing."""
    found = of(pidfile, program)
    try:
        descriptor = os.pidfd_open(found.pid)
        try:
            if of(pidfile, program) == found:  # it was the same when it was held fast
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
    except PermissionError as error:
        text = f"process {found.pid} is another user's and can't be sent {number.name}: name its unit instead."
        raise NotServing(text) from error
    except OSError as error:
        raise NotServing(f"process {found.pid} can't be sent {number.name}: {error.strerror}.") from error
