"""The pointer files of a data directory (interfaces §1): reading and checking. Writing is the daemon's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_protocol import names
from modelsync_protocol.errors import FormatError, ModelsyncError

_MAX_POINTER_BYTES = 4096
CURRENT = "current"
CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class VersionRef:
    """One version on this device: its number, its manifest's digest, its folder below models/NAME."""

    version: int
    digest: str
    path: str

    def __post_init__(self) -> None:
        names.check_version(self.version)
        names.check_digest(self.digest)
        names.check_relative_path(self.path)


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a pointer file says. `generation` rises with every activation on the device."""

    ref: VersionRef
    generation: int
    previous: VersionRef | None


@dataclass(frozen=True, slots=True)
class PointerRead:
    """One look at a pointer file. Both None: it isn't there. `problem`: a sentence, and it is no news."""

    pointer: Pointer | None = None
    problem: str | None = None

    @property
    def absent(self) -> bool:
        """Whether there is no such file, which unlike garbage is a statement."""
        return self.pointer is None and self.problem is None


def read_pointer(folder: Path, model: str, kind: str) -> PointerRead:
    """Look at `folder`/`kind`.json for `model`; never raises for what it finds there."""
    path = folder / f"{kind}.json"
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_POINTER_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return PointerRead()
    except OSError as error:
        return PointerRead(problem=f"{path.name} can't be read: {error.strerror}.")
    try:
        return PointerRead(parse_pointer(data, model))
    except ModelsyncError as error:
        return PointerRead(problem=f"{path.name} is not a pointer: {error}")


def parse_pointer(data: bytes, model: str) -> Pointer:
    """Parse a pointer file's bytes; FormatError or UsageError says what is wrong."""
    if len(data) > _MAX_POINTER_BYTES:
        raise FormatError(f"it is longer than {_MAX_POINTER_BYTES} bytes.")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"it is not JSON ({error}).") from error
    if not isinstance(document, dict) or document.get("format") != 1:
        raise FormatError("it is not of format 1.")
    if document.get("name") != model:
        raise FormatError(f"it is about {document.get('name')!r:.80}, not {model!r}.")
    generation = document.get("generation")
    if type(generation) is not int or generation < 0:
        raise FormatError("its generation is not an integer.")
    previous = document.get("previous")
    return Pointer(_ref(document), generation, None if previous is None else _ref(previous))


def _ref(value: Any) -> VersionRef:
    if not isinstance(value, dict):
        raise FormatError("previous is not an object.")
    return VersionRef(
        names.check_version(value.get("version")),
        names.check_digest(value.get("digest")),
        names.check_relative_path(value.get("path")),
    )
