"""Scales of block-quantised tensors as tensors of their own, behind the stream's end, fitted like any other.

Field f of a tensor stands there contiguous, so that what knows floats sees rows of scales: their offsets are those of
a stream that goes on after its last byte with the planes of its tensors. No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs.numerals import Unsigned
from modelsync_server.blocks.block_tensors import BlockTensor
from modelsync_server.encode.encoder import Source
from modelsync_server.encode.tensor_encoder import TensorJob
from modelsync_server.tensors import pairs
from modelsync_server.tensors.pieces import Piece

_SLAB_BLOCKS = 1 << 13


@dataclass(frozen=True, slots=True)
class _Plane:
    """One field of a tensor: where it begins behind the stream, and its bytes."""

    start: int
    values: NDArray[np.uint8]


class Planes:
    """The planes of some of a stream's tensors, extracted once; two bytes of each 18 for q4_0."""

    def __init__(self, stream: memoryview, tensors: Sequence[BlockTensor]) -> None:
        self._starts: dict[tuple[int, int], int] = {}
        self._planes: list[_Plane] = []
        self.first = end = len(stream)
        for tensor in tensors:
            for number, values in enumerate(_extracted(stream, tensor)):
                self._starts[tensor.offset, number] = end
                self._planes.append(_Plane(end, values))
                end += len(values)
        self._edges = [plane.start for plane in self._planes]

    def start(self, tensor: BlockTensor, field: int) -> int:
        """Where a field of a tensor begins."""
        return self._starts[tensor.offset, field]

    def bytes_at(self, offset: int, length: int) -> NDArray[np.uint8]:
        """`length` bytes of one plane."""
        plane = self._planes[int(np.searchsorted(self._edges, offset, side="right")) - 1]
        return plane.values[offset - plane.start : offset - plane.start + length]

    def as_tensors(self, tensor: BlockTensor) -> Iterator[pairs.Tensor]:
        """A tensor's fields as tensors, a row for a row of weights, or for a block where it has many values."""
        for number, field in enumerate(tensor.layout.fields):
            width = field.count if field.count > 1 else max(1, tensor.columns // tensor.layout.elements)
            count = tensor.count * field.count
            name = f"{tensor.name} {number}"
            yield pairs.Tensor(
                tensor.path, name, self.start(tensor, number), count, field.numeral, (count // width, width)
            )


def _extracted(stream: memoryview, tensor: BlockTensor) -> list[NDArray[np.uint8]]:
    layout = tensor.layout
    raw = np.frombuffer(stream, np.uint8, tensor.length, tensor.offset).reshape(-1, layout.bytes)
    found: list[list[NDArray[np.uint8]]] = [[] for _ in layout.fields]
    for begin in range(0, tensor.count, _SLAB_BLOCKS):
        for parts, plane in zip(found, layout.split(raw[begin : begin + _SLAB_BLOCKS])[0], strict=True):
            parts.append(np.ascontiguousarray(plane).reshape(-1))
    return [np.concatenate(parts) for parts in found]


def paired(
    old: Planes, new: Planes, tensors: Sequence[BlockTensor], matches: Mapping[int, BlockTensor]
) -> dict[int, pairs.Tensor]:
    """Offset of a new plane → the old plane that it continues."""
    result: dict[int, pairs.Tensor] = {}
    for tensor in tensors:
        match = matches.get(tensor.offset)
        if match is not None:
            for mine, theirs in zip(new.as_tensors(tensor), old.as_tensors(match), strict=True):
                result[mine.offset] = theirs
    return result


class BlockJob(TensorJob):
    """Fits pieces of streams that go on with planes."""

    def __init__(self, base: Source | None, target: Source, pool: Executor, old: Planes, new: Planes) -> None:
        super().__init__(base, target, pool)
        self._old, self._new = old, new

    def elements(self, piece: Piece) -> tuple[Unsigned, Unsigned | None]:
        """See TensorJob."""
        if piece.offset < self._new.first:
            return super().elements(piece)
        kind, length = piece.numeral, piece.count * piece.numeral.width
        new = self._new.bytes_at(piece.offset, length).view(kind.unsigned_dtype)
        if piece.base_offset is None:
            return new, None
        return new, self._old.bytes_at(piece.base_offset, length).view(kind.unsigned_dtype)
