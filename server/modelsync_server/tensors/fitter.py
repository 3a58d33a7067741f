"""Chooses how a piece of a tensor is carried: against its counterpart or not, predictor, levels. No I/O here.

Choices are the encoder's own business: they change sizes, never what a decoder gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import models, numerals
from modelsync_protocol.codecs.numerals import Numeral, Unsigned
from modelsync_protocol.codecs.segments import Coded, Factors, Mode, Predictor
from modelsync_protocol.codecs.symbols import DELTA, VALUE_TOP_BITS
from modelsync_server.tensors import prediction, symbol_writer, table_builder
from modelsync_server.tensors.pieces import Piece
from modelsync_server.tensors.prediction import Layout
from modelsync_server.tensors.sample import Sample

_DELTA_LEVEL = 20
"""Context of differences of about one unit in the last place."""

_VALUE_HEADROOM = 6
"""Half octaves from a row's mean magnitude up to the largest value that has a symbol."""

_POWERS = (1.0, 0.5, 2.0)
"""Levels follow power means of sizes; which one fits depends on how heavy the tails are."""

_CELL_BITS = 4.0
_MIN_COLUMNS, _MAX_COLUMNS = 8, 1 << 14
_NEAR, _NEAR_SMALL, _SMALL_ELEMENTS, _MAX_OPTIONS = 1.02, 1.5, 1 << 13, 6
"""Which ways are worth a second look with real tables: estimates mislead most about small pieces."""

_MAX_MADE, _PREDICTABLE = 2, 0.998
"""Of ways that were compared on a sample: how many are made whole; factors must gain so much there to be tried."""

_FIRST = 1 << 12
"""So many elements mostly say already that no bit is zero in all."""

_LARGEST = 1e140
"""Sizes are taken as at most this, so that sums of their squares stay finite."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A segment for the whole piece (its group is not chosen yet) and what it costs, estimated, in bits."""

    segment: Coded
    side_bits: float
    bits: float


_Way = tuple[float, Callable[[], Fit]]
"""What a way costs, estimated, in bits; and what makes it of the whole piece, which is called if it is tried."""


def fits(piece: Piece, new: Unsigned, old: Unsigned | None, *, sample: Sample | None = None) -> list[Fit]:
    """Ways to carry a piece with elements `new`, counterpart `old`, the most promising first.

    With a sample of the piece the ways are compared on that, and only the best are made for all of it.
    """
    kind = piece.numeral
    layouts = [Layout(width, piece.first % width, piece.count) for width in piece.widths]
    options: list[_Way] = []
    if old is not None:
        layout, factors = _best_predictor(kind, new, old, layouts, sample)
        options += _levelled(piece, Mode.DELTA, new, old, layouts, layout, factors, sample)
    related = min((bits for bits, _ in options), default=float("inf"))
    if related > 0.3 * len(new) * 8 * kind.width:
        mode = Mode.VALUE if _has_values(kind) else Mode.DELTA
        options += _levelled(piece, mode, new, None, layouts, None, None, sample)
    options.sort(key=lambda option: option[0])
    near = options[0][0] * (_NEAR if len(new) > _SMALL_ELEMENTS else _NEAR_SMALL)
    return [make() for bits, make in options[:_MAX_OPTIONS] if bits <= near]


def _has_values(kind: Numeral) -> bool:
    return kind.mantissa > 0 or kind.width == 1


def _best_predictor(
    kind: Numeral, new: Unsigned, old: Unsigned, layouts: list[Layout], sample: Sample | None
) -> tuple[Layout | None, Factors | None]:
    if sample is not None and not _predictable(kind, sample.take(new), sample.take(old), sample):
        return None, None
    best: tuple[Layout | None, Factors | None] = (None, None)
    lowest = _rough_bits(kind, new, old)
    for layout, factors in prediction.candidates(kind, new, old, layouts):
        probe = Coded(Mode.DELTA, kind, 0, len(new), 0, layout.columns, layout.column, 0, factors=factors)
        bits = _rough_bits(kind, new, models.predicted(probe, old, 0)) + _factor_bits(factors)
        if bits < lowest * 0.999:
            lowest, best = bits, (layout, factors)
    return best


def _predictable(kind: Numeral, new: Unsigned, old: Unsigned, sample: Sample) -> bool:
    """Whether any factors gain something on a sample, what they cost themselves set aside."""
    lowest = _rough_bits(kind, new, old)
    layouts = [Layout(small, 0, len(new)) for _, small in sample.widths]
    for layout, factors in prediction.candidates(kind, new, old, layouts):
        probe = Coded(Mode.DELTA, kind, 0, len(new), 0, layout.columns, 0, 0, factors=factors)
        if _rough_bits(kind, new, models.predicted(probe, old, 0)) < lowest * _PREDICTABLE:
            return True
    return False


def _rough_bits(kind: Numeral, new: Unsigned, predicted: Unsigned) -> float:
    magnitude, _ = symbol_writer.differences(kind, new, predicted)
    return float(np.log2(magnitude.astype(np.float32) + np.float32(1)).sum(dtype=np.float64))


