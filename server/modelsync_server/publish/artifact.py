"""Takes a private, stable copy of an artifact (a file or a tree) and cuts it into chunks: its manifest and stream."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import BinaryIO

from modelsync_protocol import caps
from modelsync_protocol.chunker import COARSE, USUAL, chunk_sizes
from modelsync_protocol.errors import FormatError, LocalError, UsageError
from modelsync_protocol.manifest import PROBE_PATH, EmptyDirectory, Entry, Link, Manifest, RegularFile
from modelsync_server.examination.examination import examine
from modelsync_server.scratch.mapped_file import mapped
from modelsync_server.scratch.places import scratch_folder, temporary_folder

_COPY_BLOCK = 4 * caps.MIB

_ENTRY_BYTES, _CHUNK_BYTES, _CHARACTER_BYTES = 96, 80, 6
"""The most that an entry, a chunk and a character of a path take in a manifest."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact's manifest and its stream (all files' bytes in the manifest's order; valid inside the context)."""

    manifest: Manifest
    stream: memoryview
    path: Path
    """The file that holds the stream, in a folder of its own; it goes with the context."""


@contextmanager
def snapshot(path: Path, probe: Path | None = None, *, untrusted: bool = False) -> Iterator[Artifact]:
    """Yield the artifact at `path`, with the file `probe` as its PROBE_PATH.

    The bytes are copied first, so what is published is what was cut. `untrusted`: a confined process reads the copy
    before this one does. Raises UsageError for what can't be published (missing, unreadable, changed while it was
    read, device files, links that leave the tree, bytes that a reader does not come through).
    """
    with temporary_folder("modelsync-publish-") as scratch:
        flat = scratch / "stream"
        try:
            with flat.open("wb") as out:
                sources = _sources(path, probe)
                spans = [(source, *_copy(source.origin, out)) for source in sources if source.origin is not None]
        except FormatError as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            raise _explain(error, path) from error
        if untrusted:
            links = {s.path: s.entry.target for s in sources if isinstance(s.entry, Link)}
            examine(flat, [(source.path, begin, end) for source, begin, end in spans], links)
        with mapped(flat) as stream:
            files = [(source, stream[begin:end]) for source, begin, end in spans]
            yield Artifact(_manifest(sources, files, path), stream, flat)


@dataclass(frozen=True, slots=True)
class _Source:
    """One entry to be: its path in the artifact, and either a finished entry or the file to read."""

    path: str
    entry: Entry | None = None
    origin: Path | None = None
    mode: int = 0o644


def _sources(path: Path, probe: Path | None) -> list[_Source]:
    if path.is_dir():
        found = list(_walk(path, ""))
        if not found:
            raise UsageError(f"{path} is an empty directory; give a model file or a directory with files.")
    else:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise UsageError(f"{path} is neither a regular file nor a directory.")
        # The mode of a lone file says nothing about the model, so it must not make a new version of the same bytes.
        found = [_Source(path.name, origin=path, mode=0o755 if info.st_mode & 0o100 else 0o644)]
    if probe is not None:
        _check_probe(probe)
        found = [source for source in found if source.path != PROBE_PATH]
        found.append(_Source(PROBE_PATH, origin=probe))
    if len(found) > caps.MAX_FILES:
        raise UsageError(f"{path} has {len(found)} files; an artifact may have {caps.MAX_FILES}.")
    return sorted(found, key=lambda source: source.path.encode("utf-8", "surrogateescape"))


def _manifest(sources: Sequence[_Source], files: Sequence[tuple[_Source, memoryview]], path: Path) -> Manifest:
    """Cut the files as usual, or coarsely if that would make the manifest too large; then digest the chunks."""
    for how in (USUAL, COARSE):
        try:
            sizes = [chunk_sizes(source.path, data, how) for source, data in files]
            if _surely_small(sources, sizes) or _manifest_bytes(sources, files, sizes) <= caps.MAX_MANIFEST_BYTES:
                break
        except FormatError as error:
            if how is COARSE:
                raise UsageError(str(error)) from error
    else:
        raise UsageError(f"{path} has too many files or chunks for one artifact; publish it in parts.")
    made = {s.path: _digested(s, data, lengths) for (s, data), lengths in zip(files, sizes, strict=True)}
    entries = tuple(made[s.path] if s.entry is None else s.entry for s in sources)
    try:
        return Manifest(entries, probe=PROBE_PATH if PROBE_PATH in made else None)
    except FormatError as error:
        raise UsageError(str(error)) from error


