"""What an artifact refers to and would execute, read from a publisher's snapshot. It refuses; it changes nothing."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from modelsync_protocol import references
from modelsync_protocol.errors import UsageError
from modelsync_protocol.manifest import Link
from modelsync_protocol.references import Findings, MemoryTree
from modelsync_server.publish.artifact import Artifact, snapshot
from modelsync_server.requirements import requirements_of


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


def check_closed(artifact: Artifact) -> tuple[str, ...]:
    """What it would execute, a sentence each; UsageError names the first thing by which it leads out of itself."""
    findings = findings_of(artifact, code=True)
    if findings.refusal is not None:
        raise UsageError(findings.refusal)
    return tuple(dict.fromkeys(map(str, findings.code)))


def check_hard_links(path: Path) -> None:
    """UsageError for a file below `path` that is another user's and has names elsewhere, too.

    Whoever may write into an upload folder can put a hard link there to a file that he may not read himself.
    """
    try:
        owner = path.stat().st_uid
        names: Counter[tuple[int, int]] = Counter()
        foreign: dict[tuple[int, int], tuple[Path, int]] = {}
        folders = [str(path)] if path.is_dir() else []
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        info = entry.stat(follow_symlinks=False)
                        names[info.st_dev, info.st_ino] += 1
                        if info.st_uid != owner and info.st_nlink > 1:
                            foreign[info.st_dev, info.st_ino] = Path(entry.path), info.st_nlink
    except OSError:
        return  # whatever it is, reading the artifact says it better
    for key, (file, count) in foreign.items():
        if count > names[key]:
            raise UsageError(f"{file} is a hard link to another user's file outside of {path}; publish a copy of it.")


def inspect(path: Path) -> tuple[Findings, dict[str, str]]:
    """Everything that can be said of the file or folder at `path`, and what it requires of a device; UsageError for
    what can't be published."""
    check_hard_links(path)
    with snapshot(path) as artifact:
        return findings_of(artifact, code=True), requirements_of(artifact.manifest, artifact.stream)