def _factor_bits(factors: Factors) -> float:
    bits = 40.0
    for values in (factors.values, factors.shifts):
        if values is not None and len(values) > 1:
            bits += len(values) * (np.log2(float(np.std(values)) + 1) + 2)
    return float(bits)


@dataclass(frozen=True, slots=True)
class _Levelling:
    """All that levels of one piece are made of, in one mode and by one predictor."""

    plain: Coded
    """The segment without levels."""
    size: NDArray[np.float64]
    guess: Unsigned | None
    drop: int

    def segments(self, layout: Layout, power: float) -> Iterator[tuple[Coded, float]]:
        """The piece with levels for all of it, per row, and per row and column, each with its side data's bits."""
        shaped = replace(self.plain, columns=layout.columns, column=layout.column)
        return _with_levels(shaped, self.size**power, layout, power)


def _levelling(
    piece: Piece, mode: Mode, new: Unsigned, old: Unsigned | None, flat: Layout, factors: Factors | None
) -> _Levelling:
    kind, plain = piece.numeral, _plain(piece, mode, old, flat, factors)
    guess = None if old is None else models.predicted(plain, old, 0)
    drop = _zero_bits(kind, mode, new)
    return _Levelling(replace(plain, drop=drop), _sizes(kind, mode, new, guess, drop), guess, drop)


def _plain(piece: Piece, mode: Mode, old: Unsigned | None, flat: Layout, factors: Factors | None) -> Coded:
    base = None if old is None else 0
    return Coded(mode, piece.numeral, 0, piece.count, base, flat.columns, flat.column, 0, factors=factors)


def _levelled(
    piece: Piece,
    mode: Mode,
    new: Unsigned,
    old: Unsigned | None,
    layouts: list[Layout],
    fixed: Layout | None,
    factors: Factors | None,
    sample: Sample | None,
) -> Iterator[_Way]:
    """The piece with levels for all of it, per row, and per row and column, each with its estimated cost."""
    flat = fixed or layouts[0]
    side = _factor_bits(factors) if factors else 0.0
    bound = fixed is not None and factors is not None and factors.predictor is not Predictor.GLOBAL
    if sample is None:
        made = _levelling(piece, mode, new, old, flat, factors)
        letters = symbol_writer.delta_symbols(piece.numeral, new, made.guess, made.drop) if mode is Mode.DELTA else None
        for layout, power in product([flat] if bound else layouts, _POWERS):
            for segment, side_bits in made.segments(layout, power):
                bits = side + side_bits + sum(_bits(segment, new, made.guess, letters))
                yield bits, partial(Fit, _placed(segment, piece, old), side + side_bits, bits)
        return
    whole = cache(partial(_levelling, piece, mode, new, old, flat, factors))
    ways = _estimated(piece, mode, new, old, flat if bound else None, _plain(piece, mode, old, flat, factors), sample)
    near = min(bits for bits, *_ in ways) * _NEAR

    def make(bits: float, layout: Layout, power: float, number: int) -> Fit:
        segment, side_bits = next(islice(whole().segments(layout, power), number, None))
        return Fit(_placed(segment, piece, old), side + side_bits, bits)

    for bits, width, power, number in sorted(ways)[:_MAX_MADE]:
        if bits <= near:
            layout = next(layout for layout in layouts if layout.columns == width)
            yield side + bits, partial(make, side + bits, layout, power, number)


def _placed(segment: Coded, piece: Piece, old: Unsigned | None) -> Coded:
    return replace(segment, base_offset=piece.base_offset if old is not None else None)


def _estimated(
    piece: Piece,
    mode: Mode,
    new: Unsigned,
    old: Unsigned | None,
    bound: Layout | None,
    plain: Coded,
    sample: Sample,
) -> list[tuple[float, int, float, int]]:
    """(bits, row length, power, which of `segments`) of each way to level the piece, told from its sample."""
    small, kind = sample.small, piece.numeral
    part = None if old is None else sample.take(old)
    taken = sample.take(new)
    known = sample.part(plain) if plain.factors is not None else None
    flat = Layout(known.columns if known else sample.widths[0][1], 0, small.count)
    made = _levelling(small, mode, taken, part, flat, known.factors if known else None)
    letters = symbol_writer.delta_symbols(kind, taken, made.guess, made.drop) if mode is Mode.DELTA else None
    found = []
    for (width, inner), power in product(sample.widths, _POWERS):
        if bound is not None and width != bound.columns:
            continue
        whole = Layout(width, piece.first % width, piece.count)
        for number, (segment, _) in enumerate(made.segments(Layout(inner, 0, small.count), power)):
            data, overfit = _bits(segment, taken, made.guess, letters)
            side = 16.0
            if segment.rows is not None:
                side += _side_bits(segment.rows) * whole.rows / len(segment.rows)
            if segment.offsets is not None:
                side += _side_bits(segment.offsets) * width / len(segment.offsets)
            found.append((data * sample.scale + overfit + side, width, power, number))
    return found


