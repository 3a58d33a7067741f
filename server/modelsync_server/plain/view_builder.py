"""Unpacks the compressed members of a base and a target into plain views that the encoders read like any source."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat
from math import prod
from pathlib import Path

from modelsync_protocol import caps, names
from modelsync_protocol.chunker import chunk_sizes
from modelsync_protocol.digests import Digests
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest, RegularFile
from modelsync_protocol.plain import recipes
from modelsync_protocol.plain.recipes import Recipe, Wrapping
from modelsync_protocol.plain.view import Member, View
from modelsync_server.encode.encoder import Source
from modelsync_server.plain import member_finder, recipe_finder
from modelsync_server.plain.member_finder import Found
from modelsync_server.scratch.mapped_file import mapped
from modelsync_server.scratch.places import temporary_folder

_TOP = "\U0010ffff"
"""Folder of the members in a view's manifest: it sorts behind all files, as members lie behind all rest."""

_REST = " rest"
_MAX_EXPANSION, _SPARE_BYTES = 64, 16 * caps.MIB
"""Members that would make a view this much larger than its stream are left packed."""

_SAMPLES = 8
"""If so many of a file's largest members have no recipe, the others are not tried."""


@dataclass(frozen=True, slots=True)
class Viewed:
    """A view, and itself as a source: its manifest names each member after what it holds."""

    view: View
    source: Source


def shown_path(path: str) -> str:
    """A path of a view's manifest as people are told it: `weights.npz!/layer.npy`."""
    return path.removeprefix(f"{_TOP}/").removesuffix(_REST)


@dataclass(frozen=True, slots=True)
class _Part:
    """A member of the stream with its place in the scratch file of plain bytes."""

    path: str
    found: Found
    offset: int
    """Of the packed bytes in the stream."""
    digest: bytes
    """Of the packed bytes."""
    place: int = 0


@contextmanager
def viewed(
    base: Source | None, target: Source, pool: Executor, least: int = 0
) -> Iterator[tuple[Viewed | None, Viewed] | None]:
    """Yield the plain views of a base (None: of none) and a target, or None if that would change nothing.

    Members that both have, packed the same, stay packed, and files that both have are not looked into. `least`: bytes
    that must be compressed in either, or it would change too little. The views lie in temporary files, valid in the
    context.
    """
    both_files = _contents(target) & _contents(base) if base is not None else frozenset[Digests]()
    ours = list(_parts(target, both_files))
    theirs = [] if base is None else list(_parts(base, both_files))
    if max(map(_compressed, (ours, theirs))) < least:
        yield None
        return
    both = {part.digest for part in ours} & {part.digest for part in theirs}
    ours, theirs = ([part for part in parts if part.digest not in both] for parts in (ours, theirs))
    with ExitStack() as stack:
        after = stack.enter_context(_built(target, ours, pool, replayed=True)) if ours else None
        before = stack.enter_context(_built(base, theirs, pool, replayed=False)) if base and theirs else None
        if after is None and before is None:
            yield None
            return
        yield before, after or Viewed(View(target.manifest.size, ()), target)


@contextmanager
def rebuilt(source: Source, view: View) -> Iterator[Source | None]:
    """Yield the source that a published update's view of `source` was made as; None if its names are not known here.

    It lies in temporary files, valid in the context.
    """
    parts = list(_parts(source))
    starts = [part.offset for part in parts]
    pairs = []
    for member in view.members:
        at = bisect_right(starts, member.offset) - 1
        if at >= 0 and member.offset + member.packed <= parts[at].offset + parts[at].found.packed:
            pairs.append((parts[at], member))
    named = _named(pairs)
    if tuple(member for _, _, member in named) != view.members:  # made by another version's rules
        yield None
        return
    with temporary_folder("modelsync-plain-") as scratch:
        flat = scratch / "view"
        with flat.open("wb") as out:
            for piece in view.pieces(0, view.rest_bytes):
                out.write(source.stream[piece.offset : piece.offset + piece.length])
            for member in view.members:
                packed = source.stream[member.offset : member.offset + member.packed]
                for block in recipes.unpack(member.recipe, recipes.blocks(packed), member.plain):
                    out.write(block)
        with mapped(flat) as stream:
            yield Source(_manifest(source, view, named, stream), stream)


