"""What inference processes say of their Python and packages, kept in state.db: it counts while none is registered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from modelsync_daemon.disk.database import Database


def keep(database: Database, name: str, said: Sequence[Mapping[str, Any]]) -> bool:
    """Keep the words of all processes that are registered for `name`, each once; whether that is anything new."""
    text = json.dumps(sorted({json.dumps(each, sort_keys=True) for each in said}))
    if not said or database.document(_key(name)) == text:
        return False
    database.remember(_key(name), text)
    return True


def read(database: Database, name: str) -> list[dict[str, Any]]:
    """What is kept; empty if no process ever said anything."""
    try:
        return [json.loads(each) for each in json.loads(database.document(_key(name)) or "[]")]
    except (ValueError, TypeError):
        return []


def _key(name: str) -> str:
    return f"environment:{name}"