def _surely_small(sources: Sequence[_Source], sizes: Sequence[tuple[int, ...]]) -> bool:
    """Whether the manifest is within its caps by an estimate that no manifest exceeds, so that none need be made."""
    chunks = sum(map(len, sizes))
    texts = sum(len(s.path) + (len(s.entry.target) if isinstance(s.entry, Link) else 0) for s in sources)
    most = _ENTRY_BYTES * len(sources) + _CHUNK_BYTES * chunks + _CHARACTER_BYTES * texts
    return chunks <= caps.MAX_CHUNKS and most <= caps.MAX_MANIFEST_BYTES


def _manifest_bytes(
    sources: Sequence[_Source], files: Sequence[tuple[_Source, memoryview]], sizes: Sequence[tuple[int, ...]]
) -> int:
    """How long the manifest would be: a digest's characters don't change that. FormatError beyond a cap."""
    zeros = repeat("0" * 64)
    cut = {
        source.path: RegularFile(source.path, source.mode, lengths, tuple(islice(zeros, len(lengths))))
        for (source, _), lengths in zip(files, sizes, strict=True)
    }
    entries = tuple(cut[s.path] if s.entry is None else s.entry for s in sources)
    return len(Manifest(entries, probe=PROBE_PATH if PROBE_PATH in cut else None).encoded)


def _check_probe(probe: Path) -> None:
    """What inference will refuse is refused here: a FIFO, another file picked by mistake."""
    info = probe.stat()
    if not stat.S_ISREG(info.st_mode) or info.st_size > caps.MAX_PROBE_BYTES:
        raise UsageError(f"{probe} is no probe: give a JSON file of at most {caps.MAX_PROBE_BYTES // caps.MIB} MiB.")
    try:
        document = json.loads(probe.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{probe} is no probe: it is not valid JSON ({error}).") from error
    match document:
        case {"format": 1, "cases": [_, *_]}:
            return
    raise UsageError(f"{probe} is no probe: it lacks format 1 or its cases; docs/inference.md shows one.")


def _walk(directory: Path, prefix: str) -> Iterator[_Source]:
    children = sorted(os.scandir(directory), key=lambda child: child.name)
    for child in children:
        name = prefix + child.name
        if child.is_symlink():
            yield _Source(name, Link(name, str(Path(child.path).readlink())))
        elif child.is_dir():
            inner = list(_walk(Path(child.path), name + "/"))
            yield from inner or [_Source(name, EmptyDirectory(name))]
        elif child.is_file():
            mode = child.stat().st_mode & 0o777
            yield _Source(name, origin=Path(child.path), mode=mode)
        else:
            raise UsageError(
                f"{child.path} is a device, socket or pipe; an artifact holds files, directories and links."
            )


def _copy(origin: Path, out: BinaryIO) -> tuple[int, int]:
    """Append a file to `out`, holes as holes; return where it begins and ends there. A file that changes is refused."""
    begin = out.tell()
    with origin.open("rb") as file:
        before = os.fstat(file.fileno())
        whole = not os.pread(file.fileno(), 1, before.st_size)
        for place, end in _stretches(file.fileno(), before.st_size):
            if out.tell() != begin + place:
                out.seek(begin + place)
            while place < end and (block := os.pread(file.fileno(), min(_COPY_BLOCK, end - place), place)):
                place += out.write(block)
            whole &= place == end
        if out.tell() < begin + before.st_size:
            out.seek(out.truncate(begin + before.st_size))
        after = os.fstat(file.fileno())
    if not (whole and _identity(before) == _identity(after) == _identity(origin.stat())):
        raise UsageError(f"{origin} changed while it was read; publish it when its writer has finished.")
    return begin, out.tell()


def _stretches(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file holds data, (begin, end): between them are holes, which read as zeros and take no disk."""
    end = 0
    while end < size:
        try:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            if error.errno != errno.EINVAL:
                raise
            begin, end = end, size  # a file system that does not say
        yield begin, min(end, size)


def _identity(info: os.stat_result) -> tuple[int, int, int, int]:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def _digested(source: _Source, data: memoryview, sizes: tuple[int, ...]) -> RegularFile:
    digests = []
    position = 0
    for size in sizes:
        digests.append(hashlib.sha256(data[position : position + size]).hexdigest())
        position += size
    try:
        return RegularFile(source.path, source.mode, sizes, tuple(digests))
    except FormatError as error:
        raise UsageError(str(error)) from error


def _explain(error: OSError, path: Path) -> UsageError | LocalError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UsageError(f"{error.filename or path} does not exist; give the path of a model file or directory.")
    if isinstance(error, PermissionError):
        return UsageError(f"{error.filename or path} can't be read; check its permissions.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LocalError(f"there is no room for a copy of {path}; free some in {scratch_folder()} or set TMPDIR.")
    return UsageError(f"{error.filename or path} can't be read: {error.strerror}; check the file and its disk.")
