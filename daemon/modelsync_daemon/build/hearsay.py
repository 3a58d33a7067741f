"""Judges frames that came from neighbours as they arrive. No I/O here.

A frame whose digests are signed is compared with them before anybody else gets it. What is not found out here is found
out by the verification of the whole, as ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from modelsync_protocol.manifest import Manifest

_WORTH_IT = 8
"""An update's digests are fetched to judge what neighbours send of it if its manifest is so much shorter than it."""


def worth_its_manifest(update_bytes: int, manifest_length: int) -> bool:
    """Whether a manifest (`manifest_length` bytes of JSON) costs little beside an update."""
    return manifest_length <= update_bytes // _WORTH_IT


class Judge:
    """Compares frames with the digests of `manifest`, which is asked for once; None: nothing can be said."""

    def __init__(self, manifest: Callable[[], Awaitable[Manifest | None]]) -> None:
        self._ask = manifest
        self._asked = False
        self._manifest: Manifest | None = None
        self._position = 0
        self._chunks = iter(Manifest(()).chunks())

    async def check(self, target: int, data: bytes | bytearray) -> bool:
        """Whether `data` may be what belongs at `target` of the stream: whole chunks of it."""
        if not self._asked:
            self._asked, self._manifest = True, await self._ask()
            self._position = -1
        if self._manifest is None:
            return True
        if self._position < 0 or target < self._position:
            self._chunks, self._position = iter(self._manifest.chunks()), 0
        end, at, view = target + len(data), 0, memoryview(data)
        if self._position != target:
            for offset, size, _ in self._chunks:
                self._position = offset + size
                if self._position >= target:
                    break
        while self._position < end:
            found = next(self._chunks, None)
            if found is None:
                return False
            _, size, digest = found
            if hashlib.sha256(view[at : at + size]).hexdigest() != digest:
                self._position = -1
                return False
            at += size
            self._position += size
        return True
