"""Stores that misbehave on purpose, behind the store's port."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from modelsync_protocol.errors import UnreachableError
from modelsync_server.store import MemoryStore, Stat, Store, Tagged


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


class CountingStore:
    """Passes everything on to `inner`, and counts calls by name and bytes both ways."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        self.bytes = 0

    @property
    def url(self) -> str:
        return self.inner.url

    def _moved(self, call: str, data: bytes) -> bytes:
        self.calls[call] += 1
        self.bytes += len(data)
        return data

    async def get(self, path: str) -> bytes:
        self.calls["get"] += 1
        return self._moved("got", await self.inner.get(path))

    async def get_tagged(self, path: str) -> Tagged:
        self.calls["get"] += 1
        found = await self.inner.get_tagged(path)
        self._moved("got", found.data)
        return found

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        self.calls["get"] += 1
        return self._moved("got", await self.inner.get_range(path, start, length))

    async def stat(self, path: str) -> Stat:
        self.calls["stat"] += 1
        return await self.inner.stat(path)

    async def create(self, path: str, source: bytes | Path) -> None:
        data = source.read_bytes() if isinstance(source, Path) else source
        self._moved("create", data)
        await self.inner.create(path, source)

    async def replace(self, path: str, data: bytes, if_etag: str) -> str:
        self._moved("replace", data)
        return await self.inner.replace(path, data, if_etag)

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        self.calls["list"] += 1
        return await self.inner.list(prefix)

    async def delete(self, path: str) -> None:
        self.calls["delete"] += 1
        await self.inner.delete(path)

    @property
    def requests(self) -> int:
        """All calls, each a request of a store behind HTTP."""
        return sum(number for call, number in self.calls.items() if call != "got")
