"""Refuses a version that leads out of its folder, before anything of it is loaded. Nothing is executed here."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.runtimes.model_kinds import Kind, kind_of
from modelsync_protocol import caps, references


class _FolderTree:
    """The regular files and links that lie in a folder, each mapped while it is read; see references.Tree."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: dict[str, int | str] = {}
        for base, folders, files in os.walk(folder):
            for name in (*folders, *files):
                path = Path(base) / name
                relative, info = str(path.relative_to(folder)), path.lstat()
                if stat.S_ISLNK(info.st_mode):
                    self._entries[relative] = str(path.readlink())
                elif stat.S_ISREG(info.st_mode):
                    self._entries[relative] = info.st_size
                elif not stat.S_ISDIR(info.st_mode):
                    raise ModelRefusedError(f"its file {relative!r:.80} is a device, socket or pipe.")
            if len(self._entries) > caps.MAX_FILES:
                raise ModelRefusedError("its folder holds more files than an artifact may have.")

    @property
    def entries(self) -> Mapping[str, int | str]:
        return self._entries

    def read(self, path: str) -> memoryview:
        if not self._entries[path]:
            return memoryview(b"")
        with (self._folder / path).open("rb") as file:
            # With the view goes the mapping and its descriptor: trees have more files than a process has those.
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def check_closed(folder: Path, model: Path) -> None:
    """ModelRefusedError says how what lies in `folder`, `model` among it, leads out. Raises OSError."""
    # A reader takes for ONNX what a runtime will take for it, whatever it is called.
    onnx = str(model.relative_to(folder)) if kind_of(model) is Kind.ONNX else None
    refusal = references.read(_FolderTree(folder), model=onnx).refusal
    if refusal is not None:
        raise ModelRefusedError(refusal)
