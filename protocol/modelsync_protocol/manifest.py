"""The manifest: what an artifact is. Its name is the SHA-256 of its canonical JSON. No I/O here.

All regular files of an artifact, in the order of the manifest, form one linear **stream** of bytes; chunks tile
each file, and frames, copies and plans are ranges of that stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, islice
from typing import Any

from modelsync_protocol import canonical, caps, names
from modelsync_protocol.digests import Digests
from modelsync_protocol.errors import FormatError

FORMAT = 1
_DIGESTS = b'{"digests":["'
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
    digests: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "digests", Digests.of(self.digests))
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

    def chunk_ends(self) -> Iterator[int]:
        """Stream offsets at which chunks end, ascending."""
        return accumulate(size for entry in self.files for size in entry.sizes)

    @property
    def encoded(self) -> bytes:
        """Canonical JSON. It is made anew each time: that is quick, and to keep it would double a manifest's memory."""
        return b"".join(self._json(with_digests=True))

    @property
    def skeleton(self) -> bytes:
        """Canonical JSON without the chunks' digests: what an update carries, as the device computes the rest."""
        return b"".join(self._json(with_digests=False))

    @cached_property
    def digest(self) -> str:
        """The manifest's name: SHA-256 of `encoded`, hex."""
        content = hashlib.sha256()
        for part in self._json(with_digests=True):
            content.update(part)
        return content.hexdigest()

    def _json(self, *, with_digests: bool) -> Iterator[bytes]:
        """Canonical JSON (RFC 8785) in parts: its keys sorted, as they stand here."""
        yield b'{"files":['
        for number, entry in enumerate(self.entries):
            yield b",{" if number else b"{"
            if isinstance(entry, RegularFile):
                if with_digests:
                    yield b'"digests":['
                    yield from Digests.of(entry.digests).json()
                    yield b"],"
                sizes = ",".join(map(str, entry.sizes))
                yield b'"mode":%d,"path":%b,"sizes":[%b]}' % (
                    entry.mode,
                    canonical.string(entry.path),
                    sizes.encode("ascii"),
                )
            elif isinstance(entry, Link):
                yield b'"link":%b,"path":%b}' % (canonical.string(entry.target), canonical.string(entry.path))
            else:
                yield b'"directory":true,"path":%b}' % canonical.string(entry.path)
        probe = None if self.probe is None else {"data": self.probe}
        yield b'],"format":%d,"probe":%b,"requires":%b}' % (FORMAT, _json(probe), _json(dict(self.requires)))


def decode(data: bytes) -> Manifest:
    """Read a manifest's canonical JSON; anything else, and any other spelling of it, raises FormatError."""
    rest, lists = _without_digests(data)
    manifest = _build(_read(rest, "the manifest", len(data)), lists)
    if manifest.digest != canonical.digest(data):
        raise FormatError("the manifest is not in canonical form.")
    return manifest


def complete(skeleton: bytes, digests: Iterator[str] | None) -> Manifest:
    """Build a manifest from a skeleton; `digests` gives each chunk's digest in stream order.

    With None every digest is 64 zeros: the result says where chunks lie, but has no true name yet. FormatError
    if the skeleton is no canonical one, or if there are fewer or more digests than chunks.
    """
    document = _read(skeleton, "the manifest's skeleton", len(skeleton))
    manifest = _build(document, _Unknown() if digests is None else digests)
    if manifest.skeleton != skeleton:
        raise FormatError("the manifest's skeleton is not in canonical form.")
    if digests is not None and next(digests, None) is not None:
        raise FormatError("there are more digests than chunks.")
    return manifest


def _without_digests(data: bytes) -> tuple[bytes, list[Digests]]:
    """A manifest's text with the number of each list of digests in its place, and the lists.

    As strings they would take four times the text's room. No string of JSON can hold the mark: its quotes would be
    escaped. Whatever else stands in the text, the caller compares all of it with the canonical form.
    """
    if len(data) > caps.MAX_MANIFEST_BYTES or data.count(_DIGESTS) > caps.MAX_FILES:
        return data, []  # it is refused for its size
    lists: list[Digests] = []
    text = memoryview(data)
    parts: list[bytes | memoryview] = []
    position = 0
    while (found := data.find(_DIGESTS, position)) >= 0:
        begin = found + len(_DIGESTS) - 2
        end = data.find(b'"]', begin) + 2
        if end < 2:
            break
        parts += [text[position:begin], b"%d" % len(lists)]
        lists.append(Digests.read(text[begin + 1 : end - 1]))
        position = end
    return b"".join([*parts, text[position:]]), lists


def _read(data: bytes, what: str, size: int) -> Any:
    """The JSON of a document that had `size` bytes."""
    if size > caps.MAX_MANIFEST_BYTES:
        raise FormatError(f"{what} has {size} bytes; the limit is {caps.MAX_MANIFEST_BYTES}.")
    canonical.check_structure(data, what=what, lists=_MAX_LISTS, items=_MAX_ITEMS)
    return canonical.decode(data, what=what, limit=caps.MAX_MANIFEST_BYTES)


def _json(value: Any) -> bytes:
    return canonical.encode(value)


class _Unknown:
    """Digests of zeros, as many as there are chunks."""


_Given = Iterator[str] | list[Digests] | _Unknown
"""Where digests come from: one by one, or lists by number as they were in the text, or nowhere yet."""


def _build(document: Any, digests: _Given) -> Manifest:
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


def _build_entry(document: Any, digests: _Given) -> Entry:
    match document:
        case {"path": str(path), "link": str(target)} if len(document) == 2:
            return Link(path, target)
        case {"path": str(path), "directory": True} if len(document) == 2:
            return EmptyDirectory(path)
        case {"path": str(path), "mode": int(mode), "sizes": list(sizes), "digests": known} if (
            isinstance(digests, list) and len(document) == 4
        ):
            if type(known) is int and 0 <= known < len(digests) and len(digests[known]) == len(sizes):
                return RegularFile(path, mode, _shared(sizes), digests[known])
            if known == [] and not sizes:
                return RegularFile(path, mode, (), ())
        case {"path": str(path), "mode": int(mode), "sizes": list(sizes)} if (
            not isinstance(digests, list) and len(document) == 3
        ):
            if isinstance(digests, _Unknown):
                return RegularFile(path, mode, _shared(sizes), Digests.unknown(len(sizes)))
            return RegularFile(path, mode, _shared(sizes), Digests.of(islice(digests, len(sizes))))
    raise FormatError("the manifest has an entry that is neither file, link nor empty directory.")


def _shared(sizes: list[Any]) -> tuple[Any, ...]:
    """Sizes, each number once in memory: most chunks of a tensor have the same."""
    known: dict[Any, Any] = {}
    try:
        return tuple(known.setdefault((type(size), size), size) for size in sizes)
    except TypeError:  # lists and objects, which the file refuses
        return tuple(sizes)


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
