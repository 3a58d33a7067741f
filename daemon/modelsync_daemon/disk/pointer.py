"""The pointer file: what should be served, with its generation (docs/interfaces.md §1). No I/O here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from modelsync_protocol import canonical, names
from modelsync_protocol.errors import FormatError, ModelsyncError

MAX_POINTER_BYTES = 4096
"""A pointer file, bytes."""

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Reference:
    """One installed version: its number and manifest digest; `path` is its folder below models/NAME/."""

    version: int
    digest: str

    def __post_init__(self) -> None:
        names.check_version(self.version)
        names.check_digest(self.digest)

    @property
    def path(self) -> str:
        """The version's folder name, `VERSION-DIGEST`."""
        return f"{self.version}-{self.digest}"


@dataclass(frozen=True, slots=True)
class Pointer:
    """What should be served (current.json) or probed (candidate.json)."""

    name: str
    reference: Reference
    generation: int
    previous: Reference | None = None

    def __post_init__(self) -> None:
        names.check_model_name(self.name)
        if type(self.generation) is not int or self.generation < 1:
            raise FormatError(f"generation {self.generation!r:.40} is not a counter from 1.")

    @property
    def version(self) -> int:
        """The version that the pointer names."""
        return self.reference.version

    @property
    def digest(self) -> str:
        """The manifest digest that the pointer names."""
        return self.reference.digest


def encode(pointer: Pointer) -> bytes:
    """The pointer file's content."""
    return (
        json.dumps(
            {
                "format": FORMAT,
                "name": pointer.name,
                **_encode_reference(pointer.reference),
                "generation": pointer.generation,
                "previous": None if pointer.previous is None else _encode_reference(pointer.previous),
            }
        ).encode()
        + b"\n"
    )


def decode(data: bytes) -> Pointer:
    """Read a pointer file; raises FormatError for anything that is not one. Unknown keys are ignored."""
    document = canonical.decode(data, what="a pointer file", limit=MAX_POINTER_BYTES)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise FormatError(f"a pointer file is not of format {FORMAT}.")
    previous = document.get("previous")
    try:
        return Pointer(
            name=str(document.get("name")),
            reference=_decode_reference(document),
            generation=document.get("generation", 0),
            previous=None if previous is None else _decode_reference(previous),
        )
    except ModelsyncError as error:
        raise FormatError(f"a pointer file is damaged: {error}") from error


def _encode_reference(reference: Reference) -> dict[str, Any]:
    return {"version": reference.version, "digest": reference.digest, "path": reference.path}


def _decode_reference(value: Any) -> Reference:
    if not isinstance(value, dict):
        raise FormatError("a reference is not an object.")
    reference = Reference(value.get("version", 0), value.get("digest", ""))
    if value.get("path") != reference.path:
        raise FormatError("its path is not VERSION-DIGEST.")
    return reference
