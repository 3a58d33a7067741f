"""Opens state.db so that nothing is left behind: the doctor may be run by root on a directory that is another's."""

from __future__ import annotations

import sqlite3

from modelsync_daemon.disk.datadir import DataDir

_SECONDS = 5.0


def connect(data: DataDir) -> sqlite3.Connection:
    """A connection that only reads; sqlite3.Error. Without a write-ahead log no daemon has it open, and SQLite need
    not make one to look."""
    still = "" if data.state_db.with_name("state.db-wal").exists() else "&immutable=1"
    return sqlite3.connect(f"file:{data.state_db}?mode=ro{still}", uri=True, timeout=_SECONDS)
