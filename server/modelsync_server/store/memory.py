"""A store in memory, for tests and dry runs. Nothing is durable here."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from modelsync_server.store.durable import local_error
from modelsync_server.store.port import (
    AlreadyExists,
    ObjectNotFound,
    Stat,
    Tagged,
    TagMismatch,
    check_object_path,
)


class MemoryStore:
    """The store port over a dictionary; `objects` may be read and damaged by a test."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"memory:{id(self):x}"

    async def get(self, path: str) -> bytes:
        return self._content(path)

    async def get_tagged(self, path: str) -> Tagged:
        data = self._content(path)
        return Tagged(data, _tag(data))

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        return self._content(path)[start : start + length]

    async def stat(self, path: str) -> Stat:
        data = self._content(path)
        return Stat(len(data), _tag(data))

    async def create(self, path: str, source: bytes | Path) -> None:
        check_object_path(path)
        content = await asyncio.to_thread(_read, source) if isinstance(source, Path) else source
        if path in self.objects:
            raise AlreadyExists(path)
        self.objects[path] = content

    async def replace(self, path: str, data: bytes, if_etag: str) -> str:
        check_object_path(path)
        if path not in self.objects or _tag(self.objects[path]) != if_etag:
            raise TagMismatch(path)
        self.objects[path] = data
        return _tag(data)

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        return sorted((path, len(data)) for path, data in self.objects.items() if path.startswith(prefix))

    async def delete(self, path: str) -> None:
        self.objects.pop(check_object_path(path), None)

    def _content(self, path: str) -> bytes:
        try:
            return self.objects[check_object_path(path)]
        except KeyError:
            raise ObjectNotFound(path) from None


def _read(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise local_error(source, error) from error


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
