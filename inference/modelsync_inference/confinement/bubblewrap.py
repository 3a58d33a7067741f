"""The command that puts a process into a world of its own: no network, few files, a private /tmp, its own processes.

Source: bwrap(1), bubblewrap 0.8 (Debian 12). Whether it works here is tried once, for containers and hardened kernels
often forbid user namespaces.
"""

from __future__ import annotations

import functools
import logging
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_LOG = logging.getLogger(__name__)
_TRIAL_SECONDS = 20
SCRATCH = Path("/tmp")


def command(readable: Sequence[Path], folder: Path, scratch: int) -> list[str] | None:
    """The beginning of a command line, before the program; None if bubblewrap is missing or doesn't work here.

    `scratch`: bytes of the private /tmp. `folder`: the working directory, one of those readable.
    """
    program = _program()
    if program is None:
        return None
    # /tmp comes first: what is readable may lie in it.
    line = [program, *_OPTIONS, "--size", str(scratch), "--tmpfs", str(SCRATCH)]
    for path in readable:
        line += ["--ro-bind-try", str(path), str(path)]
    return [*line, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(folder), "--"]


_OPTIONS = [
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
]


@functools.cache
def _program() -> str | None:
    program = shutil.which("bwrap")
    if program is None:
        return None
    trial = [program, *_OPTIONS, "--size", "4096", "--tmpfs", str(SCRATCH), "--ro-bind", "/", "/", "--", "true"]
    try:
        done = subprocess.run(
            trial, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRIAL_SECONDS, text=True, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _LOG.warning("bubblewrap does not work here: %s", error)
        return None
    if done.returncode:
        _LOG.warning("bubblewrap does not work here: %.300s", " ".join(done.stderr.split()))
        return None
    return program
