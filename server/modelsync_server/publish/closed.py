"""What an artifact refers to and would execute, read from a publisher's snapshot. It refuses; it changes nothing."""

from __future__ import annotations

from pathlib import Path

from modelsync_protocol import references
from modelsync_protocol.errors import UsageError
from modelsync_protocol.manifest import Link
from modelsync_protocol.references import Findings, MemoryTree
from modelsync_server.publish.artifact import Artifact, snapshot


def findings_of(artifact: Artifact, *, code: bool = False) -> Findings:
    """What the artifact refers to; with `code` what it would execute too. Valid as long as its stream is."""
    manifest = artifact.manifest
    offsets = manifest.file_offsets
    files = {
        entry.path: artifact.stream[begin:end]
        for entry, begin, end in zip(manifest.files, offsets, offsets[1:], strict=False)
    }
    links = {entry.path: entry.target for entry in manifest.entries if isinstance(entry, Link)}
    return references.read(MemoryTree(files, links), model=manifest.requires.get("model"), code=code)


def check_closed(artifact: Artifact) -> None:
    """UsageError names the first thing by which the artifact leads out of itself."""
    refusal = findings_of(artifact).refusal
    if refusal is not None:
        raise UsageError(refusal)


def inspect(path: Path) -> Findings:
    """Everything that can be said of the file or folder at `path`; UsageError for what can't be published."""
    with snapshot(path) as artifact:
        return findings_of(artifact, code=True)
