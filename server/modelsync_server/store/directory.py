"""A store in a local directory. Durable writing itself is in durable.py."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from modelsync_server.store import durable
from modelsync_server.store.port import (
    AlreadyExists,
    ObjectNotFound,
    Stat,
    Tagged,
    TagMismatch,
    check_object_path,
    is_object_path,
)

_HASHED_UP_TO = 1 << 20
"""Objects up to this many bytes are tagged by content; larger ones never change: tagged by file."""


class DirectoryStore:
    """The store port over a directory; several processes may use the same one at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def url(self) -> str:
        return str(self.root)

    def local_path(self, path: str) -> Path:
        """Where the object lies on this machine (it need not exist)."""
        return self.root / check_object_path(path)

    async def get(self, path: str) -> bytes:
        return (await self.get_tagged(path)).data

    async def get_tagged(self, path: str) -> Tagged:
        return await asyncio.to_thread(self._read, path)

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        return await asyncio.to_thread(self._read_range, path, start, length)

    async def stat(self, path: str) -> Stat:
        return await asyncio.to_thread(self._stat, path)

    async def create(self, path: str, source: bytes | Path) -> None:
        try:
            await asyncio.to_thread(durable.write, self.local_path(path), source, create_only=True)
        except FileExistsError:
            raise AlreadyExists(path) from None

    async def replace(self, path: str, data: bytes, if_etag: str) -> str:
        return await asyncio.to_thread(self._replace, path, data, if_etag)

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        return await asyncio.to_thread(lambda: sorted(self._walk(prefix)))

    async def delete(self, path: str) -> None:
        await asyncio.to_thread(self._delete, path)

    def _read(self, path: str) -> Tagged:
        local = self.local_path(path)
        try:
            with local.open("rb") as file:
                data = file.read()
                return Tagged(data, _tag(data, os.fstat(file.fileno())))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectNotFound(path) from None
        except OSError as error:
            raise durable.local_error(local, error) from error

    def _read_range(self, path: str, start: int, length: int) -> bytes:
        local = self.local_path(path)
        try:
            with local.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectNotFound(path) from None
        except OSError as error:
            raise durable.local_error(local, error) from error

    def _stat(self, path: str) -> Stat:
        local = self.local_path(path)
        try:
            with local.open("rb") as file:
                status = os.fstat(file.fileno())
                data = file.read() if status.st_size <= _HASHED_UP_TO else b""
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectNotFound(path) from None
        except OSError as error:
            raise durable.local_error(local, error) from error
        return Stat(status.st_size, _tag(data, status), datetime.fromtimestamp(status.st_mtime, UTC))

    def _replace(self, path: str, data: bytes, if_etag: str) -> str:
        local = self.local_path(path)
        # The lock makes "compare, then rename" one step between all publishers on this directory.
        with durable.lock(self.root / ".lock"):
            try:
                current = self._read(path)
            except ObjectNotFound:
                raise TagMismatch(path) from None
            if current.etag != if_etag:
                raise TagMismatch(path)
            durable.write(local, data)
            return self._stat(path).etag

    def _walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        folder = prefix.rpartition("/")[0]
        start = self.root / check_object_path(folder) if folder else self.root
        for here, folders, files in os.walk(start):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                local = Path(here, name)
                path = local.relative_to(self.root).as_posix()
                if not path.startswith(prefix) or not is_object_path(path):
                    continue
                try:
                    info = local.stat()
                except FileNotFoundError:
                    continue  # deleted while we walk
                if stat.S_ISREG(info.st_mode):
                    yield path, info.st_size

    def _delete(self, path: str) -> None:
        local = self.local_path(path)
        try:
            local.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise durable.local_error(local, error) from error


def _tag(data: bytes, status: os.stat_result) -> str:
    if status.st_size <= _HASHED_UP_TO:
        return hashlib.sha256(data).hexdigest()
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
