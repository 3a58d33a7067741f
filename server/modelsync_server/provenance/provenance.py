"""The provenance of a version that is about to be published: which files, who is believed, and what was verified."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_protocol.manifest import PROBE_PATH, Link, Manifest
from modelsync_server.provenance import attestations
from modelsync_server.provenance.attestations import Attestation, Identity
from modelsync_server.scratch.places import temporary_folder

KEY = "provenance"
"""Of a version's signed metadata: a list of what was verified."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """`files` of provenance, none: those beside the artifact. `believed`: of whom one must have signed each."""

    files: tuple[Path, ...]
    believed: tuple[Identity, ...]

    @classmethod
    def of(cls, files: Sequence[str | Path], believed: Sequence[str]) -> Wanted | None:
        """What was asked for; None: nothing. UsageError."""
        if not files and not believed:
            return None
        return cls(tuple(map(Path, files)), tuple(map(Identity.parse, believed)))

    def verify(self, path: Path, manifest: Manifest, stream: memoryview, probe: Path | None) -> list[Attestation]:
        """What is verified of the artifact that was copied from `path`. Blocks. RefusedError, UsageError.

        What is verified is the copy: `stream`, laid out once more as the files that were signed.
        """
        files = self.files or tuple(attestations.beside(path))
        if not files:
            suffixes = ", ".join(attestations.SUFFIXES)
            raise RefusedError(f"{path} has no provenance beside it ({suffixes}): sign it, or name the file.")
        if not self.believed:
            raise RefusedError("provenance is verified against somebody: say who with --require-provenance.")
        own = {file.relative_to(path).as_posix() for file in files if file.is_relative_to(path)} - {"."}
        if probe is not None:
            own.add(PROBE_PATH)  # added here, after the signature
        with temporary_folder("modelsync-provenance-") as scratch:
            laid_out = scratch / path.name
            digests = _lay_out(laid_out, manifest, stream, whole=path.is_dir(), without=own)
            return attestations.verify(laid_out, files, self.believed, digests)


def _lay_out(target: Path, manifest: Manifest, stream: memoryview, *, whole: bool, without: set[str]) -> dict[str, str]:
    """Write the artifact, but for some paths, to `target`, a folder if it is `whole`; SHA-256 of its files by path."""
    digests = {}
    offsets = manifest.file_offsets
    spans = {file.path: span for file, *span in zip(manifest.files, offsets, offsets[1:], strict=False)}
    for entry in manifest.entries:
        if entry.path in without:
            continue
        place = target / entry.path if whole else target
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, Link):
            place.symlink_to(entry.target)
        elif entry.path in spans:
            begin, end = spans[entry.path]
            place.write_bytes(stream[begin:end])
            digests[entry.path] = hashlib.sha256(stream[begin:end]).hexdigest()
    return digests


def with_provenance(metadata: Mapping[str, Any] | None, found: Sequence[Attestation]) -> dict[str, Any]:
    """Metadata to be signed with what was verified in it; UsageError if the publisher wrote something in its place."""
    if metadata is not None and KEY in metadata:
        raise UsageError(f"the metadata's key {KEY!r} says what was verified: call yours something else.")
    return {**(metadata or {}), KEY: [each.document() for each in found]}
