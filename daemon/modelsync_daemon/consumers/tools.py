"""systemd's own programs, which this machine has if it has systemd: `systemctl` and `busctl`, run like any other.

They speak D-Bus and wait for jobs; a library for it would be one more package on every device (docs/adr/0042).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from modelsync_daemon.activate.consumer import NotThere
from modelsync_daemon.consumers import programs
from modelsync_daemon.consumers.programs import Bounds

RUNNING = ("active", "reloading", "refreshing")
"""States of a unit that runs."""

_PATH = "/usr/bin:/bin:/usr/local/bin"


def program(name: str) -> str:
    """Where it lies; NotThere if this machine has none."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise NotThere(
            f"{name} is not on this machine; use a command, HTTP or a signal by a pidfile instead.", passing=False
        )
    return found


async def systemctl(arguments: Sequence[str], seconds: float) -> str:
    """Run `systemctl` with these arguments; what it printed. Raises NotServing."""
    argv = [program("systemctl"), "--no-ask-password", "--no-pager", "--quiet", *arguments]
    return await programs.run(argv, seconds, Bounds(), {})


async def show(unit: str, properties: Sequence[str], seconds: float) -> dict[str, str]:
    """A unit's properties. Raises NotServing."""
    names = [f"--property={name}" for name in properties]
    text = await systemctl(["show", *names, "--", unit], seconds)
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, mark, value in pairs if mark}


async def busctl(arguments: Sequence[str], seconds: float) -> str:
    """Run `busctl --system call` with these arguments; what it printed. Raises NotServing."""
    argv = [program("busctl"), "--system", "--quiet", f"--timeout={seconds:g}s", "call", "--", *arguments]
    return await programs.run(argv, seconds, Bounds(), {})


async def bus_name(name: str, seconds: float) -> None:
    """Whether somebody has that name on the system bus. Raises NotServing."""
    await programs.run([program("busctl"), "--system", "--quiet", "status", "--", name], seconds, Bounds(), {})
