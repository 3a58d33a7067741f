"""Messages on disk: what waits for a module's input, and the last ones that went to the cloud. SQLite, beside hub.db.

Written before a message is acknowledged, with synchronous=NORMAL: a killed hub loses none, a power cut may lose the
last second. One hub process writes; others may read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modelsync_protocol.errors import LocalError
from modelsync_server.hub.routes import Message, Sink
from modelsync_server.hub.state import utc_now
from modelsync_server.iothub.identity import Identity

KEPT = 10_000
"""Messages kept at most: of those that went to the cloud, and for each module."""

_BUSY_SECONDS = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS upstream (seq INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, device TEXT NOT NULL,
  module TEXT NOT NULL, properties TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS waiting (seq INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT NOT NULL, module TEXT NOT NULL,
  input TEXT NOT NULL, sender TEXT NOT NULL, properties TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS waiting_by_module ON waiting (device, module, seq);
"""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message that went to the cloud; `seq` rises, `time` is ISO 8601 in UTC."""

    seq: int
    time: str
    message: Message

    def document(self) -> dict[str, Any]:
        """As JSON: the body parsed if it is JSON, else its text."""
        text = self.message.body.decode("utf-8", "replace")
        try:
            body: Any = json.loads(text)
        except (ValueError, RecursionError):
            body = text
        sender = self.message.sender
        properties = dict(self.message.properties)
        return {
            "seq": self.seq,
            "time": self.time,
            "device": sender.device,
            "module": sender.module,
            "properties": properties,
            "body": body,
        }


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message on its way to an input of a module."""

    seq: int
    input: str
    message: Message


class Messages:
    """The open store; a context manager. Raises LocalError if the directory can't be used."""

    def __init__(self, directory: Path, *, kept: int = KEPT) -> None:
        self._kept = kept
        self._path = directory / "messages.db"
        try:
            self._db = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise LocalError(f"the hub's messages in {self._path} can't be opened: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def add(self, message: Message, sinks: Iterable[Sink]) -> None:
        """Store a message for each sink, in one transaction; the oldest make room."""
        sender, properties = message.sender, json.dumps(dict(message.properties))
        who = (sender.device, sender.module or "")
        with self._transaction():
            for sink in sinks:
                if sink.module is None:
                    row = (utc_now(), *who, properties, message.body)
                    seq = self._db.execute(
                        "INSERT INTO upstream (time, device, module, properties, body) VALUES (?,?,?,?,?)", row
                    ).lastrowid
                    self._db.execute("DELETE FROM upstream WHERE seq<=?", ((seq or 0) - self._kept,))
                else:
                    self._db.execute(
                        "INSERT INTO waiting (device, module, input, sender, properties, body) VALUES (?,?,?,?,?,?)",
                        (sender.device, sink.module, sink.input, sender.module or "", properties, message.body),
                    )
                    self._db.execute(
                        "DELETE FROM waiting WHERE seq<=(SELECT seq FROM waiting WHERE device=? AND module=?"
                        " ORDER BY seq DESC LIMIT 1 OFFSET ?) AND device=? AND module=?",
                        (sender.device, sink.module, self._kept, sender.device, sink.module),
                    )

    def upstream(self, after: int = 0, limit: int = KEPT) -> list[Arrived]:
        """What went to the cloud behind `after`, oldest first: of more than `limit` the newest."""
        rows = self._db.execute(
            "SELECT seq, time, device, module, properties, body FROM upstream WHERE seq>? ORDER BY seq DESC LIMIT ?",
            (after, limit),
        ).fetchall()
        return [
            Arrived(seq, time, Message(Identity(device, module or None), json.loads(properties), body))
            for seq, time, device, module, properties, body in reversed(rows)
        ]

    def waiting(self, module: Identity, after: int = 0, limit: int = KEPT) -> list[Waiting]:
        """The oldest messages behind `after` that `module` has not acknowledged."""
        rows = self._db.execute(
            "SELECT seq, input, sender, properties, body FROM waiting WHERE device=? AND module=? AND seq>?"
            " ORDER BY seq LIMIT ?",
            (module.device, module.module, after, limit),
        ).fetchall()
        return [
            Waiting(seq, name, Message(Identity(module.device, sender or None), json.loads(properties), body))
            for seq, name, sender, properties, body in rows
        ]

    def delivered(self, seq: int) -> None:
        """The module has it."""
        with self._transaction():
            self._db.execute("DELETE FROM waiting WHERE seq=?", (seq,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise LocalError(f"the hub's messages in {self._path} can't be written: {error}.") from error
