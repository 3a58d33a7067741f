"""The lake: tables of Parquet files in a folder, partitioned by day, and a log of commits that says which files count.

A commit is one file of the log, made by a link, so it is there as a whole or not at all, and two writers can't both
make the same one. It also says how far the source was read: rows and place are one step, which is what makes them land
exactly once. Files that no commit names are leftovers of a crash; readers never see them.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modelsync_protocol.errors import ModelsyncError

_ARRIVED = [
    ("id", pa.string()), ("seq", pa.int64()), ("time", pa.timestamp("us", "UTC")), ("vehicle", pa.string()),
    ("bytes", pa.int32()),
]  # fmt: skip
TABLES: Mapping[str, Any] = {
    "readings": pa.schema([*_ARRIVED, ("window", pa.int32()), ("readings", pa.list_(pa.list_(pa.int16())))]),
    "alarms": pa.schema(
        [*_ARRIVED, ("window", pa.int32()), ("version", pa.int32()), ("sensors", pa.list_(pa.int8())),
         ("probability", pa.list_(pa.float32()))]
    ),
    "scores": pa.schema([*_ARRIVED, ("version", pa.int32()), ("messages", pa.int32()), ("share", pa.float32())]),
    "inspections": pa.schema([("vehicle", pa.string()), ("window", pa.int32()), ("faulty", pa.list_(pa.int8()))]),
    "rejected": pa.schema([*_ARRIVED, ("body", pa.binary()), ("why", pa.string())]),
}  # fmt: skip
"""`id` is unique in a table. `readings` are hundredths of a degree, (SENSORS, WINDOW); `bytes` the message's body."""


class LakeError(Exception):
    """Somebody else has committed meanwhile, or the log is damaged; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Commit:
    """`number` from 1; `upto`: the source's last message that is in; `files`: (table, path below the lake, rows)."""

    number: int
    upto: int
    files: tuple[tuple[str, str, int], ...]
    twice: int = 0
    """Messages that were left out because they are in already."""
    missed: int = 0
    """Messages that the source had thrown away before they were read."""

    def rows(self, table: str) -> int:
        """How many rows it added to a table."""
        return sum(rows for name, _, rows in self.files if name == table)


class Lake:
    """A lake in a folder, which is made if it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "_log"
        self._log.mkdir(parents=True, exist_ok=True)

    def commits(self, after: int = 0) -> list[Commit]:
        """Those behind number `after`, oldest first."""
        found: list[Commit] = []
        number = after
        while True:
            number += 1
            try:
                text = (self._log / f"{number:012}.json").read_text()
            except FileNotFoundError:
                return found
            try:
                document = json.loads(text)
                files = tuple((str(table), str(path), int(rows)) for table, path, rows in document["files"])
                found.append(Commit(number, document["upto"], files, document["twice"], document["missed"]))
            except (ValueError, KeyError, TypeError) as error:
                raise LakeError(f"commit {number} of {self.folder} can't be read; restore it from a copy.") from error

    def append(
        self,
        tables: Mapping[str, Sequence[Mapping[str, Any]]],
        before: int,
        upto: int,
        *,
        twice: int = 0,
        missed: int = 0,
    ) -> Commit:
        """Add rows by table as the commit behind number `before`; LakeError if there is one already."""
        files = []
        for table, rows in tables.items():
            by_day: dict[str, list[Mapping[str, Any]]] = {}
            for row in rows:
                by_day.setdefault(f"{row['time']:%Y-%m-%d}" if "time" in row else "undated", []).append(row)
            for day, of_day in by_day.items():
                path = f"{table}/date={day}/part-{before + 1:012}-{secrets.token_hex(4)}.parquet"
                self._write(path, pa.Table.from_pylist(of_day, TABLES[table]))
                files.append((table, path, len(of_day)))
        commit = Commit(before + 1, upto, tuple(files), twice, missed)
        document = {"upto": upto, "files": files, "twice": twice, "missed": missed}
        beside = self._log / f".{secrets.token_hex(8)}"
        _durably(beside, json.dumps(document).encode())
        try:
            os.link(beside, self._log / f"{commit.number:012}.json")
        except FileExistsError as error:
            raise LakeError(f"somebody else has made commit {commit.number}; read it, and try again.") from error
        finally:
            beside.unlink()
        return commit

    def read(self, table: str, columns: Sequence[str] | None = None, commits: Sequence[Commit] | None = None) -> Any:
        """A pyarrow.Table of the rows of all commits, or of `commits`."""
        chosen = self.commits() if commits is None else commits
        files = [path for commit in chosen for name, path, _ in commit.files if name == table]
        schema = TABLES[table] if columns is None else pa.schema([TABLES[table].field(name) for name in columns])
        parts = [pq.ParquetFile(self.folder / path).read(columns=columns) for path in files]
        return pa.concat_tables([schema.empty_table(), *parts])

    def leftovers(self) -> list[Path]:
        """Files that no commit names: of writers that were killed, and of one that writes now."""
        named = {path for commit in self.commits() for _, path, _ in commit.files}
        return [path for path in self.folder.rglob("*.parquet") if str(path.relative_to(self.folder)) not in named]

    def _write(self, path: str, table: Any) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())


def check(table: str, row: Mapping[str, Any]) -> None:
    """Raise ValueError or TypeError (pyarrow's are of these kinds) if `row` does not fit the table."""
    pa.Table.from_pylist([dict(row)], TABLES[table])


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """A job's end: what goes wrong for a reason is said in a sentence, with exit code 1. It may be started again."""
    try:
        yield
    except (LakeError, ModelsyncError, OSError) as error:
        sys.exit(str(error))


def _durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
