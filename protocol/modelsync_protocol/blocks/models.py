"""What both sides of encoding 9 compute alike: where an old weight falls between new quants, and contexts. No I/O here.

FORMAT.md §blocks. Everything is integers, in units of 2^-14 of a quant. A slab is a run's blocks but for the last a
multiple of GROUP sub-blocks; a run gives the same in slabs as at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.blocks.layouts import Layout, Scales

UNIT_BITS = 14
GROUP = 16
"""Sub-blocks that share a measure of how far scales moved."""

CLASSES = 5
"""Groups of tables that a run on a base has: by the magnitude of the old weight."""

_SLAB_ELEMENTS = 1 << 15
_MAX_RATIO = 1 << 20
_MAX_OFFSET = 1 << 26
_HALF = 1 << (UNIT_BITS - 1)
_CLASS_EDGES = np.array([1, 3, 7, 15], np.int32)
"""Of a sixteenth of half the range of quants."""

_FRACTION_EDGES = np.array([1, 256, 1024, 2048, 3072, 4096, 5120, 6144, 7168], np.int64)
_FRACTIONS = len(_FRACTION_EDGES) + 1
_MOVE_BITS = 6
_MOVE_EDGES = np.array([2, 4, 8, 12, 20, 32, 64, 128, 256, 512], np.int64)
"""Mean movement of scales, in 2^-6 quants at the end of the range."""

_LEVEL_EDGES = np.array([38, 45, 54, 64, 76, 91, 108], np.int64)
"""A scale by the mean of its group, in 2^-6."""

_PLACES = 15

_FRACTION_STEP = 8
_FRACTION_OF = np.searchsorted(_FRACTION_EDGES, np.arange(0, _HALF + 1, 1 << _FRACTION_STEP), side="right").astype(
    np.uint8
)


@dataclass(frozen=True, slots=True)
class Slab:
    """Per quant of some blocks (flat): context, which of the run's groups of tables, and what the symbol refers to."""

    contexts: NDArray[np.uint8]
    groups: NDArray[np.uint8]
    nearest: NDArray[np.uint8]
    """The code whose symbol is 0."""
    negative: NDArray[np.bool_]
    """Where the next likeliest code is the one below."""