def _contents(source: Source) -> frozenset[Digests]:
    """The content of each file, by its chunks."""
    return frozenset(Digests.of(file.digests) for file in source.manifest.files)


def _compressed(parts: Sequence[_Part]) -> int:
    """Bytes that are compressed."""
    return sum(part.found.packed for part in parts if part.found.wrapping != Wrapping.STORED)


def _parts(source: Source, left: Set[Digests] = frozenset()) -> Iterator[_Part]:
    """The members of all files but those `left`, in the stream's order, as long as they don't unpack to too much."""
    room = _MAX_EXPANSION * source.manifest.size + _SPARE_BYTES
    count = 0
    for file, start in zip(source.manifest.files, source.manifest.file_offsets, strict=False):
        end = start
        if file.digests in left:
            continue
        for item in sorted(
            member_finder.members(file.path, source.stream[start : start + file.size]), key=lambda f: f.offset
        ):
            begin = start + item.offset
            count += 1
            if begin < end or begin + item.packed > start + file.size or item.plain > room or count > caps.MAX_MEMBERS:
                continue
            end = begin + item.packed
            room -= item.plain
            yield _Part(file.path, item, begin, hashlib.sha256(source.stream[begin:end]).digest())


@contextmanager
def _built(source: Source, parts: Sequence[_Part], pool: Executor, *, replayed: bool) -> Iterator[Viewed | None]:
    """Yield the view with those of the parts that unpack, and (`replayed`) that a recipe gives again; None if none."""
    with temporary_folder("modelsync-plain-") as scratch:
        heap = scratch / "heap"
        unpacked = _unpack(source, parts, heap)
        with mapped(heap) as plain:
            pairs = _replays(source, unpacked, plain, pool) if replayed else [(p, _taken(p)) for p in unpacked]
            named = _named(pairs)
            flat = scratch / "view"
            if not named:
                yield None
                return
            view = View(source.manifest.size, [member for _, _, member in named])
            _lay_out(source, view, [part for _, part, _ in named], plain, flat)
        heap.unlink()
        with mapped(flat) as stream:
            try:
                manifest = _manifest(source, view, named, stream)
            except FormatError:  # a name that sorts elsewhere: too odd to be worth a view
                yield None
                return
            yield Viewed(view, Source(manifest, stream))


def _unpack(source: Source, parts: Sequence[_Part], heap: Path) -> list[_Part]:
    """Write the plain bytes of all parts one after the other; return those that unpack."""
    kept = []
    with heap.open("wb") as out:
        for part in parts:
            begin = out.tell()
            member = _taken(part)
            packed = source.stream[part.offset : part.offset + part.found.packed]
            try:
                for piece in recipes.unpack(member.recipe, recipes.blocks(packed), member.plain):
                    out.write(piece)
            except FormatError:
                out.seek(begin)
                out.truncate()
                continue
            kept.append(_Part(part.path, part.found, part.offset, part.digest, begin))
    return kept


def _taken(part: _Part) -> Member:
    """The member as a base's view lists it: whichever recipe made it, unpacking needs no more than this."""
    item = part.found
    return Member(part.offset, item.packed, item.plain, Recipe(item.wrapping, shuffle=item.shuffle))


