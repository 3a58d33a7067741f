"""The secret part of the origin's URL (a SAS): where it lies, how it arrives, when it is read anew. No requests here.

It comes by direct method or as a mounted file, never in the twin, and no text of ours ever holds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qs

from modelsync_daemon.disk.durable import durable_unlink, durable_write
from modelsync_protocol.errors import UsageError

FILE_NAME = "origin.sas"
"""The file in the data directory that the direct method `secret` writes, mode 0600."""

_MAX_BYTES = 4096
_QUERY = re.compile(r"[A-Za-z0-9._~%&=+/:@!$'()*,;-]+")


class Access:
    """Gives the query to append to each request. `files` are looked at in order; the first usable one counts."""

    def __init__(self, files: Sequence[Path], read: Callable[[Path], str | None] | None = None) -> None:
        """`read`: who gives a file's text, or None; by default it is read here."""
        self._files = tuple(files)
        self._text = read or read_text
        self._refused: set[str] = set()
        self._current = self._read()

    @property
    def query(self) -> str:
        """The secret now in use; empty if there is none."""
        return self._current

    def refused(self, query: str) -> bool:
        """The origin refused `query`: look for another; True if there is one."""
        self._refused.add(query)
        self._current = self._read() or self._current
        return self._current not in self._refused

    def _read(self) -> str:
        for path in self._files:
            try:
                text = parse(self._text(path) or "")
            except UsageError:
                continue
            if text not in self._refused:
                return text
        return ""


def read_text(path: Path) -> str | None:
    """What a secret's file holds now; None if it can't be read."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


def keep(folder: Path, text: str | None) -> str | None:
    """Store the secret in the data directory (None removes it); returns until when it says it is valid.

    Raises UsageError if it is no query (the text is not repeated), LocalError.
    """
    path = folder / FILE_NAME
    if text is None:
        durable_unlink(path)
        return None
    query = parse(text)
    durable_write(path, query.encode(), mode=0o600)
    return expiry(query)


def parse(text: str) -> str:
    """The query without `?` and blanks around it; UsageError."""
    query = text.strip().removeprefix("?")
    if not query or len(query) > _MAX_BYTES or not _QUERY.fullmatch(query):
        raise UsageError("the secret is not a URL's query such as a SAS: copy it anew.")
    return query


def expiry(query: str) -> str | None:
    """What a SAS says about its end (`se`); None if it doesn't."""
    found = parse_qs(query).get("se")
    return found[0] if found else None


def joined(*queries: str) -> str:
    """Queries in one."""
    return "&".join(query for query in queries if query)
