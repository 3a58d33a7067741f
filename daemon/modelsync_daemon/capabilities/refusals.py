"""What is remembered of versions and their requirements: what the device was when it refused one; what nobody knows."""

from __future__ import annotations

import json
from collections.abc import Sequence

from modelsync_daemon.disk.database import Database


def remember(database: Database, name: str, fingerprint: str) -> None:
    """The device, as it was, can't run what `name` should be."""
    database.remember(f"unsupported:{name}", fingerprint)


def still(database: Database, name: str, fingerprint: str) -> bool:
    """Whether the device is what it was then; never where nothing is checked (no fingerprint)."""
    return bool(fingerprint) and database.document(f"unsupported:{name}") == fingerprint


def forget(database: Database, name: str) -> None:
    """Let it be tried again."""
    if database.document(f"unsupported:{name}"):
        database.remember(f"unsupported:{name}", "")


def note_unknown(database: Database, name: str, version: int, keys: Sequence[str]) -> None:
    """Version `version` was taken though it requires what this program does not know."""
    if keys or database.document(f"unknown:{name}"):
        database.remember(f"unknown:{name}", json.dumps([version, *keys]))


def unknown(database: Database, name: str, version: int | None) -> list[str]:
    """Keys that nobody here knows, of a version that was taken all the same."""
    try:
        noted, *keys = json.loads(database.document(f"unknown:{name}") or "[null]")
    except ValueError:
        return []
    return [str(key) for key in keys] if noted == version else []
