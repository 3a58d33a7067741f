"""Cuts tensors into the pieces that are fitted, each inside one changed run of the target. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from modelsync_server.tensors.pairs import Tensor
from modelsync_server.tensors.pieces import Piece

_MAX_ELEMENTS = 1 << 20
"""Elements of one piece: bounds the encoder's memory to about 200 MiB a thread."""

_MIN_ELEMENTS = 16
"""Fewer are not worth a segment."""


def pieces(tensors: Sequence[Tensor], pairs: Mapping[int, Tensor], spans: Sequence[tuple[int, int]]) -> list[Piece]:
    """Pieces of `tensors` inside `spans` (begin, end) of the target's stream; both ascend.

    `pairs` gives the base's counterpart of a tensor by the tensor's offset.
    """
    result: list[Piece] = []
    current = 0
    for tensor in tensors:
        while current < len(spans) and spans[current][1] <= tensor.offset:
            current += 1
        for begin, end in spans[current:]:
            if begin >= tensor.offset + tensor.length:
                break
            result += _cut(tensor, pairs.get(tensor.offset), begin, end)
    return result


def _cut(tensor: Tensor, match: Tensor | None, begin: int, end: int) -> list[Piece]:
    width = tensor.numeral.width
    first = max(0, -(-(begin - tensor.offset) // width))
    last = min(tensor.count, (end - tensor.offset) // width)
    shared = match.count if match is not None else 0
    widths = _widths(tensor)
    result = []
    while first < last:
        stop = min(last, (first // _MAX_ELEMENTS + 1) * _MAX_ELEMENTS)
        counterpart = None
        if match is not None and first < shared:
            stop = min(stop, shared)
            counterpart = match.offset + first * width
        if stop - first >= _MIN_ELEMENTS:
            offset = tensor.offset + first * width
            result.append(Piece(offset, stop - first, tensor.numeral, first, widths, counterpart))
        first = stop
    return result


def _widths(tensor: Tensor) -> tuple[int, ...]:
    """Row lengths worth trying: all axes but the first, the last axis, or one row for everything."""
    shape = [size for size in tensor.shape if size > 1]
    candidates = (prod(shape[1:]), shape[-1]) if len(shape) >= 2 else ()
    widths = [width for width in candidates if 1 < width < tensor.count and tensor.count % width == 0]
    return tuple(dict.fromkeys(widths)) or (tensor.count,)
