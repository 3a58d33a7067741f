"""A part of a piece on which ways to carry it are compared: some of its rows and columns, as a smaller matrix.

A choice between ways needs their relation, not every element; what is chosen is then made for the whole piece.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs.numerals import Unsigned
from modelsync_protocol.codecs.segments import Coded, Factors, Predictor
from modelsync_server.tensors.pieces import Piece

_ROWS, _COLUMNS = 192, 512
"""Rows and columns of a sample: enough of both that a level's mean over them is the whole's to a few per cent."""

_WORTH = 4
"""A piece must have so many times its sample's elements; smaller ones are looked at whole."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Elements of a piece: `rows` are the whole rows' numbers, of `width` elements after `lead`, of each `columns`."""

    piece: Piece
    width: int
    lead: int
    """Elements before the piece's first whole row."""
    rows: NDArray[np.int64]
    first_column: int
    columns: int

    @classmethod
    def of(cls, piece: Piece) -> Sample | None:
        """The sample of a piece; None if looking at all of it costs hardly more. It depends on the piece alone."""
        widths = [width for width in piece.widths if width < piece.count] or [_COLUMNS]
        width, narrow = widths[0], widths[-1]
        if narrow < width and narrow > _COLUMNS // 2:
            return None  # a stretch of so few rows would not tell the layouts apart
        columns = min(width, _COLUMNS // narrow * narrow if narrow < width else _COLUMNS)
        lead = -piece.first % width
        whole = (piece.count - lead) // width
        count = min(whole, _ROWS * _COLUMNS // columns)
        if count < 2 or count * columns * _WORTH > piece.count:
            return None
        rows = np.arange(count, dtype=np.int64) * whole // count
        begin = (width - columns) // 2
        return cls(piece, width, lead, rows, begin - begin % narrow if narrow < width else begin, columns)

    @property
    def widths(self) -> list[tuple[int, int]]:
        """Row lengths of the piece that are told apart, each with what it is in the sample."""
        shaped = [width for width in self.piece.widths if width < self.piece.count]
        if not shaped:
            return [(self.piece.widths[0], len(self.rows) * self.columns)]
        return [(width, min(width, self.columns)) for width in shaped]

    @property
    def small(self) -> Piece:
        """The sample as a piece of its own."""
        count = len(self.rows) * self.columns
        return replace(self.piece, count=count, first=0, widths=tuple(width for _, width in self.widths))

    @property
    def scale(self) -> float:
        """How many times its elements the piece has."""
        return self.piece.count / (len(self.rows) * self.columns)

    def take(self, values: Unsigned) -> Unsigned:
        """The sample of one value for each element of the piece."""
        whole = (len(values) - self.lead) // self.width
        matrix = values[self.lead : self.lead + whole * self.width].reshape(whole, self.width)
        taken: Unsigned = matrix[self.rows, self.first_column : self.first_column + self.columns].reshape(-1)
        return taken

    def part(self, segment: Coded) -> Coded:
        """What a segment for the whole piece says of the sample; its base offset is 0, if it has one."""
        at = self.lead + self.rows * self.width + self.first_column
        width = segment.columns
        inner = width if width < self.columns else self.columns
        # A narrower layout's rows follow each other inside each of the sample's.
        steps = np.arange(0, self.columns, inner, dtype=np.int64)
        rows = ((segment.column + at[:, None] + steps) // width).reshape(-1)
        columns = (int(at[0]) + np.arange(inner)) % width
        factors = segment.factors
        if factors is not None and factors.predictor is not Predictor.GLOBAL:
            chosen = rows if factors.predictor is Predictor.ROW else columns
            shifts = None if factors.shifts is None else factors.shifts[chosen]
            factors = Factors(
                factors.predictor, factors.precision, factors.values[chosen], factors.shift_precision, shifts
            )
        return replace(
            segment,
            count=len(self.rows) * self.columns,
            base_offset=None if segment.base_offset is None else 0,
            columns=inner,
            column=0,
            rows=None if segment.rows is None else segment.rows[rows],
            offsets=None if segment.offsets is None else segment.offsets[columns],
            factors=factors,
        )
