"""The manifest: what an artifact is. Its name is the SHA-256 of its canonical JSON. No I/O here.

All regular files of an artifact, in the order of the manifest, form one linear **stream** of bytes; chunks tile
each file, and frames, copies and plans are ranges of that stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, islice, repeat
from typing import Any

from modelsync_protocol import canonical, caps, names
from modelsync_protocol.errors import FormatError

FORMAT = 1
_NO_DIGEST = "0" * 64
_MAX_LISTS, _MAX_ITEMS = 5 * caps.MAX_FILES, caps.MAX_CHUNKS + 10 * caps.MAX_FILES
"""Brackets and commas of a document: three and five for an entry, one comma for a chunk, the rest for paths."""

PROBE_PATH = ".modelsync/probe.json"
"""Where `publish --probe` puts the probe inside the artifact."""


@dataclass(frozen=True, slots=True)
class RegularFile:
    """A file: permission bits, and its chunks' sizes (bytes) and SHA-256 digests (hex) in order."""

    path: str
    mode: int
    sizes: tuple[int, ...]
    digests: tuple[str, ...]

    def __post_init__(self) -> None:
        names.check_relative_path(self.path)
        if type(self.mode) is not int or not 0 <= self.mode <= 0o777:
            raise FormatError(f"{self.path!r:.80} has a mode that is not permission bits.")
        if len(self.sizes) != len(self.digests):
            raise FormatError(f"{self.path!r:.80} has another number of sizes than of digests.")
        if not all(type(size) is int and 0 < size <= caps.TENSOR_CHUNK_BYTES for size in self.sizes):
            raise FormatError(f"{self.path!r:.80} has a chunk size outside 1 to {caps.TENSOR_CHUNK_BYTES}.")

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link whose target stays inside the artifact."""

    path: str
    target: str

    def __post_init__(self) -> None:
        names.check_relative_path(self.path)
        check_link(self.path, self.target)


@dataclass(frozen=True, slots=True)
class EmptyDirectory:
    """A directory with nothing in it; the others follow from the files."""

    path: str

    def __post_init__(self) -> None:
        names.check_relative_path(self.path)


Entry = RegularFile | Link | EmptyDirectory


def check_link(path: str, target: str) -> None:
    """Raise FormatError if a link at `path` to `target` is absolute or leaves the tree."""
    try:
        length = len(target.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise FormatError(f"the link {path!r:.80} has a target that is not valid Unicode.") from error
    if not 0 < length <= caps.MAX_PATH_BYTES:
        raise FormatError(f"the link {path!r:.80} has no usable target.")
    if target.startswith("/") or "\\" in target or any(ord(c) < 32 or ord(c) == 127 for c in target):
        raise FormatError(
            f"the link {path!r:.80} points to {target!r:.80}; only targets inside the artifact are allowed."
        )
    if target == ".":
        return
    parts = target.split("/")
    climbs = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    # ".." after a name could climb out through another link, so it may only lead.
    if climbs > path.count("/") or ".." in parts[climbs:] or "" in parts or "." in parts:
        raise FormatError(f"the link {path!r:.80} to {target!r:.80} leaves the artifact or is not normalised.")


@dataclass(frozen=True)
class Manifest:
    """What an artifact is: its entries (sorted by path), its requirements and its probe's path (or None)."""

    entries: tuple[Entry, ...]
    requires: Mapping[str, str] = field(default_factory=dict)
    probe: str | None = None

    def __post_init__(self) -> None:
        if len(self.entries) > caps.MAX_FILES:
            raise FormatError(f"an artifact has at most {caps.MAX_FILES} entries; this one has {len(self.entries)}.")
        if self.chunk_count > caps.MAX_CHUNKS or self.size > caps.MAX_ARTIFACT_BYTES:
            raise FormatError("the artifact is larger than the format allows.")
        _check_tree(self.entries)
        if self.probe is not None and self.probe not in {f.path for f in self.files}:
            raise FormatError(f"the probe {self.probe!r:.80} is not a file of the artifact.")

    @cached_property
    def files(self) -> tuple[RegularFile, ...]:
        """The regular files, in stream order."""
        return tuple(entry for entry in self.entries if isinstance(entry, RegularFile))

    @cached_property
    def chunk_count(self) -> int:
        """How many chunks the artifact has, repeated ones counted each time."""
        return sum(len(entry.sizes) for entry in self.files)

    @cached_property
    def file_offsets(self) -> tuple[int, ...]:
        """Where each regular file begins in the stream; one more at the end: the stream's length."""
        return (0, *accumulate(entry.size for entry in self.files))

    @property
    def size(self) -> int:
        """Bytes of the stream."""
        return self.file_offsets[-1]

    def chunks(self) -> Iterator[tuple[int, int, str]]:
        """Yield (offset in the stream, size, digest) of each chunk in order."""
        offset = 0
        for entry in self.files:
            for size, digest in zip(entry.sizes, entry.digests, strict=True):
                yield offset, size, digest
                offset += size

    @cached_property
    def chunk_edges(self) -> frozenset[int]:
        """All stream offsets at which a chunk begins or ends."""
        edges = {0}
        offset = 0
        for entry in self.files:
            for size in entry.sizes:
                offset += size
                edges.add(offset)
        return frozenset(edges)

    @cached_property
    def encoded(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self._document(with_digests=True))

    @cached_property
    def skeleton(self) -> bytes:
        """Canonical JSON without the chunks' digests: what an update carries, as the device computes the rest."""
        return canonical.encode(self._document(with_digests=False))

    @cached_property
    def digest(self) -> str:
        """The manifest's name: SHA-256 of `encoded`, hex."""
        return canonical.digest(self.encoded)

    def _document(self, *, with_digests: bool) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "files": [_entry_document(entry, with_digests) for entry in self.entries],
            "probe": None if self.probe is None else {"data": self.probe},
            "requires": dict(self.requires),
        }


