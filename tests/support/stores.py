"""Stores that misbehave on purpose, behind the store's port."""

from __future__ import annotations

from pathlib import Path

from modelsync_protocol.errors import UnreachableError
from modelsync_server.store import MemoryStore, Stat, Tagged


class Crashed(UnreachableError):
    """The publisher's process ends here."""


class CrashingStore:
    """Passes everything on to `inner` until write number `at` (from 1), which fails, before or after it took effect."""

    def __init__(self, inner: MemoryStore, at: int, *, after: bool) -> None:
        self.inner = inner
        self.writes = 0
        self._at = at
        self._after = after

    @property
    def url(self) -> str:
        return self.inner.url

    async def get(self, path: str) -> bytes:
        return await self.inner.get(path)

    async def get_tagged(self, path: str) -> Tagged:
        return await self.inner.get_tagged(path)

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        return await self.inner.get_range(path, start, length)

    async def stat(self, path: str) -> Stat:
        return await self.inner.stat(path)

    async def create(self, path: str, source: bytes | Path) -> None:
        self._count(after=False)
        await self.inner.create(path, source)
        self._count(after=True)

    async def replace(self, path: str, data: bytes, if_etag: str) -> str:
        self._count(after=False)
        tag = await self.inner.replace(path, data, if_etag)
        self._count(after=True)
        return tag

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        return await self.inner.list(prefix)

    async def delete(self, path: str) -> None:
        await self.inner.delete(path)

    def _count(self, *, after: bool) -> None:
        if not after:
            self.writes += 1
        if self.writes >= self._at and after == self._after:
            raise Crashed(f"crashed at write {self.writes}; publish again.")
