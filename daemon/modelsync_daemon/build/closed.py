"""Refuses a built tree that leads out of itself, before it counts as installed. Runs in the worker; changes nothing."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

from modelsync_protocol import references
from modelsync_protocol.manifest import Link, Manifest, RegularFile


class _MappedTree:
    """The files of `manifest` below `root`, mapped when they are read; see references.Tree.

    A file is mapped, and its descriptor open, for as long as whoever read it has the view: trees have more files than
    a worker may have descriptors.
    """

    def __init__(self, manifest: Manifest, root: Path) -> None:
        self._root = root
        self._entries: dict[str, int | str] = {}
        for entry in manifest.entries:
            if isinstance(entry, RegularFile):
                self._entries[entry.path] = entry.size
            elif isinstance(entry, Link):
                self._entries[entry.path] = entry.target

    @property
    def entries(self) -> Mapping[str, int | str]:
        return self._entries

    def read(self, path: str) -> memoryview:
        if not self._entries[path]:
            return memoryview(b"")
        with (self._root / path).open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def refusal_of(manifest: Manifest, root: Path) -> str | None:
    """One sentence if the tree at `root` leads out of itself, else None. Raises OSError."""
    return references.read(_MappedTree(manifest, root), model=manifest.requires.get("model")).refusal