def decode(data: bytes) -> Manifest:
    """Read a manifest's canonical JSON; anything else, and any other spelling of it, raises FormatError."""
    manifest = _build(_read(data, "the manifest"), None)
    if manifest.encoded != data:
        raise FormatError("the manifest is not in canonical form.")
    return manifest


def complete(skeleton: bytes, digests: Iterator[str] | None) -> Manifest:
    """Build a manifest from a skeleton; `digests` gives each chunk's digest in stream order.

    With None every digest is 64 zeros: the result says where chunks lie, but has no true name yet. FormatError
    if the skeleton is no canonical one, or if there are fewer or more digests than chunks.
    """
    manifest = _build(_read(skeleton, "the manifest's skeleton"), repeat(_NO_DIGEST) if digests is None else digests)
    if manifest.skeleton != skeleton:
        raise FormatError("the manifest's skeleton is not in canonical form.")
    if digests is not None and next(digests, None) is not None:
        raise FormatError("there are more digests than chunks.")
    return manifest


def _read(data: bytes, what: str) -> Any:
    if len(data) <= caps.MAX_MANIFEST_BYTES:
        canonical.check_structure(data, what=what, lists=_MAX_LISTS, items=_MAX_ITEMS)
    return canonical.decode(data, what=what, limit=caps.MAX_MANIFEST_BYTES)


def _entry_document(entry: Entry, with_digests: bool) -> dict[str, Any]:
    if isinstance(entry, Link):
        return {"path": entry.path, "link": entry.target}
    if isinstance(entry, EmptyDirectory):
        return {"path": entry.path, "directory": True}
    document: dict[str, Any] = {"path": entry.path, "mode": entry.mode, "sizes": list(entry.sizes)}
    if with_digests:
        document["digests"] = list(entry.digests)
    return document


def _build(document: Any, digests: Iterator[str] | None) -> Manifest:
    match document:
        case {"format": 1, "files": list(files), "probe": probe, "requires": dict(requires)} if len(document) == 4:
            pass
        case {"format": int(version)} if version != FORMAT:
            raise FormatError(f"the manifest has format {version}; this program reads format {FORMAT}.")
        case _:
            raise FormatError("the manifest lacks format, files, probe or requires, or has more than these.")
    if len(files) > caps.MAX_FILES:
        raise FormatError(f"an artifact has at most {caps.MAX_FILES} entries; this one has {len(files)}.")
    if not all(isinstance(value, str) for value in requires.values()):
        raise FormatError("the manifest's requirements must be strings.")
    match probe:
        case None:
            probe_path = None
        case {"data": str(probe_path)} if len(probe) == 1:
            pass
        case _:
            raise FormatError("the manifest's probe names no file.")
    return Manifest(tuple(_build_entry(entry, digests) for entry in files), requires, probe_path)


def _build_entry(document: Any, digests: Iterator[str] | None) -> Entry:
    match document:
        case {"path": str(path), "link": str(target)} if len(document) == 2:
            return Link(path, target)
        case {"path": str(path), "directory": True} if len(document) == 2:
            return EmptyDirectory(path)
        case {"path": str(path), "mode": int(mode), "sizes": list(sizes), "digests": list(known)} if (
            digests is None and len(document) == 4 and len(known) == len(sizes)
        ):
            return RegularFile(path, mode, tuple(sizes), tuple(names.check_digest(d) for d in known))
        case {"path": str(path), "mode": int(mode), "sizes": list(sizes)} if digests is not None and len(document) == 3:
            return RegularFile(path, mode, tuple(sizes), tuple(islice(digests, len(sizes))))
    raise FormatError("the manifest has an entry that is neither file, link nor empty directory.")


def _check_tree(entries: tuple[Entry, ...]) -> None:
    """Paths ascend strictly (as UTF-8), and nothing lies below a file, a link or an empty directory."""
    previous = b""
    leaves: set[str] = set()
    for entry in entries:
        encoded = entry.path.encode()
        if encoded <= previous:
            raise FormatError(f"the manifest's paths are not in ascending order at {entry.path!r:.80}.")
        previous = encoded
        leaves.add(entry.path)
    directories: set[str] = set()
    for entry in entries:
        parent = entry.path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in directories:
                break
            directories.add(parent)
            if parent in leaves:
                raise FormatError(f"{entry.path!r:.80} lies below {parent!r:.80}, which is not a directory.")
