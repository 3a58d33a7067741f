"""Reported values as something a page can show: every one may be hostile, none breaks anything. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

_MAX_TEXT = 300
_REORDERS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_MOST = 2**53
_LAST_MOMENT = 7_258_118_400.0
"""The year 2200: later times are nonsense, and the last ones have no date."""


def shown(value: object, most: int = _MAX_TEXT) -> str:
    """A reported value as text that fits a page: short, on one line, nothing that reorders or hides."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    cleaned = "".join(each if each.isprintable() and each not in _REORDERS else "\ufffd" for each in text[:most])
    return cleaned + ("…" if len(text) > most else "")


def at(document: object, *path: str) -> dict[str, Any]:
    """The object at a path; empty where there is none."""
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else {}


def whole(value: object) -> int | None:
    """A count or size; None for anything else."""
    return value if type(value) is int and 0 <= value < _MOST else None


def count(value: object) -> int:
    """A number that the hub counted or summed; 0 for anything else."""
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST else 0


def moment(value: object) -> str:
    """A time (UTC) to the second, as it is written; empty for the hub's `never` and for nonsense."""
    found = seconds(value)
    return "" if found is None else datetime.fromtimestamp(found, UTC).strftime("%Y-%m-%d %H:%M:%S")


def seconds(value: object) -> float | None:
    """A time as seconds since 1970; None for the hub's `never` and for nonsense."""
    if not isinstance(value, str) or not 19 <= len(value) <= 40 or value.startswith("0001"):
        return None
    try:
        found = datetime.fromisoformat(value)
        moment = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return moment if 0 <= moment < _LAST_MOMENT else None


def utc(moment: float) -> str:
    """Seconds since 1970 as the hub writes times."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
