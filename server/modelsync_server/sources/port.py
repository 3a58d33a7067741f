"""The port of every source: what an address means now, and bringing exactly that into a bounded folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from modelsync_protocol import caps, names
from modelsync_protocol.errors import FormatError, LocalError, RefusedError, UsageError

MAX_BYTES = caps.MAX_ARTIFACT_BYTES
"""Of one fetched model. A larger one could not be published either."""

_RESERVE_BYTES = 64 * caps.MIB
_BLOCK = 4 * caps.MIB


@dataclass(frozen=True, slots=True)
class Resolved:
    """What an address means now: `registry` says whose, without secrets; `revision` names it there for good.

    `more` is signed with it. `handle` is its source's own.
    """

    registry: str
    revision: str
    more: Mapping[str, str] = field(default_factory=dict)
    handle: Any = None


class Source(Protocol):
    """A place where models are kept, by one address of it."""

    @property
    def uri(self) -> str:
        """The address as it may be signed: without secrets."""

    async def resolve(self) -> Resolved:
        """What it means now, for few bytes: it is asked again and again by those who watch."""

    async def fetch(self, resolved: Resolved, scratch: Scratch) -> Path:
        """Bring what was resolved, and nothing newer, below `scratch`; the file or folder to publish."""


class Scratch:
    """A folder for what is fetched, and the bounds on it. `told(done, total)` is told bytes; total 0: not known."""

    def __init__(
        self,
        folder: Path,
        told: Callable[[int, int], None] = lambda done, total: None,
        *,
        most_bytes: int = MAX_BYTES,
        most_files: int = caps.MAX_FILES,
    ) -> None:
        self.folder = folder
        self._told = told
        self._most_bytes, self._most_files = most_bytes, most_files
        self._bytes = self._files = self._announced = 0
        self._names: set[str] = set()

    @property
    def left(self) -> int:
        """Bytes that may still come."""
        return self._most_bytes - self._bytes

    def announce(self, size: int, files: int) -> None:
        """What a listing says will come, checked before it does: UsageError, LocalError."""
        if files > self._most_files:
            raise UsageError(f"the source lists {files:,} files; a model may have {self._most_files:,}: name fewer.")
        if size > self._most_bytes:
            raise UsageError(f"the source has {size:,} bytes; a model may have {self._most_bytes:,}: name fewer files.")
        free = shutil.disk_usage(self.folder).free
        if size + _RESERVE_BYTES > free:
            raise LocalError(
                f"the source has {size:,} bytes, and {self.folder.parent} has {free:,} free: "
                "free some, or set TMPDIR to a larger place."
            )
        self._announced = size

    def place(self, path: str) -> Path:
        """Where the file `path` goes, its folders made; FormatError for a name that leads elsewhere or comes twice."""
        names.check_relative_path(path)
        if path in self._names:
            raise FormatError(f"the source has {path!r:.80} twice: one of them would be lost.")
        self._names.add(path)
        self._files += 1
        if self._files > self._most_files:
            raise UsageError(f"the source has more than {self._most_files:,} files, which a model may not: name fewer.")
        target = self.folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise FormatError(f"the source has {path!r:.80} as a file and below itself.") from None
        return target

    def count(self, size: int) -> None:
        """So many bytes came (or, negative, were taken back); UsageError if there are too many."""
        self._bytes += size
        if self._bytes > self._most_bytes:
            raise UsageError(f"the source has more than {self._most_bytes:,} bytes, which a model may not.")
        self._told(self._bytes, self._announced)

    def adopt(self, folder: Path) -> None:
        """Check what another program wrote to `folder`: names, kinds, bounds. RefusedError for links and devices."""
        for path, info in _walk(folder):
            name = path.relative_to(folder).as_posix()
            if not stat.S_ISREG(info.st_mode):
                raise RefusedError(
                    f"the source has {name!r:.80}, which is no regular file: fetched models have no links."
                )
            self._names.discard(name)
            self.place(name)
            self.count(info.st_size)


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below but folders, links not followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path), entry.stat(follow_symlinks=False)


def listing_digest(path: Path) -> str:
    """SHA-256 of a file; of a folder that of what `sha256sum` says of its files, sorted by path."""
    if not path.is_dir():
        return _sha256(path)
    files = sorted((file.relative_to(path).as_posix(), file) for file, _ in _walk(path))
    lines = "".join(f"{_sha256(file)}  {name}\n" for name, file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
