"""state.db: what must survive a restart (states, quarantine, journal, outbox, ledger); SQLite, every commit synced.

It knows the table of states, but decides nothing. The resident daemon and its worker may both have it open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from modelsync_daemon.disk import states
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.states import State
from modelsync_daemon.disk.steps import Steps
from modelsync_protocol.errors import LocalError

SCHEMA_VERSION = 1
_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE models (
    name TEXT PRIMARY KEY, state TEXT NOT NULL, since INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, retry_at INTEGER NOT NULL DEFAULT 0,
    desired TEXT NOT NULL DEFAULT '',
    target_version INTEGER, target_digest TEXT, intent TEXT NOT NULL DEFAULT '',
    generation INTEGER NOT NULL DEFAULT 0, starts INTEGER NOT NULL DEFAULT 0, hold TEXT NOT NULL DEFAULT '',
    error_code TEXT NOT NULL DEFAULT '', error_text TEXT NOT NULL DEFAULT '', bytes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE quarantine (
    name TEXT NOT NULL, digest TEXT NOT NULL, version INTEGER NOT NULL,
    reason TEXT NOT NULL, retry TEXT NOT NULL,
    PRIMARY KEY (name, digest)
);
CREATE TABLE withdrawn (name TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (name, version));
CREATE TABLE journal (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, ops_done INTEGER NOT NULL,
    payload_bytes INTEGER NOT NULL, refetched INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE ledger (period TEXT PRIMARY KEY, received INTEGER NOT NULL, sent INTEGER NOT NULL);
CREATE TABLE documents (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


_ADDED = """
CREATE TABLE IF NOT EXISTS network_ledger (
    network TEXT NOT NULL, period TEXT NOT NULL, received INTEGER NOT NULL, sent INTEGER NOT NULL,
    PRIMARY KEY (network, period)
)
"""
"""What an older modelsyncd neither makes nor minds, so the schema keeps its number and it may go back to that one."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """What is remembered of one model. Times are seconds since the epoch; '' and None mean absent."""

    name: str
    state: State = State.IDLE
    since: int = 0
    attempts: int = 0
    retry_at: int = 0
    desired: str = ""
    target_version: int | None = None
    target_digest: str | None = None
    intent: str = ""
    generation: int = 0
    starts: int = 0
    hold: str = ""
    error_code: str = ""
    error_text: str = ""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A refused manifest `digest` of a model: why, and the retry token that was in force then."""

    name: str
    digest: str
    version: int
    reason: str
    retry: str


def _keep_private(path: Path) -> None:
    with contextlib.suppress(OSError):  # what is wrong is said by SQLite; its other files take this one's mode
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if path.stat().st_mode & 0o077:  # of a former version
            path.chmod(0o600)


_COLUMNS = tuple(field.name for field in fields(ModelRow))
_DETAILS = frozenset(_COLUMNS) - {"name", "state", "since"}


class DamagedDatabase(LocalError):
    """state.db broke while it was open: only a start can rebuild it."""


