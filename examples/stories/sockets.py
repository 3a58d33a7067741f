"""Bytes on lines that no relay can stand in: the kernel's own counts of processes' TCP connections, read by `ss`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection

_COUNT = re.compile(r"\bbytes_(?:acked|received):(\d+)")
_PID = re.compile(r"\bpid=(\d+),")


def missing() -> str:
    """Why nothing can be counted on this machine; empty if it can."""
    return "" if shutil.which("ss") else "the kernel's counts need `ss` (Debian: iproute2)."


def carried(pids: Collection[int], port: int) -> int:
    """Payload bytes, both directions, of the open connections that these processes have to `port`."""
    command = ["ss", "-tinpHO", "state", "established", "dport", "=", f":{port}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(
        sum(int(count) for count in _COUNT.findall(line))
        for line in lines
        if any(int(pid) in pids for pid in _PID.findall(line))
    )
