"""A view of an artifact's files, and where a path that a model names leads in it. No I/O here: the caller reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from modelsync_protocol import caps, manifest
from modelsync_protocol.errors import FormatError

_MAX_HOPS = 40
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class Tree(Protocol):
    """An artifact's entries: path → bytes of a regular file, or the target of a link (a str)."""

    @property
    def entries(self) -> Mapping[str, int | str]:
        """All files and links."""
        ...

    def read(self, path: str) -> memoryview:
        """The bytes of a regular file of `entries`; the tree owns them, and they are valid as long as it is."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryTree:
    """A tree whose files are in memory, or mapped."""

    files: Mapping[str, memoryview]
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def entries(self) -> Mapping[str, int | str]:
        """See Tree."""
        return {**{path: len(data) for path, data in self.files.items()}, **self.links}

    def read(self, path: str) -> memoryview:
        """See Tree."""
        return self.files[path]


class OutsideError(ValueError):
    """A path that does not lead to a file of the artifact; the text ends a sentence that begins with the path."""


def shown(text: str) -> str:
    """A path from a hostile file, printable and of bounded length."""
    return ascii(text if len(text) <= 120 else text[:120] + "…")


def resolve(entries: Mapping[str, int | str], folder: str, location: str) -> tuple[str, int]:
    """(path, bytes) of the regular file to which `location`, relative to `folder`, leads; OutsideError says why not.

    Names are compared exactly: what another system takes for the same (case, Unicode forms) is another name here.
    """
    if not location:
        raise OutsideError("is empty")
    if len(location) > caps.MAX_PATH_BYTES:
        raise OutsideError("is too long")
    if any(ord(c) < 32 or ord(c) == 127 for c in location):
        raise OutsideError("holds a control character")
    if "\\" in location:
        raise OutsideError("holds a backslash, which is a separator elsewhere")
    if location.startswith("/"):
        raise OutsideError("is absolute")
    if _SCHEME.match(location):
        raise OutsideError("begins with a drive or a scheme")
    if location.startswith("*/_ORT_MEM_ADDR_/*"):
        raise OutsideError("stands for an address in memory")
    if ".." in location.split("/"):
        raise OutsideError("climbs with '..'")
    return _follow(entries, [*folder.split("/"), *location.split("/")])


def _follow(entries: Mapping[str, int | str], parts: list[str]) -> tuple[str, int]:
    here: list[str] = []
    todo = [part for part in reversed(parts) if part not in ("", ".")]
    for _ in range(_MAX_HOPS + caps.MAX_PATH_BYTES):
        if not todo:
            break
        part = todo.pop()
        if part == "..":
            if not here:
                raise OutsideError("leads out of the artifact through a link")
            here.pop()
            continue
        path = "/".join([*here, part])
        found = entries.get(path)
        if isinstance(found, str):
            try:
                manifest.check_link(path, found)
            except FormatError as error:
                raise OutsideError("leads out of the artifact through a link") from error
            todo += [step for step in reversed(found.split("/")) if step not in ("", ".")]
        else:
            here.append(part)
    path = "/".join(here)
    size = entries.get(path)
    if todo or not isinstance(size, int):
        raise OutsideError("is not a file of the artifact")
    return path, size