def slabs(layout: Layout, blocks: int) -> Iterator[tuple[int, int]]:
    """(first, last) of the blocks of a run's slabs."""
    step = max(1, _SLAB_ELEMENTS // (GROUP * layout.elements // layout.sub_blocks)) * GROUP // layout.sub_blocks
    for first in range(0, blocks, step):
        yield first, min(first + step, blocks)


def table_groups(layout: Layout, based: bool) -> int:
    """How many groups of tables a run uses."""
    return CLASSES if based and layout.fields else 1


def on_base(layout: Layout, codes: NDArray[np.uint8], old: Scales, new: Scales) -> Slab:
    """Contexts of quants whose old ones are `codes` (blocks, elements), with the scales on both sides."""
    a_old, a_new = old[0].reshape(-1), new[0].reshape(-1)
    size = np.abs(a_new)
    ratio = _divided(a_old, a_new, _MAX_RATIO)
    offset = _divided(old[1].reshape(-1), a_new, _MAX_OFFSET)
    shift = _divided(new[1].reshape(-1), a_new, _MAX_OFFSET)
    moves = np.minimum(np.abs(np.abs(a_old) - size), size)
    mean = _group_means(moves)
    moved = (mean << np.int64(_MOVE_BITS + layout.bits - 1)) // np.maximum(size, np.int64(1))
    level = np.where(mean > 0, np.searchsorted(_MOVE_EDGES, moved, side="right") + 1, 0)
    per = layout.elements // layout.sub_blocks
    rows = codes.reshape(-1, per).astype(np.int32)
    rows -= np.int32(layout.zero)
    rows *= ratio[:, None]
    rows -= offset[:, None]
    weight = np.abs(rows) >> np.int32(UNIT_BITS + layout.bits - 5)
    groups = np.searchsorted(_CLASS_EDGES, weight, side="right").astype(np.uint8)
    rows += shift[:, None]
    nearest = (rows + np.int32(_HALF)) >> np.int32(UNIT_BITS)
    np.clip(nearest, -layout.zero, (1 << layout.bits) - 1 - layout.zero, out=nearest)
    rows -= nearest << np.int32(UNIT_BITS)
    negative = rows < 0
    distance = np.minimum(np.abs(rows, out=rows), np.int32(_HALF), out=rows)
    fraction = _FRACTION_OF[distance >> np.int32(_FRACTION_STEP)]
    fraction += (distance > 0) & (fraction == 0)
    # To and fro, so that neighbouring contexts are alike.
    odd = (level & 1).astype(bool)[:, None]
    contexts = np.where(odd, np.uint8(_FRACTIONS - 1) - fraction, fraction)
    contexts += (level * _FRACTIONS).astype(np.uint8)[:, None]
    nearest += np.int32(layout.zero)
    return Slab(contexts.reshape(-1), groups.reshape(-1), nearest.astype(np.uint8).reshape(-1), negative.reshape(-1))


def alone(layout: Layout, new: Scales) -> Slab:
    """Contexts of quants without old ones."""
    a, b = new[0].reshape(-1), new[1].reshape(-1)
    size = np.abs(a)
    mean = np.maximum(_group_means(size), np.int64(1))
    level = np.searchsorted(_LEVEL_EDGES, (size << np.int64(6)) // mean, side="right")
    if layout.affine:
        place = (_divided(b, a, _MAX_OFFSET).astype(np.int64) * np.int64(_PLACES)) >> np.int64(UNIT_BITS + layout.bits)
        place = np.clip(place, 0, _PLACES - 1)
    else:
        place = (a < 0).astype(np.int64)
    contexts = np.repeat((level * _PLACES + place).astype(np.uint8), layout.elements // layout.sub_blocks)
    zero = np.zeros(len(contexts), np.uint8)
    return Slab(contexts, zero, zero, np.zeros(len(contexts), bool))


def beside(codes: NDArray[np.uint8]) -> Slab:
    """Contexts of quants whose scales are not known: the old quant itself."""
    flat = codes.reshape(-1)
    return Slab(flat, np.zeros(len(flat), np.uint8), flat, np.zeros(len(flat), bool))


def plain(count: int) -> Slab:
    """The one context of quants of which nothing is known."""
    zero = np.zeros(count, np.uint8)
    return Slab(zero, zero, zero, np.zeros(count, bool))


def unfolded(layout: Layout, slab: Slab, symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes (blocks, elements) from symbols: 0, then towards the old weight, away from it, and so on by turns."""
    odd = symbols & np.uint8(1)
    step = (symbols >> np.uint8(1)) + odd
    away = (odd == 0) ^ slab.negative
    codes = np.where(away, slab.nearest - step, slab.nearest + step)
    codes &= np.uint8((1 << layout.bits) - 1)
    return codes.reshape(-1, layout.elements)


def folded(layout: Layout, slab: Slab, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo `unfolded`."""
    levels = 1 << layout.bits
    apart = codes.reshape(-1).astype(np.int16) - slab.nearest
    apart = np.where(slab.negative, -apart, apart)
    apart = ((apart + levels // 2 - 1) & (levels - 1)) - (levels // 2 - 1)
    return np.where(apart > 0, 2 * apart - 1, -2 * apart).astype(np.uint8)


def _divided(above: NDArray[np.int64], below: NDArray[np.int64], limit: int) -> NDArray[np.int32]:
    """above / below, rounded (half away from zero), in units of 2^-14, at most `limit` in magnitude; 0 by zero."""
    size = np.abs(below)
    result = ((np.abs(above) << np.int64(UNIT_BITS)) + (size >> np.int64(1))) // np.maximum(size, np.int64(1))
    np.minimum(result, np.int64(limit), out=result)
    result[size == 0] = 0
    return np.where((above < 0) ^ (below < 0), -result, result).astype(np.int32)


def _group_means(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The mean, rounded down, over each value's group of GROUP."""
    starts = np.arange(0, len(values), GROUP)
    sizes = np.diff(np.append(starts, len(values)))
    result: NDArray[np.int64] = np.repeat(np.add.reduceat(values, starts) // sizes, sizes)
    return result
