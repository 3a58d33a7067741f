"""What both sides of the rANS encodings compute alike from a segment: predictions and contexts. No I/O here.

A block is a run of a segment's elements; all functions give the same for a segment as for its blocks in turn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import adapted, numerals
from modelsync_protocol.codecs.numerals import Unsigned
from modelsync_protocol.codecs.segments import Coded, Factors, Mode, Predictor
from modelsync_protocol.codecs.tables import MAX_CONTEXTS
from modelsync_protocol.errors import FormatError


def modelled(
    segment: Coded, base: Unsigned | None, begin: int, count: int
) -> tuple[Unsigned | None, NDArray[np.uint8]]:
    """Prediction (None without a base) and contexts of the block of `count` elements that begins at `begin`."""
    if segment.adapted is not None and base is not None and not segment.numeral.mantissa:
        return adapted.predicted_bytes(segment.adapted, segment.numeral, scaled_bytes(segment, base, begin), begin)
    if segment.adapted is not None and base is not None:
        prediction, phases = adapted.predicted(segment.adapted, segment.numeral, base, begin)
        return prediction, adapted.contexts(segment.numeral, segment.level, prediction, phases)
    guess = None if base is None else predicted(segment, base, begin)
    level, quiet = levels(segment, begin, count)
    return guess, contexts(segment, level, quiet, guess)


def scaled_bytes(segment: Coded, base: Unsigned, begin: int) -> NDArray[np.int64]:
    """8-bit integers through a segment's factors, if it has any, times 2^16 and not rounded."""
    values = (base.view(np.int8) if segment.numeral.signed else base).astype(np.int64)
    if segment.factors is None:
        return values << np.int64(16)
    place = _indices(segment, segment.factors.predictor, begin, len(base))
    slopes, shifts = integer_map(segment.factors)
    result: NDArray[np.int64] = values * slopes[place] + shifts[place]
    return result


def predicted(segment: Coded, base: Unsigned, begin: int) -> Unsigned:
    """The prediction for the block that begins at element `begin`, from the same block of the base."""
    factors = segment.factors
    if factors is None:
        return base
    place = _indices(segment, factors.predictor, begin, len(base))
    if segment.numeral.mantissa:
        exact = factors.values.astype(np.float64) * 2.0**-factors.precision
        return numerals.scaled(segment.numeral, base, exact[place])
    slopes, shifts = integer_map(factors)
    return numerals.mapped(segment.numeral, base, slopes[place], shifts[place])


def integer_map(factors: Factors) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Slopes and shifts of 8-bit integers as 16-bit fixed point; FormatError if out of bounds."""
    if factors.shifts is None or factors.precision > 16 or factors.shift_precision > 16:
        raise FormatError("a segment's integer factors are malformed.")
    slopes = factors.values.astype(np.int64) << np.int64(16 - factors.precision)
    shifts = factors.shifts.astype(np.int64) << np.int64(16 - factors.shift_precision)
    if int(np.abs(slopes).max()) > numerals.MAX_SLOPE or int(np.abs(shifts).max()) > numerals.MAX_SHIFT:
        raise FormatError("a segment's integer factors are out of bounds.")
    return slopes.astype(np.int32), shifts.astype(np.int32)


def levels(segment: Coded, begin: int, count: int) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None]:
    """Level of each element of a block in half octaves, and where rows say that everything is as predicted."""
    result = np.full(count, segment.level, np.int32)
    quiet = None
    if segment.rows is not None:
        rows = segment.rows[_indices(segment, Predictor.ROW, begin, count)]
        quiet = rows == 0
        result += rows
    if segment.offsets is not None:
        result += segment.offsets[_indices(segment, Predictor.COLUMN, begin, count)]
    return result, quiet


def contexts(
    segment: Coded, level: NDArray[np.int32], quiet: NDArray[np.bool_] | None, prediction: Unsigned | None
) -> NDArray[np.uint8]:
    """Context (0 to 119) of each element of a block; `prediction` of floats in Mode.DELTA."""
    if segment.mode is Mode.VALUE and segment.numeral.mantissa:
        result = (level & np.int32(1)) + np.int32(1)
    else:
        result = level
        if prediction is not None and segment.numeral.mantissa:
            result = level - 2 * numerals.exponents(segment.numeral, prediction).astype(np.int32)
        result = np.clip(result, 1, MAX_CONTEXTS - 1)
    if quiet is not None:
        result[quiet] = 0
    return result.astype(np.uint8)


def _indices(segment: Coded, along: Predictor, begin: int, count: int) -> NDArray[np.int32]:
    """Which row (or column, counted from the first element's) each element of a block belongs to."""
    if along is Predictor.GLOBAL:
        return np.zeros(count, np.int32)
    first, columns = segment.column, segment.columns
    if along is Predictor.COLUMN:
        if columns >= segment.count:
            return np.arange(begin, begin + count, dtype=np.int32)
        return np.arange(begin, begin + count, dtype=np.int32) % np.int32(columns)
    row, column = divmod(first + begin, columns)
    if column + count <= columns:
        return np.full(count, row, np.int32)
    if columns > count:  # two rows, of which column and width may be beyond 32 bits
        result = np.full(count, row, np.int32)
        result[columns - column :] += np.int32(1)
        return result
    result = np.arange(column, column + count, dtype=np.int32) // np.int32(columns)
    result += np.int32(row)
    return result
