"""This device's capabilities as a document (modelsync_protocol.requirements.capabilities). No runtime is imported."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelsync_daemon.capabilities import environments
from modelsync_daemon.disk.database import Database

_MEMORY_UNIT = 64 * 1024 * 1024
_TOTAL = re.compile(r"MemTotal:\s+(\d{1,15}) kB")


def look(root: Path, database: Database, name: str, has: Sequence[str]) -> dict[str, Any]:
    """What model `name` would find here. `has`: words of the settings, `KEY=VALUE`, that count whatever was seen."""
    found: dict[str, Any] = {"arch": _architecture()}
    with contextlib.suppress(OSError):
        if total := _TOTAL.search(Path("/proc/meminfo").read_text(encoding="ascii")):
            found["memory"] = int(total[1]) * 1024
    with contextlib.suppress(OSError):
        space = os.statvfs(root)
        found["disk"] = space.f_bavail * space.f_frsize
    if said := environments.read(database, name):
        found["environments"] = said
    if has:
        from modelsync_protocol.requirements.capabilities import pair  # only devices that are told carry it

        found["has"] = dict(pair(word) for word in has)
    return found


def fingerprint(capabilities: Mapping[str, Any]) -> str:
    """Tells whether anything changed since. Free disk does not count, which changes by the minute, and memory by whole
    units only: kernels take another share at each start."""
    lasting = {key: value for key, value in capabilities.items() if key != "disk"}
    lasting["memory"] = round(lasting.get("memory", 0) / _MEMORY_UNIT)
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:16]


def _architecture() -> str:
    machine = os.uname().machine
    # A 32-bit system on a 64-bit kernel, as Raspberry Pi OS has it, runs 32-bit programs.
    return "armv7l" if machine == "aarch64" and sys.maxsize < 2**32 else machine
