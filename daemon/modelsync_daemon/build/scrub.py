"""Finds installed versions whose bytes are no longer what their manifests say. It only reads, and needs no lock.

An SD card loses bits without a word. Versions never change once they are installed, so a scrub may run beside
everything else; one that goes away meanwhile is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelsync_daemon.build.seeds import StreamReader, load_seed
from modelsync_daemon.disk.datadir import DataDir, Installed
from modelsync_protocol.manifest import EmptyDirectory, Link, RegularFile


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one installed version. `files`: paths that are not as the manifest has them, sorted."""

    name: str
    version: int
    digest: str
    bytes: int
    files: tuple[str, ...]


def scrub(data: DataDir) -> Iterator[Finding]:
    """Hash every installed version, as it is on the disk and not in memory; one finding each, sound or not."""
    for item in data.all_installed():
        finding = _check(item)
        if data.find(item.name, item.reference) is not None:
            yield finding


def _check(item: Installed) -> Finding:
    seed = load_seed(item)
    if seed is None:
        return Finding(item.name, item.version, item.digest, 0, (item.manifest_path.name,))
    try:
        bad = set(_wrong_entries(seed))
        _forget_cached(seed)
        chunks = seed.manifest.chunks()
        for (offset, size, digest), real in zip(chunks, seed.digests(), strict=True):
            if digest != real:
                bad |= {file.path for _, file, _, _ in seed.pieces(offset, size)}
        _forget_cached(seed)
        return Finding(item.name, item.version, item.digest, seed.manifest.size, tuple(sorted(bad)))
    finally:
        seed.close()


def _wrong_entries(seed: StreamReader) -> Iterator[str]:
    """Paths of the wrong kind, size, mode or target."""
    for entry in seed.manifest.entries:
        path = seed.root / entry.path
        try:
            if isinstance(entry, Link):
                right = str(path.readlink()) == entry.target
            elif isinstance(entry, EmptyDirectory):
                right = path.is_dir() and not path.is_symlink()
            else:
                right = _is_file(path, entry)
        except OSError:
            right = False
        if not right:
            yield entry.path


def _is_file(path: Path, entry: RegularFile) -> bool:
    info = path.lstat()
    return not path.is_symlink() and info.st_size == entry.size and info.st_mode & 0o777 == entry.mode


def _forget_cached(seed: StreamReader) -> None:
    """Drop the files' pages that nobody has mapped: before, to read the disk; after, to leave others' memory alone."""
    for file in seed.manifest.files:
        with suppress(OSError):
            descriptor = os.open(seed.root / file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