def _zero_bits(kind: Numeral, mode: Mode, new: Unsigned) -> int:
    """How many of the lowest bits are zero in all elements (float16 values stored as float32, say)."""
    if kind.width == 1:
        return 0
    used = int(np.bitwise_or.reduce(new[:_FIRST]))
    used |= 0 if used & 1 else int(np.bitwise_or.reduce(new))
    zeros = (used & -used).bit_length() - 1 if used else 0
    most = kind.mantissa - VALUE_TOP_BITS if mode is Mode.VALUE else 8 * kind.width - 2
    return min(zeros, most)


def _sizes(kind: Numeral, mode: Mode, new: Unsigned, guess: Unsigned | None, drop: int) -> NDArray[np.float64]:
    """Magnitudes that levels follow: differences or values, as floats; 0 for what is not finite."""
    if kind.mantissa:
        with np.errstate(invalid="ignore", over="ignore"):
            values = numerals.widened(kind, new)
            if mode is Mode.DELTA and guess is not None:
                values -= numerals.widened(kind, guess)
            np.abs(values, out=values)
            if values.max() <= _LARGEST:  # and nothing is NaN
                return values
        return np.where(np.isfinite(values), np.minimum(values, _LARGEST), 0.0)
    if mode is Mode.VALUE:
        values = (new.view(np.int8) if kind.signed else new).astype(np.float64)
        return np.abs(values - np.median(values))
    return symbol_writer.differences(kind, new, guess, drop)[0].astype(np.float64)


def _origin(kind: Numeral, mode: Mode, drop: int) -> int:
    """Half octaves to add to log2(size) · 2 for the level in a payload's units."""
    if not kind.mantissa:
        return _DELTA_LEVEL
    bias = kind.exponent_mask // 2
    return 2 * bias + _VALUE_HEADROOM if mode is Mode.VALUE else 2 * (bias + kind.mantissa - drop) + _DELTA_LEVEL


def _with_levels(
    plain: Coded, size: NDArray[np.float64], layout: Layout, power: float
) -> Iterator[tuple[Coded, float]]:
    origin = _origin(plain.numeral, plain.mode, plain.drop)
    mean = float(size.mean())
    level = _half_octaves(np.array([mean]), power)[0] if mean > 0 else 0
    yield replace(plain, level=int(level) + origin), 16.0
    if layout.rows < 2 and layout.columns > layout.count // 2:
        return
    if layout.rows > 1:
        row_mean = layout.sums(size, Predictor.ROW) / layout.counts(Predictor.ROW)
        row_level, rows = _as_bytes(row_mean, power)
        with_rows = replace(plain, level=row_level + origin, rows=rows)
        yield with_rows, 16.0 + _side_bits(rows)
        octaves = np.where(row_mean > 0, _half_octaves(row_mean, power), 0)
        size = layout.divided(size, np.exp2(octaves * (power / 2)))
    else:
        with_rows = replace(plain, level=origin)
    if _MIN_COLUMNS <= layout.columns <= _MAX_COLUMNS and layout.rows >= 4:
        column_mean = layout.sums(size, Predictor.COLUMN) / layout.counts(Predictor.COLUMN)
        column_level, columns = _as_bytes(np.maximum(column_mean, float(column_mean.max()) * 1e-6), power)
        if float(column_mean.max()) > 0:
            both = replace(with_rows, level=with_rows.level + column_level, offsets=columns)
            yield both, 16.0 + _side_bits(columns) + (_side_bits(rows) if layout.rows > 1 else 0)


def _half_octaves(mean: NDArray[np.float64], power: float) -> NDArray[np.int64]:
    octaves: NDArray[np.float64] = np.rint(2 / power * np.log2(np.maximum(mean, 1e-300)))
    return octaves.astype(np.int64)


def _as_bytes(mean: NDArray[np.float64], power: float) -> tuple[int, NDArray[np.uint8]]:
    """(level, one byte each) so that level + byte are half octaves; byte 0: the mean is zero."""
    active = mean > 0
    if not active.any():
        return 0, np.zeros(len(mean), np.uint8)
    octaves = _half_octaves(mean, power)
    lowest = max(int(octaves[active].min()), int(octaves[active].max()) - 250)
    return lowest - 1, np.where(active, np.clip(octaves - lowest + 1, 1, 255), 0).astype(np.uint8)


def _side_bits(values: NDArray[np.uint8]) -> float:
    counts = np.bincount(values, minlength=256)
    return table_builder.entropy_bits(counts[None]) + 3.0 * int((counts > 0).sum())


def _bits(
    segment: Coded, new: Unsigned, guess: Unsigned | None, letters: NDArray[np.uint8] | None
) -> tuple[float, float]:
    """What the elements cost, and what their tables would, in bits."""
    if letters is None:
        found = symbol_writer.symbols_of(segment, new, None)
    else:
        found = symbol_writer.Symbols(symbol_writer.contexts_of(segment, len(new), guess), letters, DELTA.raw)
    cells = symbol_writer.cells_of(found)
    # A table of its own would have to be paid for: small pieces must not look cheap by overfitting.
    overfit = _CELL_BITS * int((cells > 0).sum())
    return table_builder.entropy_bits(cells) + symbol_writer.raw_bits(cells, found.raw), overfit
