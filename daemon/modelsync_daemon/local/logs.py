"""The daemon's log: as text, as JSON lines or as journald's fields on stderr's side, and the last records in memory.

A record that is about a model has it as a field (`extra={"model": NAME}`). What looks like a secret never gets out.
Source of the native protocol: systemd.io/JOURNAL_NATIVE_PROTOCOL.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from modelsync_protocol.errors import LocalError

_JOURNAL = Path("/run/systemd/journal/socket")
_MOST = 500
_MOST_TEXT = 2000
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_SECRETS = re.compile(
    r"(?i)((?:sig|sharedaccesskey|sharedaccesssignature|password|x-amz-signature|x-amz-security-token)=|"
    r"bearer\s+|://[^/\s:@]+:)[^\s&;,@\"']+"
)
"""Of a SAS, a connection string, a presigned address, a header, an address with a password."""


_HIDDEN = r"\1…"


def text_of(record: logging.LogRecord) -> str:
    """The sentence on one line, which others' words can't break into two records, without secrets and not too long."""
    return _SECRETS.sub(_HIDDEN, " ".join(record.getMessage().split()))[:_MOST_TEXT]


def document(record: logging.LogRecord) -> dict[str, Any]:
    """A record as JSON: time (UTC), level, logger, text, and the model that it is about."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    found = {
        "time": f"{stamp}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "text": text_of(record),
    }
    model = getattr(record, "model", None)
    return found if model is None else {**found, "model": model}


class Recent(logging.Handler):
    """The last records, for `modelsyncd logs`. Any thread may log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._records: deque[dict[str, Any]] = deque(maxlen=_MOST)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._count += 1
        self._records.append({"number": self._count, **document(record)})

    def after(self, number: int) -> list[dict[str, Any]]:
        """Records with higher numbers than `number`, oldest first. Numbers begin with 1 at each start."""
        return [record for record in self._records.copy() if record["number"] > number]


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{record.levelname} {text_of(record)}{_SECRETS.sub(_HIDDEN, trace)}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(document(record), ensure_ascii=False)


class _Journald(logging.Handler):
    """Sends records with their fields to journald's socket; what it does not take goes to stderr."""

    def __init__(self, path: Path = _JOURNAL) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._path = str(path)

    def emit(self, record: logging.LogRecord) -> None:
        found = document(record)
        fields = {
            "MESSAGE": found["text"],
            "PRIORITY": str(_PRIORITY.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": "modelsyncd",
            "LOGGER": found["logger"],
        }
        if "model" in found:
            fields["MODELSYNC_MODEL"] = found["model"]
        try:
            self._socket.sendto(b"".join(_field(key, value) for key, value in fields.items()), self._path)
        except OSError:
            sys.stderr.write(f"{record.levelname} {found['text']}\n")


def _field(key: str, value: str) -> bytes:
    raw = value.encode("utf-8", "replace")
    if b"\n" not in raw:
        return key.encode() + b"=" + raw + b"\n"
    return key.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n"


def configure(log_format: str, verbose: bool) -> Recent:
    """Write warnings (with `verbose`: every step) in `log_format`, and keep the last steps. Raises LocalError."""
    if log_format == "journald":
        if not _JOURNAL.exists():
            raise LocalError(f"log_format is journald, and {_JOURNAL} is not there; use text or json.")
        handler: logging.Handler = _Journald()
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Json() if log_format == "json" else _Text())
    ours = logging.getLogger("modelsync_daemon")
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    recent = Recent()
    ours.setLevel(logging.INFO)
    ours.addHandler(recent)
    return recent