def _replays(source: Source, parts: Sequence[_Part], plain: memoryview, pool: Executor) -> list[tuple[_Part, Member]]:
    """The parts for which a recipe was found, with the members that these make."""
    by_file: dict[str, list[_Part]] = {}
    for part in parts:
        by_file.setdefault(part.path, []).append(part)

    def search_one(part: _Part, hint: Recipe | None) -> recipe_finder.Replay | None:
        packed = source.stream[part.offset : part.offset + part.found.packed]
        whole = plain[part.place : part.place + part.found.plain]
        return recipe_finder.replay(packed, whole, part.found.wrapping, part.found.shuffle, hint)

    pairs: list[tuple[_Part, Member]] = []
    for alike in by_file.values():
        alike.sort(key=lambda part: -part.found.packed)
        packed = [part for part in alike if part.found.wrapping != Wrapping.STORED]
        samples = [search_one(part, None) for part in packed[:_SAMPLES]]
        hint = next((sample.recipe for sample in samples if sample is not None), None)
        if packed and hint is None:
            continue
        results = pool.map(search_one, alike, repeat(hint))
        for part, result in zip(alike, results, strict=True):
            if result is not None:
                member = Member(part.offset + result.skip, result.packed, part.found.plain, result.recipe)
                pairs.append((part, member))
    return pairs


def _named(pairs: Sequence[tuple[_Part, Member]]) -> list[tuple[str, _Part, Member]]:
    """Give each member its path in the view's manifest, and sort them by it: that is the view's order."""
    alike: dict[tuple[str, str], list[tuple[_Part, Member]]] = {}
    for part, member in sorted(pairs, key=lambda pair: pair[0].offset):
        alike.setdefault((part.path, part.found.name), []).append((part, member))
    result: list[tuple[str, _Part, Member]] = []
    for number, ((path, name), group) in enumerate(alike.items()):
        item = group[0][0].found
        if item.dtype is not None and item.shape:
            rows = len(group) * prod(item.shape[:-1])
            name = f"{name}.{rows}x{item.shape[-1]}.{item.dtype}"
        place = f"{_TOP}/{path}!/{name}"
        try:
            names.check_relative_path(place)
        except FormatError:
            place = f"{_TOP}/~{number}/{path.rpartition('/')[2]}"
        # Entries of a zip file may share a name; chunks of one dataset mean to.
        singles = [[pair] for pair in group] if item.shape is None else [group]
        for copy, members in enumerate(singles):
            result += [(place if copy == 0 else f"{place}~{copy}", *pair) for pair in members]
    return sorted(result, key=lambda entry: (entry[0].encode(), entry[2].offset))


def _lay_out(source: Source, view: View, parts: Sequence[_Part], plain: memoryview, flat: Path) -> None:
    with flat.open("wb") as out:
        for piece in view.pieces(0, view.rest_bytes):
            out.write(source.stream[piece.offset : piece.offset + piece.length])
        for part in parts:
            out.write(plain[part.place : part.place + part.found.plain])
        out.flush()
        assert os.fstat(out.fileno()).st_size == view.size


def _manifest(source: Source, view: View, named: Sequence[tuple[str, _Part, Member]], stream: memoryview) -> Manifest:
    """The view's manifest: each file's rest, then a file for each name."""
    taken: dict[str, int] = {}
    for _, part, member in named:
        taken[part.path] = taken.get(part.path, 0) + member.packed
    files: list[RegularFile] = []
    position = 0
    for file in source.manifest.files:
        if file.path not in taken:
            files.append(file)
            position += file.size
        elif file.size > taken[file.path]:
            size = file.size - taken[file.path]
            files.append(_cut(file.path + _REST, stream[position : position + size]))
            position += size
    sizes: dict[str, int] = {}
    for path, _, member in named:
        sizes[path] = sizes.get(path, 0) + member.plain
    for path, size in sizes.items():
        files.append(_cut(path, stream[position : position + size]))
        position += size
    return Manifest(tuple(files))


def _cut(path: str, data: memoryview) -> RegularFile:
    sizes = chunk_sizes(path, data)
    digests = []
    position = 0
    for size in sizes:
        digests.append(hashlib.sha256(data[position : position + size]).hexdigest())
        position += size
    return RegularFile(path, 0o644, sizes, tuple(digests))
