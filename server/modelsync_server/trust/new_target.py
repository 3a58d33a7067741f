"""A version that is to be signed, checked before anything is signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelsync_protocol import caps, names
from modelsync_protocol.errors import FormatError
from modelsync_protocol.requirements import terms


@dataclass(frozen=True, slots=True)
class NewTarget:
    """A version to sign: `digest` is the manifest's, `length` the size of its canonical JSON in bytes; `custom` is
    signed with it (small; it travels with every check-in), and so is `release`, the digest of its release record,
    where devices don't meet it. `requires` is what it requires of a device. Signing a version again with another record
    or other requirements (None: no word on them) replaces them."""

    model: str
    version: int
    digest: str
    length: int
    custom: Mapping[str, Any] | None = None
    release: str | None = None
    requires: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        names.check_model_name(self.model)
        names.check_version(self.version)
        names.check_digest(self.digest)
        if self.release is not None:
            names.check_digest(self.release)
        if self.requires is not None:
            terms.encode(self.requires)
        if not 0 < self.length <= caps.MAX_MANIFEST_BYTES:
            raise FormatError(f"a manifest of {self.length} bytes is not allowed; the limit is 16 MiB.")