class Database:
    """The open database. Autocommit: a statement outside `transaction()` is durable when it returns."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        """Open (or make) the database at `path`; raises sqlite3.DatabaseError if it is damaged (see `open`).

        None: in memory, for simulations.
        """
        self.clock = clock
        self.steps = Steps(clock)
        if path is not None:
            _keep_private(path)
        self.connection = sqlite3.connect(path or ":memory:", timeout=10, isolation_level=None, check_same_thread=False)
        """The raw connection, for the journal's owner. Autocommit: use `transaction()` for several statements."""
        try:
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            self._prepare(path or Path(":memory:"))
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self, path: Path) -> None:
        with self.transaction() as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            elif found != SCHEMA_VERSION:
                raise LocalError(
                    f"{path} has schema {found}, this modelsyncd knows {SCHEMA_VERSION}; install a newer modelsyncd."
                )
            connection.execute(_ADDED)

    @classmethod
    def open(cls, data: DataDir, clock: Callable[[], float] = time.time) -> Database:
        """Open `data`'s database; a damaged one is moved aside and rebuilt from what lies on the disk.

        Only who holds the directory's lock may call this. Raises LocalError.
        """
        try:
            return cls._open_checked(data.state_db, clock)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise LocalError(f"{data.state_db} can't be opened ({error}); check disk and permissions.") from error
        for suffix in ("", "-wal", "-shm"):
            damaged = data.state_db.with_name(f"state.db{suffix}")
            with contextlib.suppress(FileNotFoundError):
                damaged.replace(data.state_db.with_name(f"state.db.damaged{suffix}"))
        database = cls(data.state_db, clock)
        database._rebuild(data)
        return database

    @classmethod
    def _open_checked(cls, path: Path, clock: Callable[[], float]) -> Database:
        database = cls(path, clock)
        try:
            problem = database.connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem == "ok":
                for column in ("SELECT * FROM models", "SELECT * FROM journal", "SELECT * FROM documents"):
                    database.connection.execute(column).fetchone()
                return database
        except BaseException:
            database.close()
            raise
        database.close()
        damaged = sqlite3.DatabaseError(problem)
        damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damaged

    def _rebuild(self, data: DataDir) -> None:
        for name in data.model_names():
            current = data.read_pointer(name)
            if current is not None:
                self.update(name, generation=current.generation)
                self.transition(name, State.ACTIVE)

    def checkpoint(self) -> None:
        """Move what the write-ahead log holds into state.db, and begin the log anew; not while others read.

        The log's file keeps its length: commits then overwrite what is allocated, where growing it would make the file
        system write its own journal with each (measured on ext4: 100 KiB of a small update).
        """
        with contextlib.suppress(sqlite3.OperationalError):  # busy, or a full disk: the log keeps everything
            self.connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing for several statements; not to be nested.

        Not `synced`: a power cut may take it back, until the next one that is; a kill does not.
        Raises LocalError if the disk does not take it, DamagedDatabase if the file is not what was written.
        """
        try:
            if not synced:
                self.connection.execute("PRAGMA synchronous=NORMAL")
            self.connection.execute("BEGIN IMMEDIATE")
            yield self.connection
            self.connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._undo()
            if _is_damage(error):
                raise DamagedDatabase(
                    f"state.db is damaged ({error}); the next start keeps it aside and rebuilds it."
                ) from error
            raise LocalError(f"state.db can't be written ({error}); free space or fix permissions.") from error
        except BaseException:
            self._undo()
            raise
        finally:
            if not synced:
                self.connection.execute("PRAGMA synchronous=FULL")

    def _undo(self) -> None:
        if self.connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")

    def model(self, name: str) -> ModelRow:
        """What is remembered of `name`; a model never seen is idle."""
        found = self._models("WHERE name = ?", name)
        return found[0] if found else ModelRow(name)

    def models(self) -> list[ModelRow]:
        """Every remembered model, by name."""
        return self._models("ORDER BY name")

    def _models(self, where: str, *values: object) -> list[ModelRow]:
        rows = self.connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM models {where}", values)
        return [ModelRow(row[0], State(row[1]), *row[2:]) for row in rows]

    def transition(self, name: str, state: State | str, *, synced: bool = True, **details: Any) -> ModelRow:
        """Persist that `name` goes to `state`, with `details` (columns of ModelRow), before the step's effect.

        `synced` as of transaction: False where a restart would do the same from the state before.
        `since` changes only with the state. Raises states.TransitionError for a step outside the table.
        """
        with self.transaction(synced=synced):
            before = self.model(name)
            states.check(before.state, State(state))
            since = before.since if before.state == state and before.since else int(self.clock())
            self._store(name, {"state": State(state).value, "since": since, **details})
        if before.state != state:
            self.steps.step(name, State(state))
            _log.info("%s: %s -> %s", name, before.state, State(state), extra={"model": name})
        return self.model(name)

    def update(self, name: str, *, synced: bool = True, **details: Any) -> ModelRow:
        """Persist `details` of `name` without a step; `synced` as of transaction."""
        with self.transaction(synced=synced):
            since = self.model(name).since or int(self.clock())
            self._store(name, {"state": self.model(name).state.value, "since": since, **details})
        return self.model(name)

    def _store(self, name: str, values: dict[str, Any]) -> None:
        unknown = values.keys() - _DETAILS - {"state", "since"}
        if unknown:
            raise TypeError(f"no such columns: {sorted(unknown)}")
        columns = ", ".join(values)
        marks = ", ".join("?" for _ in values)
        changes = ", ".join(f"{column} = excluded.{column}" for column in values)
        self.connection.execute(
            f"INSERT INTO models (name, {columns}) VALUES (?, {marks}) ON CONFLICT (name) DO UPDATE SET {changes}",
            (name, *values.values()),
        )

    def forget(self, name: str) -> None:
        """Drop everything about `name` (the model was removed)."""
        with self.transaction() as connection:
            for table in ("models", "quarantine", "withdrawn", "journal"):
                connection.execute(f"DELETE FROM {table} WHERE name = ?", (name,))

    def quarantine(self, name: str, digest: str, version: int, reason: str, retry: str) -> None:
        """Remember that `digest` was refused while the twin's retry token was `retry`."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?)", (name, digest, version, reason, retry)
            )

    def quarantined(self, name: str) -> dict[str, Quarantined]:
        """Refused digests of `name`."""
        rows = self.connection.execute("SELECT * FROM quarantine WHERE name = ?", (name,))
        return {row[1]: Quarantined(*row) for row in rows}

    def unquarantine(self, name: str, digest: str | None = None) -> None:
        """Let `digest` (or every digest) of `name` be tried again."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM quarantine WHERE name = ? AND ? IN (digest, '')", (name, digest or ""))

    def withdraw(self, name: str, versions: frozenset[int]) -> None:
        """Remember versions that the signed metadata withdrew, as long as the model is here."""
        new = versions - self.withdrawn(name)
        if new:
            with self.transaction() as connection:
                connection.executemany("INSERT INTO withdrawn VALUES (?, ?)", [(name, v) for v in sorted(new)])

    def withdrawn(self, name: str) -> frozenset[int]:
        """Versions of `name` known to be withdrawn."""
        rows = self.connection.execute("SELECT version FROM withdrawn WHERE name = ?", (name,))
        return frozenset(row[0] for row in rows)

    def document(self, key: str) -> str | None:
        """A small remembered document (the last desired twin, the outbox, what was reported)."""
        row = self.connection.execute("SELECT value FROM documents WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, key: str, value: str) -> None:
        """Keep a document durably; writes nothing if it is the same as before."""
        if self.document(key) != value:
            with self.transaction() as connection:
                connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (key, value))


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code: int = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
