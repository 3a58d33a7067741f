"""Finds the block-quantised tensors of two streams and which of the old ones each new one continues. No I/O here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from modelsync_protocol import containers
from modelsync_protocol.blocks.layouts import BY_NAME, Layout
from modelsync_protocol.manifest import Manifest


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


def find(manifest: Manifest, stream: memoryview) -> list[BlockTensor]:
    """All of a stream, ascending and disjoint."""
    result = []
    for file, start in zip(manifest.files, manifest.file_offsets, strict=False):
        for tensor in containers.tensors(file.path, stream[start : start + file.size]):
            layout = BY_NAME.get(tensor.dtype or "")
            if layout is not None:
                columns = tensor.shape[-1] if tensor.shape else layout.elements
                count = tensor.length // layout.bytes
                result.append(BlockTensor(file.path, tensor.name, start + tensor.offset, count, layout, columns))
    return result


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
