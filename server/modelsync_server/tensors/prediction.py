"""Fits predictors of a tensor's new elements from its old ones: factors, or fixed-point maps. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import Numeral, Unsigned
from modelsync_protocol.codecs.segments import Factors, Predictor

_MIN_ELEMENTS = 64
_MIN_PER_FACTOR = 6
_SLOPE_PRECISION, _SHIFT_PRECISION = 11, 4
_MAX_PRECISION = 30


@dataclass(frozen=True, slots=True)
class Layout:
    """Elements as a matrix: row length, the column of the first element, and how many there are."""

    columns: int
    column: int
    count: int

    @property
    def rows(self) -> int:
        """Rows touched."""
        return -(-(self.column + self.count) // self.columns)

    def sums(self, values: NDArray[np.float64], along: Predictor) -> NDArray[np.float64]:
        """Sum per row, or per column counted from the first element's, or of everything."""
        if along is Predictor.GLOBAL:
            return np.array([values.sum()])
        if along is Predictor.ROW:
            edges = np.arange(0, self.rows, dtype=np.int64) * self.columns - self.column
            by_row: NDArray[np.float64] = np.add.reduceat(values, np.maximum(edges, 0))
            return by_row
        width = min(self.columns, self.count)
        whole = self.count // width * width
        result: NDArray[np.float64] = values[:whole].reshape(-1, width).sum(0)
        result[: self.count - whole] += values[whole:]
        return result

    def counts(self, along: Predictor) -> NDArray[np.float64]:
        """How many elements each of those sums is of."""
        if along is Predictor.GLOBAL:
            return np.array([float(self.count)])
        if along is Predictor.ROW:
            edges = np.arange(self.rows + 1, dtype=np.int64) * self.columns - self.column
            return np.diff(np.clip(edges, 0, self.count)).astype(np.float64)
        width = min(self.columns, self.count)
        result = np.full(width, float(self.count // width))
        result[: self.count % width] += 1
        return result

    def divided(self, values: NDArray[np.float64], by_row: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values over their row's."""
        result = np.empty(self.count)
        lead = min(-self.column % self.columns, self.count)
        whole = (self.count - lead) // self.columns
        end, first = lead + whole * self.columns, int(lead > 0)
        np.divide(values[:lead], by_row[0], out=result[:lead])
        parts = (part[lead:end].reshape(whole, self.columns) for part in (values, result))
        np.divide(next(parts), by_row[first : first + whole, None], out=next(parts))
        np.divide(values[end:], by_row[-1], out=result[end:])
        return result

    def spread(self, values: NDArray[np.float64], along: Predictor) -> NDArray[np.float64]:
        """The inverse of `sums`: each element's row's or column's value."""
        if along is Predictor.GLOBAL:
            return np.broadcast_to(values, (self.count,))
        if along is Predictor.ROW:
            by_row: NDArray[np.float64] = values[(np.arange(self.count) + self.column) // self.columns]
            return by_row
        return np.resize(values, self.count)


def candidates(kind: Numeral, new: Unsigned, old: Unsigned, layouts: list[Layout]) -> Iterator[tuple[Layout, Factors]]:
    """Yield factors worth trying (identity excepted), each with the layout that it is for."""
    if len(new) < _MIN_ELEMENTS or (not kind.mantissa and kind.width > 1):
        return
    if kind.mantissa:
        with np.errstate(invalid="ignore"):
            x, y = numerals.widened(kind, old), numerals.widened(kind, new)
        usable = np.isfinite(x) & np.isfinite(y)
        x, y = np.where(usable, x, 0.0), np.where(usable, y, 0.0)
    else:
        x, y = (a.view(np.int8 if kind.signed else np.uint8).astype(np.float64) for a in (old, new))
    # Scaled so that squares neither overflow nor vanish.
    largest = max(float(np.abs(x).max()), float(np.abs(y).max()))
    if largest == 0:
        return
    if kind.mantissa:
        x, y = x / largest, y / largest
    for number, layout in enumerate(layouts):
        for along in (Predictor.GLOBAL, Predictor.ROW, Predictor.COLUMN):
            if along is Predictor.GLOBAL and number:
                continue
            sizes = layout.counts(along)
            if (len(sizes) < 2 and along is not Predictor.GLOBAL) or layout.count < _MIN_PER_FACTOR * len(sizes):
                continue
            fit = _factors if kind.mantissa else _maps
            yield layout, fit(layout, along, x, y, sizes)


def _factors(
    layout: Layout, along: Predictor, x: NDArray[np.float64], y: NDArray[np.float64], sizes: NDArray[np.float64]
) -> Factors:
    square = layout.sums(x * x, along)
    factor = np.where(square > 0, layout.sums(x * y, along) / np.where(square > 0, square, 1.0), 1.0)
    rest = y - x * layout.spread(factor, along)
    relative = np.sqrt(float((rest * rest).sum()) / max(float((x * x).sum()), 1e-300))
    precision = int(np.clip(np.ceil(-np.log2(max(relative, 1e-9))) + 3, 8, _MAX_PRECISION))
    room = _MAX_PRECISION - int(np.ceil(np.log2(max(float(np.abs(factor).max()), 1.0))))
    precision = max(0, min(precision, room))
    values = np.clip(np.rint(factor * 2.0**precision), -(2**31 - 1), 2**31 - 1).astype(np.int32)
    return Factors(along, precision, values)


def _maps(
    layout: Layout, along: Predictor, x: NDArray[np.float64], y: NDArray[np.float64], sizes: NDArray[np.float64]
) -> Factors:
    mean_x, mean_y = layout.sums(x, along) / sizes, layout.sums(y, along) / sizes
    dx, dy = x - layout.spread(mean_x, along), y - layout.spread(mean_y, along)
    square = layout.sums(dx * dx, along)
    slope = np.where(square > 1e-9, layout.sums(dx * dy, along) / np.where(square > 1e-9, square, 1.0), 0.0)
    limit = numerals.MAX_SLOPE >> (16 - _SLOPE_PRECISION)
    slopes = np.clip(np.rint(slope * 2.0**_SLOPE_PRECISION), -limit, limit)
    shift = mean_y - mean_x * slopes / 2.0**_SLOPE_PRECISION
    limit = numerals.MAX_SHIFT >> (16 - _SHIFT_PRECISION)
    shifts = np.clip(np.rint(shift * 2.0**_SHIFT_PRECISION), -limit, limit)
    return Factors(along, _SLOPE_PRECISION, slopes.astype(np.int32), _SHIFT_PRECISION, shifts.astype(np.int32))
