"""An object that is put together of parts in scratch files: measured, digested, handed on, never whole in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelsync_protocol.errors import LocalError
from modelsync_server.scratch.places import scratch_folder, temporary_folder
from modelsync_server.scratch.spool import Payload

_JOINED_BYTES = 1 << 20
"""Objects up to this size are joined in memory: a file for each would take longer."""


class Parts:
    """The bytes of `parts`, one after the other; `len()` is the size in bytes."""

    def __init__(self, parts: Sequence[Payload]) -> None:
        self._parts = parts
        self._size = sum(map(len, parts))

    def __len__(self) -> int:
        return self._size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parts) and (len(self), self.digest()) == (len(other), other.digest())

    def __hash__(self) -> int:
        return hash(self.digest())

    def digest(self) -> str:
        """SHA-256, hex."""
        content = hashlib.sha256()
        for part in self._parts:
            content.update(part)
        return content.hexdigest()

    @contextmanager
    def source(self) -> Iterator[bytes | Path]:
        """What `Store.create` takes: the bytes if they are few, else a file that holds them. LocalError."""
        if self._size <= _JOINED_BYTES:
            yield b"".join(self._parts)
            return
        with temporary_folder("modelsync-object-") as folder:
            path = folder / "object"
            try:
                with path.open("wb") as out:
                    for part in self._parts:
                        out.write(part)
            except OSError as error:
                raise LocalError(
                    f"there is no room for an object of {self._size >> 20} MiB ({error.strerror}); "
                    f"free some in {scratch_folder()} or set TMPDIR."
                ) from error
            yield path
