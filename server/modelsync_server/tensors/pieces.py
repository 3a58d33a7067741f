"""Runs of one tensor's elements that are fitted as one, and the parts of them that frames carry. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from modelsync_protocol.codecs import segments
from modelsync_protocol.codecs.numerals import Numeral, Unsigned
from modelsync_protocol.codecs.segments import Coded, Factors, Predictor

Chunk = tuple[int, int, str]
"""(stream offset, size, digest)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` elements from `offset` (bytes) of the target's stream on, and where their counterparts begin.

    `first` is the number of the first element in its tensor; `widths` are row lengths worth trying, in elements.
    """

    offset: int
    count: int
    numeral: Numeral
    first: int
    widths: tuple[int, ...]
    base_offset: int | None

    @property
    def end(self) -> int:
        """Where it ends in the target's stream, bytes."""
        return self.offset + self.count * self.numeral.width


def elements(stream: memoryview, offset: int, count: int, kind: Numeral) -> Unsigned:
    """`count` elements at `offset` of a stream, as bits (a view where possible)."""
    return np.frombuffer(stream, kind.unsigned_dtype, count, offset)


def part(whole: Coded, begin: int, count: int) -> Coded:
    """The segment for `count` elements from `begin` on, with the side data that it needs. Base offsets move along."""
    row, column = divmod(whole.column + begin, whole.columns)
    rows = segments.row_count(count, whole.columns, column)
    factors = whole.factors
    if factors is not None and factors.predictor is not Predictor.GLOBAL:
        if factors.predictor is Predictor.ROW:
            chosen = slice(row, row + rows)
            factors = _chosen(factors, np.arange(chosen.start, chosen.stop))
        else:
            factors = _chosen(factors, (begin + np.arange(min(count, whole.columns))) % len(factors.values))
    return replace(
        whole,
        count=count,
        base_offset=None if whole.base_offset is None else whole.base_offset + begin * whole.numeral.width,
        column=column,
        rows=None if whole.rows is None else whole.rows[row : row + rows],
        offsets=None
        if whole.offsets is None
        else whole.offsets[(begin + np.arange(min(count, whole.columns))) % len(whole.offsets)],
        factors=factors,
        adapted=None if whole.adapted is None else whole.adapted.at(begin),
    )


def _chosen(factors: Factors, indices: np.ndarray) -> Factors:
    return Factors(
        factors.predictor,
        factors.precision,
        factors.values[indices],
        factors.shift_precision,
        None if factors.shifts is None else factors.shifts[indices],
    )
