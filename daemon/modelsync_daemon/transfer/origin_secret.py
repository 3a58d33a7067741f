"""What opens a private origin: a secret query (a SAS), or an access key that signs each request. No requests here.

It comes by direct method or as a mounted file, never in the twin, and no text of ours ever holds it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from modelsync_daemon.disk.durable import durable_unlink, durable_write
from modelsync_protocol.errors import UsageError

if TYPE_CHECKING:
    from modelsync_protocol.access.aws_signature import SigningKey

FILE_NAME = "origin.sas"
"""The file in the data directory that the direct method `secret` writes, mode 0600."""

_MAX_BYTES = 4096
_QUERY = re.compile(r"[A-Za-z0-9._~%&=+/:@!$'()*,;-]+")
_SKEW_SECONDS = 240.0
"""A clock that is further off is corrected by the service's; services refuse from 15 minutes on."""


class Access:
    """Gives each request what opens the origin. `files` are looked at in order; the first usable one counts."""

    def __init__(self, files: Sequence[Path], read: Callable[[Path], str | None] | None = None) -> None:
        """`read`: who gives a file's text, or None; by default it is read here."""
        self._files = tuple(files)
        self._text = read or read_text
        self._refused: set[str] = set()
        self._current = self._read()
        self._behind = 0.0

    @property
    def secret(self) -> str:
        """The secret now in use, to tell `refused`; empty if there is none."""
        return self._current

    @property
    def query(self) -> str:
        """What to append to each request's query; empty if there is nothing, or requests are signed."""
        return "" if _is_key(self._current) else self._current

    def headers(self, method: str, url: str) -> dict[str, str]:
        """What to add to a request's headers: a signature for this moment, if requests are signed."""
        if not _is_key(self._current):
            return {}
        from modelsync_protocol.access import aws_signature

        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2].removesuffix({"https": ":443", "http": ":80"}[parts.scheme])
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        moment = datetime.fromtimestamp(time.time() + self._behind, UTC)
        return aws_signature.sign(_key(self._current), method, host, target, moment)

    def adjusted(self, date: str) -> bool:
        """A signed request was refused at `date` (a Date header): whether our clock was why, and it is asked again."""
        if not _is_key(self._current) or self._behind:
            return False
        try:
            behind = parsedate_to_datetime(date).timestamp() - time.time()
        except (TypeError, ValueError):
            return False
        if abs(behind) <= _SKEW_SECONDS:
            return False
        self._behind = behind
        return True

    def refused(self, secret: str) -> bool:
        """The origin refused `secret`: look for another; True if there is one."""
        self._refused.add(secret)
        self._behind = 0.0
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

    Raises UsageError if it is none (the text is not repeated), LocalError.
    """
    path = folder / FILE_NAME
    if text is None:
        durable_unlink(path)
        return None
    secret = parse(text)
    durable_write(path, secret.encode(), mode=0o600)
    return expiry(secret)


def of_method(payload: Any) -> str | None:
    """The secret in a direct method's payload, as text; None to forget it; UsageError."""
    if isinstance(payload, dict):
        query = payload.get("sas", 0)
        if query is None or isinstance(query, str):
            return query
        if isinstance(payload.get("aws4"), dict):
            return json.dumps({"aws4": payload["aws4"]})
    raise UsageError(
        'the payload is {"sas": "…"}, the query of a read-only SAS, or {"aws4": {…}}, an access key; '
        'or {"sas": null} to forget what came before.'
    )


def parse(text: str) -> str:
    """A query without `?` and blanks around it, or an access key in its JSON form; UsageError."""
    secret = text.strip().removeprefix("?")
    if len(secret) <= _MAX_BYTES and _is_key(secret):
        return _key(secret).document()
    if not secret or len(secret) > _MAX_BYTES or not _QUERY.fullmatch(secret):
        raise UsageError("the secret is not a URL's query such as a SAS, nor an access key: copy it anew.")
    return secret


def expiry(secret: str) -> str | None:
    """What a secret says about its end (a SAS: `se`); None if it doesn't."""
    if _is_key(secret):
        return _key(secret).expires or None
    found = parse_qs(secret).get("se")
    return found[0] if found else None


def joined(*queries: str) -> str:
    """Queries in one."""
    return "&".join(query for query in queries if query)


def _is_key(secret: str) -> bool:
    return secret.startswith("{")


def _key(secret: str) -> SigningKey:
    from modelsync_protocol.access.aws_signature import KEY, SigningKey

    try:
        document = json.loads(secret)
    except (ValueError, RecursionError):
        document = None
    return SigningKey.parse(document.get(KEY) if isinstance(document, dict) else None)
