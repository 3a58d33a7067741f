"""The store port: named byte objects, created once or replaced by tag; its errors. No I/O here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError

MARKER = "metadata/1.root.json"
"""The object that makes a place a store: the first root of trust."""

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


class ObjectNotFound(RefusedError):
    """The store has no object of that path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the store has no object {path}: run `modelsync verify` to see what is missing.")
        self.path = path


class StoreConflict(UnreachableError):
    """Somebody else wrote first; reading again and retrying helps."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} {reason}: somebody else writes to this store; try again.")
        self.path = path


class AlreadyExists(StoreConflict):
    """`create` met an object of that path."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "exists already")


class TagMismatch(StoreConflict):
    """`replace` met another content than the caller had read, or none."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "has changed meanwhile")


@dataclass(frozen=True, slots=True)
class Stat:
    """An object's `size` in bytes and its `etag`, opaque; another content has another tag.

    `modified` is when this place got it, UTC (a copy of a store may have times of its own); None if it can't say.
    """

    size: int
    etag: str
    modified: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tagged:
    """An object's content and the tag to hand to `replace`."""

    data: bytes
    etag: str


class Store(Protocol):
    """Named byte objects. Paths are as in DESIGN §3 (`packs/<digest>`); a backend checks them (UsageError).

    Each call may be repeated. Beside the errors named below a backend raises UnreachableError (try again) or
    LocalError (this machine: disk full, permission). An object is seen whole or not at all.
    """

    @property
    def url(self) -> str:
        """What `open_store` takes to open this store again."""

    async def get(self, path: str) -> bytes:
        """Return the object's content; ObjectNotFound. Meant for small objects: all of it is in memory."""

    async def get_tagged(self, path: str) -> Tagged:
        """Return content and tag, read as one; ObjectNotFound."""

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes from offset `start`, fewer at the object's end; ObjectNotFound."""

    async def stat(self, path: str) -> Stat:
        """Return size and tag; ObjectNotFound."""

    async def create(self, path: str, source: bytes | Path) -> None:
        """Store `source` (content, or a local file to copy) durably; AlreadyExists leaves what is there."""

    async def replace(self, path: str, data: bytes, if_etag: str) -> str:
        """Overwrite an object that still has `if_etag`, durably; return the new tag; else TagMismatch."""

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        """Return (path, size in bytes) of all objects whose path starts with `prefix`, sorted by path.

        Files and blobs that no object can be called (`is_object_path`) are left out.
        """

    async def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""


def check_object_path(path: str) -> str:
    """Return `path` if its parts are of A-Z a-z 0-9 . _ - and none begins with a dot, else UsageError."""
    if not is_object_path(path):
        raise UsageError(f"{path!r:.120} is not an object path of a store.")
    return path


def is_object_path(path: str) -> bool:
    """Whether an object can be called that; what else lies in a store's place is somebody else's and never listed."""
    return len(path) <= 1024 and all(map(_PART.fullmatch, path.split("/")))


def cache_control(path: str) -> str:
    """What a CDN in front may keep, as docs/origin.md asks."""
    return "no-cache" if changes(path) else "public, max-age=31536000, immutable"


def changes(path: str) -> bool:
    """Whether an object of that path is replaced at times; all others are created once."""
    return path.startswith("bundles/") or path == "metadata/timestamp.json"
