"""Reads streams of versions that lie on the disk. Read-only; what is read is hashed again by whoever uses it."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from modelsync_daemon.disk.datadir import Installed
from modelsync_protocol import caps
from modelsync_protocol import manifest as manifests
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest, RegularFile

_OPEN_FILES = 16


class StreamReader:
    """The stream of a tree on the disk, as its manifest lays it out. Close it when done."""

    def __init__(self, manifest: Manifest, root: Path) -> None:
        self.manifest = manifest
        self.root = root
        self._open: OrderedDict[int, int] = OrderedDict()

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, RegularFile, int, int]]:
        """Yield (file number, file, offset in it, bytes) of each part of a range of the stream."""
        offsets = self.manifest.file_offsets
        number = bisect_right(offsets, offset) - 1
        while length > 0:
            inside = offset - offsets[number]
            count = min(length, offsets[number + 1] - offset)
            if count > 0:
                yield number, self.manifest.files[number], inside, count
                offset += count
                length -= count
            number += 1

    def read(self, offset: int, length: int) -> bytes:
        """Return a range of the stream; bytes that the disk lacks (a damaged tree) come as zeros."""
        parts = []
        for number, _, inside, count in self.pieces(offset, length):
            try:
                data = os.pread(self._descriptor(number), count, inside)
            except OSError:
                data = b""
            parts.append(data + bytes(count - len(data)))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def digests(self) -> Iterator[str]:
        """Yield the SHA-256 of each chunk as it is on the disk, in order."""
        for offset, size, _ in self.manifest.chunks():
            yield hashlib.sha256(self.read(offset, size)).hexdigest()

    def close(self) -> None:
        """Close the files; the reader may be used again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def forget(self, number: int) -> None:
        """Close one file, which is about to be replaced."""
        if number in self._open:
            os.close(self._open.pop(number))

    def _descriptor(self, number: int) -> int:
        found = self._open.get(number)
        if found is None:
            if len(self._open) >= _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            path = self.root / self.manifest.files[number].path
            found = self._open[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._open.move_to_end(number)
        return found


def load_seed(installed: Installed) -> StreamReader | None:
    """The installed version as a seed, or None if its manifest is damaged (then its bytes mean nothing)."""
    try:
        with installed.manifest_path.open("rb") as file:
            data = file.read(caps.MAX_MANIFEST_BYTES + 1)
        manifest = manifests.decode(data)
    except (OSError, FormatError):
        return None
    return StreamReader(manifest, installed.path) if manifest.digest == installed.digest else None
