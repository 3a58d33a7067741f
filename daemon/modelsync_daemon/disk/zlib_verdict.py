"""Remembers of this machine's zlib whether it packs as the publisher's does. It looks at no zlib but its version."""

from __future__ import annotations

import zlib
from contextlib import suppress
from pathlib import Path

from modelsync_daemon.disk.durable import durable_write

_SAME, _DIFFERS = "same", "differs"


def read(place: Path) -> bool | None:
    """Whether this version of zlib packs alike; None if that was not found yet."""
    try:
        version, _, verdict = place.read_text(encoding="ascii").strip().rpartition(" ")
    except (OSError, ValueError):
        return None
    if version != zlib.ZLIB_RUNTIME_VERSION or verdict not in (_SAME, _DIFFERS):
        return None
    return verdict == _SAME


def keep(place: Path, alike: bool) -> None:
    """Remember what was found, for this version of zlib."""
    with suppress(OSError):  # a full disk: it is found again next time
        durable_write(place, f"{zlib.ZLIB_RUNTIME_VERSION} {_SAME if alike else _DIFFERS}\n".encode())
