"""Finds the block-quantised tensors of two streams and which of the old ones each new one continues. No I/O here."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from modelsync_protocol import containers
from modelsync_protocol.blocks.layouts import BY_NAME, Layout
from modelsync_protocol.manifest import Manifest
from modelsync_server.tensors.pairs import Spans, touched


@dataclass(frozen=True, slots=True)
class BlockTensor:
    """`count` blocks from byte `offset` of the stream on; `path` is its file's, `columns` the elements of a row."""

    path: str
    name: str
    offset: int
    count: int
    layout: Layout
    columns: int

    @property
    def length(self) -> int:
        """Bytes."""
        return self.count * self.layout.bytes

    @property
    def end(self) -> int:
        """Where it ends in the stream, bytes."""
        return self.offset + self.length

    def inside(self, begin: int, end: int) -> tuple[int, int]:
        """(first, last) of its blocks that lie whole in bytes [begin, end) of the stream; first ≥ last if none does."""
        size = self.layout.bytes
        return max(0, -(-(begin - self.offset) // size)), min(self.count, (end - self.offset) // size)


def find(manifest: Manifest, stream: memoryview, within: Spans | None = None) -> list[BlockTensor]:
    """All of a stream, ascending and disjoint; those in files beside an ONNX model too. `within` spans: of the files
    that they touch, and of those that say what lies in others."""
    found: list[BlockTensor] = []
    offsets = manifest.file_offsets
    places: dict[str, int] = {}
    only = None if within is None else frozenset(touched(manifest, within))
    for number, file in enumerate(manifest.files):
        names_others = containers.names_others(file.path)
        if only is not None and number not in only and not names_others:
            continue
        start, data = offsets[number], stream[offsets[number] : offsets[number + 1]]
        packed = containers.nibbles(file.path, data)
        for tensor in containers.tensors(file.path, data):
            dtype = "u4" if tensor.dtype == "u8" and tensor.name in packed else tensor.dtype
            found += _known(file.path, tensor.name, start + tensor.offset, tensor.length, dtype, tensor.shape)
        if not names_others:
            continue
        places = places or {file.path: place for place, file in enumerate(manifest.files)}
        for outside in containers.external_tensors(file.path, data):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(file.path), outside.location))
            dtype = "u4" if outside.dtype == "u8" and outside.name in packed else outside.dtype
            length, place = outside.length or 0, places.get(path)
            if place is not None and outside.offset + length <= offsets[place + 1] - offsets[place]:
                found += _known(path, outside.name, offsets[place] + outside.offset, length, dtype, outside.shape)
    found.sort(key=lambda tensor: (tensor.offset, tensor.length))
    result: list[BlockTensor] = []
    for candidate in found:
        if candidate.count and (not result or candidate.offset >= result[-1].end):
            result.append(candidate)
    return result


def _known(
    path: str, name: str, offset: int, length: int, dtype: str | None, shape: tuple[int, ...]
) -> Iterator[BlockTensor]:
    layout = BY_NAME.get(dtype or "")
    if layout is not None:
        columns = shape[-1] if shape else layout.elements
        yield BlockTensor(path, name, offset, length // layout.bytes, layout, columns)


def pair(old: Sequence[BlockTensor], new: Sequence[BlockTensor]) -> dict[int, BlockTensor]:
    """Offset of a new tensor → the old one that it continues: by path and name; by name; by order among equals."""
    result: dict[int, BlockTensor] = {}
    keys = (
        lambda t: (t.path, t.name, t.layout.code, t.columns),
        lambda t: (t.name, t.layout.code, t.columns),
        lambda t: (t.name, t.layout.code),
    )
    for key in keys:
        known: dict[Hashable, BlockTensor] = {key(tensor): tensor for tensor in reversed(old)}
        for tensor in new:
            match = known.get(key(tensor))
            if tensor.offset not in result and tensor.name and match is not None:
                result[tensor.offset] = match
    equals: defaultdict[Hashable, list[BlockTensor]] = defaultdict(list)
    for tensor in old:
        equals[tensor.layout.code, tensor.count].append(tensor)
    seen: Counter[Hashable] = Counter()
    for tensor in new:
        kind = tensor.layout.code, tensor.count
        if tensor.offset not in result and seen[kind] < len(equals[kind]):
            result[tensor.offset] = equals[kind][seen[kind]]
        seen[kind] += 1
    return result
