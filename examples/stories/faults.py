"""Faults that a story causes: a disk that is full. (Killed processes: supervisor; cut lines: examples.demo.relay.)"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_VARIABLE = "MODELSYNC_STORY_MOUNTS"


def private_mounts(module: str, arguments: Sequence[str]) -> None:
    """Start `python -m module` anew where it may mount small disks that nobody else sees, if this machine permits.

    Does not return then: the process (with its id) becomes the new one. Otherwise `small_disk` says why it can't.
    """
    if _VARIABLE in os.environ or shutil.which("unshare") is None:
        return
    options = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    if subprocess.run(["unshare", *options, "true"], capture_output=True, check=False).returncode:
        return
    os.environ[_VARIABLE] = "1"
    os.execvp("unshare", ["unshare", *options, sys.executable, "-m", module, *arguments])


def small_disk(folder: Path, size: int) -> str:
    """Make `folder` a disk of its own of `size` bytes; an empty string, or why this machine does not permit it.

    It goes with the process that called `private_mounts`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if _VARIABLE not in os.environ:
        return "a small disk needs util-linux' unshare, and root or unprivileged user namespaces."
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def fill(folder: Path, *, leave: int) -> Path:
    """Fill the disk of `folder` but for `leave` bytes, with the file that is returned; its room is back without it."""
    free = shutil.disk_usage(folder).free
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
    return ballast


def read_only(folder: Path, view: Path) -> str:
    """Have `view` show `folder` and take no writes; an empty string, or why this machine does not permit it.

    It goes with the process that called `private_mounts`.
    """
    if _VARIABLE not in os.environ:
        return "a read-only mount needs util-linux' unshare, and root or unprivileged user namespaces."
    view.mkdir(parents=True, exist_ok=True)
    for command in (["--bind", str(folder), str(view)], ["-o", "remount,bind,ro", str(view)]):
        done = subprocess.run(["mount", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip()
    return ""
