"""The hub's durable state: identities with their keys, twins, MQTT sessions. SQLite; knows no protocol.

One hub process writes twins and sessions; `device add` of another process may insert identities meanwhile. Every
call is one short transaction, on disk before it returns (WAL, synchronous=FULL), made on the caller's thread.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modelsync_protocol.errors import LocalError
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.twin_document import Json, Section

SCHEMA_VERSION = 1
_BUSY_SECONDS = 5.0
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE identities (
  device TEXT NOT NULL, module TEXT NOT NULL,
  primary_key TEXT NOT NULL, secondary_key TEXT NOT NULL, status TEXT NOT NULL,
  generation TEXT NOT NULL, created TEXT NOT NULL, revision INTEGER NOT NULL,
  tags TEXT NOT NULL, desired TEXT NOT NULL, reported TEXT NOT NULL,
  twin_version INTEGER NOT NULL, twin_revision INTEGER NOT NULL,
  subscriptions TEXT,
  PRIMARY KEY (device, module)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Registration:
    """What the registry knows of one identity. `module` '' in the table stands for the device itself."""

    identity: Identity
    primary_key: str
    secondary_key: str
    status: str
    generation: str
    created: str
    revision: int

    @property
    def keys(self) -> tuple[str, str]:
        return self.primary_key, self.secondary_key

    @property
    def enabled(self) -> bool:
        return self.status == "enabled"

    @property
    def etag(self) -> str:
        return etag_of(self.revision)


@dataclass(frozen=True, slots=True)
class Twin:
    """A twin as stored: `version` counts every change, `revision` those of tags and desired (the ETag)."""

    tags: Json = field(default_factory=dict)
    desired: Section = field(default_factory=Section)
    reported: Section = field(default_factory=Section)
    version: int = 2
    revision: int = 1

    @property
    def etag(self) -> str:
        return etag_of(self.revision)


def etag_of(revision: int) -> str:
    """A revision in IoT Hub's form: base64 of eight big-endian bytes."""
    return base64.b64encode(revision.to_bytes(8, "big")).decode()


def utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_key() -> str:
    """A fresh symmetric key, base64 of 32 random bytes."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


class State:
    """An open state directory; a context manager. Raises LocalError if the directory can't be used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(directory / "hub.db", timeout=_BUSY_SECONDS, isolation_level=None)
            (directory / "hub.db").chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise LocalError(f"the hub's state in {directory} can't be opened: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def _prepare(self) -> None:
        with self.transaction():
            found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if found == 0:
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            elif found != SCHEMA_VERSION:
                raise LocalError(
                    f"the hub's state in {self.directory} has schema {found}, this program reads {SCHEMA_VERSION}; "
                    "use the matching version or another --state."
                )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable change of several tables; rooms beside this file keep tables of their own in the same database.

        May be opened inside itself: the outermost commits. LocalError if the disk refuses.
        """
        if self._db.in_transaction:
            yield self._db
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise LocalError(f"the hub's state in {self.directory} can't be written: {error}.") from error

    # Settings

    def setting(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, key: str, value: str) -> None:
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (key, value))

    def setting_or(self, key: str, value: str) -> str:
        """The stored setting; `value` is stored and returned if there is none. Safe between processes."""
        with self.transaction():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES (?,?)", (key, value))
        stored = self.setting(key)
        return value if stored is None else stored

    # Identities

    def add(
        self,
        identity: Identity,
        *,
        primary_key: str | None = None,
        secondary_key: str | None = None,
        status: str = "enabled",
    ) -> bool:
        """Register an identity with new keys where none are given; return False (unchanged) if it is there."""
        now = utc_now()
        generation = str(int(datetime.now(UTC).timestamp() * 1e7))
        empty = _dump_section(Section(metadata={"$lastUpdated": now}))
        twin = Twin()
        with self.transaction():
            cursor = self._db.execute(
                "INSERT OR IGNORE INTO identities VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,NULL)",
                (
                    *_key(identity),
                    primary_key or new_key(),
                    secondary_key or new_key(),
                    status,
                    generation,
                    now,
                    1,
                    "{}",
                    empty,
                    empty,
                    twin.version,
                    twin.revision,
                ),
            )
        return cursor.rowcount == 1

    def update_registration(self, identity: Identity, primary_key: str, secondary_key: str, status: str) -> None:
        with self.transaction():
            self._db.execute(
                "UPDATE identities SET primary_key=?, secondary_key=?, status=?, revision=revision+1"
                " WHERE device=? AND module=?",
                (primary_key, secondary_key, status, *_key(identity)),
            )

    def find(self, identity: Identity) -> Registration | None:
        row = self._db.execute(
            "SELECT primary_key, secondary_key, status, generation, created, revision FROM identities"
            " WHERE device=? AND module=?",
            _key(identity),
        ).fetchone()
        return None if row is None else Registration(identity, *row)

    def delete(self, identity: Identity) -> None:
        """Remove an identity, and a device's modules with it."""
        with self.transaction():
            if identity.module is None:
                self._db.execute("DELETE FROM identities WHERE device=?", (identity.device,))
            else:
                self._db.execute("DELETE FROM identities WHERE device=? AND module=?", _key(identity))

    def identities(self, *, modules: bool, after: Identity | None = None) -> Iterator[Identity]:
        """All devices, or all modules, in order of their ids, behind `after`."""
        for device, module in self._rows("device, module", modules, after):
            yield Identity(device, module or None)

    def members(self, *, modules: bool, after: Identity | None = None) -> Iterator[tuple[Registration, Twin]]:
        """All devices, or all modules, with their twins, in order of their ids, behind `after`."""
        columns = (
            "device, module, primary_key, secondary_key, status, generation, created, revision,"
            " tags, desired, reported, twin_version, twin_revision"
        )
        for row in self._rows(columns, modules, after):
            yield Registration(Identity(row[0], row[1] or None), *row[2:8]), _twin(row[8:])

    def _rows(self, columns: str, modules: bool, after: Identity | None) -> list[Any]:
        start = ("", "") if after is None else _key(after)
        return self._db.execute(
            f"SELECT {columns} FROM identities WHERE (module<>'')=? AND (device, module)>(?,?) ORDER BY device, module",
            (modules, *start),
        ).fetchall()

    def modules_of(self, device: str) -> list[Identity]:
        """The modules of one device."""
        rows = self._db.execute(
            "SELECT module FROM identities WHERE device=? AND module<>'' ORDER BY module", (device,)
        ).fetchall()
        return [Identity(device, module) for (module,) in rows]

    # Twins

    def twin(self, identity: Identity) -> Twin | None:
        row = self._db.execute(
            "SELECT tags, desired, reported, twin_version, twin_revision FROM identities WHERE device=? AND module=?",
            _key(identity),
        ).fetchone()
        if row is None:
            return None
        return _twin(row)

    def save_twin(self, identity: Identity, twin: Twin) -> None:
        with self.transaction():
            self._db.execute(
                "UPDATE identities SET tags=?, desired=?, reported=?, twin_version=?, twin_revision=?"
                " WHERE device=? AND module=?",
                (
                    json.dumps(twin.tags),
                    _dump_section(twin.desired),
                    _dump_section(twin.reported),
                    twin.version,
                    twin.revision,
                    *_key(identity),
                ),
            )

    # MQTT sessions

    def subscriptions(self, identity: Identity) -> frozenset[str] | None:
        """The stored session's topic filters; None if there is no session."""
        row = self._db.execute(
            "SELECT subscriptions FROM identities WHERE device=? AND module=?", _key(identity)
        ).fetchone()
        return None if row is None or row[0] is None else frozenset(json.loads(row[0]))

    def save_subscriptions(self, identity: Identity, filters: frozenset[str] | None) -> None:
        """Store a session's filters; None ends the session."""
        text = None if filters is None else json.dumps(sorted(filters))
        with self.transaction():
            self._db.execute(
                "UPDATE identities SET subscriptions=? WHERE device=? AND module=?", (text, *_key(identity))
            )


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the state directory's lock: one hub process per directory; LocalError if another one has it."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalError(f"the hub's state directory {directory} can't be used: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LocalError(f"another hub runs on {directory}; stop it or use another --state.") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _key(identity: Identity) -> tuple[str, str]:
    return identity.device, identity.module or ""


def _twin(row: Any) -> Twin:
    return Twin(json.loads(row[0]), _load_section(row[1]), _load_section(row[2]), row[3], row[4])


def _dump_section(section: Section) -> str:
    return json.dumps({"values": section.values, "metadata": section.metadata, "version": section.version})


def _load_section(text: str) -> Section:
    stored: dict[str, Any] = json.loads(text)
    return Section(stored["values"], stored["metadata"], stored["version"])
