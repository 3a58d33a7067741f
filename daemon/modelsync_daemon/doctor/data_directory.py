"""The doctor's look at the data directory: there, ours, its database of a known format, its trust not run out."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from shlex import quote

from modelsync_daemon.disk.database import SCHEMA_VERSION
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.doctor import read_only
from modelsync_protocol import trust
from modelsync_protocol.errors import FormatError
from modelsync_protocol.findings import Finding, good, problem, warning

_MAX_METADATA_BYTES = 1 << 20


def examine(data: DataDir) -> tuple[bool, list[Finding]]:
    """Whether the directory can be looked into at all, and what was found."""
    root = data.root
    if not root.exists():
        parent = next(folder for folder in root.parents if folder.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return False, [warning("data", f"{root} is not there yet; the first run makes it.")]
        mend = f"install -d -o modelsync {quote(str(root))}"
        return False, [problem("data", f"{root} is not there, and this user can't make it.", mend, 5)]
    if not root.is_dir():
        return False, [problem("data", f"{root} is not a directory.", f"ls -ld {quote(str(root))}", 5)]
    if not os.access(root, os.R_OK | os.X_OK):
        mend = f"sudo modelsyncd doctor --data {quote(str(root))}"
        return False, [problem("data", f"{root} can't be read by this user.", mend, 5)]
    found = [_writable(data)]
    found += _database(data)
    found += _trust(data)
    return True, found


def _writable(data: DataDir) -> Finding:
    """Every folder that the daemon writes to; one made by root in a hurry stops it at night."""
    for folder in (data.root, data.trust, data.models, data.root / "incoming", *_folders(data.models)):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            owner = data.root.stat().st_uid
            mend = f"chown -R {owner} {quote(str(folder))}"
            return problem("permissions", f"{folder} can't be written by user {os.geteuid()}.", mend, 5)
    return good("permissions", f"{data.root} can be written by this user.")


def _folders(models: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in models.iterdir() if path.is_dir() and not path.is_symlink()]
    return []


def _database(data: DataDir) -> Iterator[Finding]:
    if not data.state_db.exists():
        yield warning("formats", f"{data.root} has no state.db yet; the first run makes it.")
        return
    restart = "systemctl restart modelsyncd"
    try:
        with contextlib.closing(read_only.connect(data)) as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            sound = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        yield problem("formats", f"state.db can't be read ({error}): a start rebuilds it if it is damaged.", restart, 5)
        return
    if found != SCHEMA_VERSION:
        text = f"state.db has format {found}, and this modelsyncd knows {SCHEMA_VERSION}."
        yield problem("formats", text, "apt install --only-upgrade modelsync-daemon", 5)
    elif sound != "ok":
        yield problem("formats", f"state.db is damaged ({sound}): a start rebuilds it.", restart, 5)
    else:
        yield good("formats", f"state.db is sound, of format {found}.")


def _trust(data: DataDir) -> Iterator[Finding]:
    """What is kept of the signed metadata, as it says itself: verifying is done at every update."""
    if not data.trust.is_dir() or not any(data.trust.iterdir()):
        yield warning("trust", "nothing is trusted yet: the first run needs root.json (trust, or --trust).")
        return
    roots = sorted((data.trust / "root_history").glob("*.root.json"), key=_number)
    for path, told in (
        (data.trust / "timestamp.json", "the publisher's list"),
        (roots[-1] if roots else data.trust / "seed.root.json", "the root of trust"),
    ):
        expires = _expires(path)
        if expires is None:
            continue
        when = trust.format_time(expires)
        if expires.timestamp() <= time.time():
            yield warning(
                "trust",
                f"{told} that is kept here expired {when}: no new version is taken until a newer one is fetched.",
                "modelsync refresh STORE  # at the publisher",
            )
        else:
            yield good("trust", f"{told} is good until {when}.")


def _number(root: Path) -> int:
    text = root.name.partition(".")[0]
    return int(text) if text.isdecimal() else 0


def _expires(path: Path) -> datetime | None:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_METADATA_BYTES))
        return trust.parse_time(document["signed"]["expires"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, FormatError):
        return None  # not there, or of a kind that this look can't read
