"""Finds changes of low rank in a pair of matrices, as an adapter merged into a model leaves them. No I/O here.

A merged adapter shows as a gap in the singular values of the difference. What the rounding of both matrices hides is
estimated by least squares in which each element counts as much as its unit in the last place is small; the rank's two
factors are then rounded to as many bits as pay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import adapted, models, numerals
from modelsync_protocol.codecs.adapted import MAX_FACTORS, Adapted, Merged, Product
from modelsync_protocol.codecs.numerals import Numeral
from modelsync_protocol.codecs.segments import Coded, Factors, Mode, Predictor
from modelsync_server.low_rank import large
from modelsync_server.tensors import fitter, pieces, prediction, symbol_writer, table_builder
from modelsync_server.tensors.pieces import Piece
from modelsync_server.tensors.prediction import Layout

_MIN_SIDE, _MAX_ELEMENTS = 32, 1 << 25
"""Sides of matrices that are looked at, and their size: 256 MiB as float64, of which three lie in scratch files."""

_MAX_SEEN_RANK, _SAMPLE_SIDE, _EXACT_SIDE, _OVERSAMPLING = 64, 256, 512, 8
_SEEN_GAP, _GAP, _ABOVE_NOISE = 1.2, 2.0, 1.15
"""A singular value so many times the next one: in a sample, where rounding drowns more, and in the whole; and so
many times the largest that rounding alone makes (Bandeira and van Handel 2016, theorem 1.1)."""

_SHARE = 8
"""Factors must be fewer than the matrix' elements by this."""

_SAMPLE_ELEMENTS = 1 << 15
_WORTH = 0.95
_MOST_BITS = 30
_ROUNDS, _ROUNDS_LARGE, _LARGE = 6, 2, 1 << 30
"""Of alternating least squares, and from which cost (elements · rank²) on there are fewer."""

_RESCALED = 0.002
"""Rows whose scale moved less than that, relatively, count as not rescaled."""

_LEVELS_TRIED = (-4, -6, -2, 0)
"""From the level at which a median element's unit is in the middle class; the first is right most often."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Change:
    """A product, the level its contexts begin at (FORMAT.md §6.2), and what 8-bit integers are scaled by first."""

    product: Product | Merged
    level: int
    factors: Factors | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two matrices of one shape and type as bits, and the difference as float64, of 8-bit integers after scaling."""

    kind: Numeral
    old: NDArray[np.unsignedinteger]
    new: NDArray[np.unsignedinteger]
    difference: Matrix
    units: Matrix
    """What each element was rounded to multiples of: its unit in the last place, the larger one's of both."""

    factors: Factors | None = None


def pair_of(kind: Numeral, old: numerals.Unsigned, new: numerals.Unsigned, rows: int) -> Pair | None:
    """The pair as matrices of `rows` rows; None where nothing of low rank can be seen: too small, not finite, equal."""
    columns = len(new) // max(1, rows)
    if min(rows, columns) < _MIN_SIDE or rows * columns != len(new) or len(new) > _MAX_ELEMENTS:
        return None
    if kind not in adapted.ADAPTABLE or np.array_equal(old, new):
        return None
    shape = rows, columns
    old, new = old.reshape(shape), new.reshape(shape)
    difference, units = large.empty(shape), large.empty(shape)
    if not kind.mantissa:
        factors = _row_factors(kind, old, new)
        for part in large.blocks(shape):
            difference[part] = _integers(kind, new[part]) - _scaled(kind, old, part, factors)
        units[:] = 1.0
        return Pair(kind, old, new, difference, units, factors)
    for part in large.blocks(shape):
        with np.errstate(all="ignore"):
            difference[part] = numerals.widened(kind, new[part]) - numerals.widened(kind, old[part])
        if not np.isfinite(difference[part]).all():
            return None
        exponents = np.maximum(numerals.exponents(kind, old[part]), numerals.exponents(kind, new[part]))
        units[part] = np.ldexp(1.0, exponents.astype(np.int32) - (kind.exponent_mask // 2 + kind.mantissa))
    return Pair(kind, old, new, difference, units)


def promising(kind: Numeral, old: numerals.Unsigned, new: numerals.Unsigned, rows: int) -> bool:
    """Whether a sample shows a change of low rank, or can't: `found` gives None for all others, at more cost."""
    columns = len(new) // max(1, rows)
    if not kind.mantissa or max(rows, columns) <= _SAMPLE_SIDE or rows * columns != len(new):
        return True
    part = _sampled((rows, columns))
    small = [np.ascontiguousarray(bits.reshape(rows, columns)[part]).reshape(-1) for bits in (old, new)]
    pair = pair_of(kind, small[0], small[1], min(rows, _SAMPLE_SIDE))
    return pair is not None and _seen_in_sample(pair.difference, pair.units)


def _integers(kind: Numeral, bits: numerals.Unsigned) -> Matrix:
    values: Matrix = (bits.view(np.int8) if kind.signed else bits).astype(np.float64)
    return values


def _row_factors(kind: Numeral, old: numerals.Unsigned, new: numerals.Unsigned) -> Factors | None:
    """What a new scale of each row makes of the old integers; None if the scales stayed what they were."""
    fits = [_fitted_rows(kind, old[part], new[part]) for part in large.blocks(new.shape)]
    known = next((fit for fit in fits if isinstance(fit, Factors)), None)
    if known is None:
        return None
    values = np.concatenate([np.zeros(fit, np.int32) if isinstance(fit, int) else fit.values for fit in fits])
    slopes = values / 2.0**known.precision
    if float(np.median(np.abs(slopes - 1.0))) <= _RESCALED:
        return None
    shifts = [fit.shifts if isinstance(fit, Factors) else np.zeros(fit, np.int32) for fit in fits]
    return replace(known, values=values, shifts=np.concatenate([each for each in shifts if each is not None]))


def _fitted_rows(kind: Numeral, old: numerals.Unsigned, new: numerals.Unsigned) -> Factors | int:
    """The factors of these rows, or how many rows they are if all is zero."""
    layout = Layout(new.shape[1], 0, new.size)
    for fitted, factors in prediction.candidates(kind, new.reshape(-1), old.reshape(-1), [layout]):
        if fitted is layout and factors.predictor is Predictor.ROW:
            return factors
    return len(new)


def _scaled(kind: Numeral, old: numerals.Unsigned, part: slice, factors: Factors | None) -> Matrix:
    columns = old.shape[1]
    segment = Coded(Mode.DELTA, kind, 0, old.size, 0, columns, 0, 0, factors=factors)
    scaled: Matrix = models.scaled_bytes(segment, old[part].reshape(-1), part.start * columns) / 65536.0
    return scaled.reshape(-1, columns)


def found(pair: Pair) -> Change | None:
    """The change of low rank between the two; None if there is none, or it spares too little."""
    rank = _seen_rank(pair)
    if not rank or rank * sum(pair.new.shape) > min(MAX_FACTORS, pair.new.size // _SHARE):
        return None
    left, right = _leading(pair.difference, rank)
    weights = large.weights(pair.units)
    for _ in range(_ROUNDS if pair.new.size * rank * rank < _LARGE else _ROUNDS_LARGE):
        left = large.solved(pair.difference, weights, right)
        right = large.solved(pair.difference.T, weights.T, left.T).T
    return _rounded(pair, weights, *_balanced(left, right))


def known(pair: Pair, left: Matrix, right: Matrix, scale: float) -> Change | None:
    """The change scale · left · right when its factors are at hand; None if it spares too little."""
    if left.shape[1] > adapted.MAX_RANK or left.size + right.size > min(MAX_FACTORS, pair.new.size // _SHARE):
        return None
    weights = large.weights(pair.units)
    ways = (
        _rounded(pair, weights, left * scale, right),
        _rounded(pair, None, left * scale, right),
        _as_merged(pair, left, right, scale),
    )
    return min(
        (change for change in ways if change is not None),
        key=lambda change: change_bits(pair, change),
        default=None,
    )


def change_bits(pair: Pair, change: Change) -> float:
    """What a change costs, residuals included, in bits."""
    product = change.product
    if isinstance(product, Product):
        factors = _factor_bits(product.left) + _factor_bits(product.right)
    else:
        factors = 0.0
        for values in (product.left.T, product.right):
            bits = np.ascontiguousarray(values).view("<u4").reshape(-1)
            piece = Piece(0, bits.size, numerals.F32, 0, (values.shape[1],), None)
            factors += fitter.fits(piece, bits, None)[0].bits
    return factors + _residual_bits(pair, product, change.level)


def _as_merged(pair: Pair, left: Matrix, right: Matrix, scale: float) -> Change | None:
    """The factors as the adapter has them, which no rounding of ours separates from what was merged."""
    factors = [factor.astype(np.float32) for factor in (left, right)]
    if not all(np.array_equal(f, factor) for f, factor in zip(factors, (left, right), strict=True)):
        return None
    product = Merged(factors[0], factors[1], np.float32(scale))
    level = min(_levels(pair), key=lambda level: _residual_bits(pair, product, level))
    return Change(product, level, pair.factors)


def _seen_rank(pair: Pair) -> int:
    """The rank of what stands out of rounding, or at which singular values drop; 0 if they do neither."""
    difference, units = pair.difference, pair.units
    if max(difference.shape) > _SAMPLE_SIDE:
        part = _sampled(difference.shape)
        if not _seen_in_sample(difference[part], units[part]):
            return 0
    if max(difference.shape) > _EXACT_SIDE:
        basis = _basis(difference, min(_MAX_SEEN_RANK, min(difference.shape) // 2) + _OVERSAMPLING)
        difference = np.asarray(basis.T @ difference, np.float64)
    return _outstanding(np.linalg.svd(difference, compute_uv=False), units, _GAP)


def _sampled(shape: tuple[int, ...]) -> tuple[NDArray[np.intp], ...]:
    """Which rows and columns are looked at first."""
    source = np.random.default_rng(0)
    rows, columns = (np.sort(source.permutation(side)[:_SAMPLE_SIDE]) for side in shape)
    return np.ix_(rows, columns)


def _seen_in_sample(difference: Matrix, units: Matrix) -> bool:
    return bool(_outstanding(np.linalg.svd(difference, compute_uv=False), units, _SEEN_GAP))


def _outstanding(values: NDArray[np.floating[Any]], units: Matrix, gap: float) -> int:
    most = min(_MAX_SEEN_RANK, min(units.shape) // 2)
    noise = large.noise(units)
    count = int((values > _ABOVE_NOISE * noise).sum())
    if 0 < count <= most:
        return count
    if values[0] <= noise:
        return 0
    ratios = values[:most] / np.maximum(values[1 : most + 1], values[0] * 1e-12)
    rank = int(np.argmax(ratios)) + 1
    return rank if ratios[rank - 1] >= gap else 0


def _basis(matrix: Matrix, size: int) -> Matrix:
    """An orthonormal basis of the leading `size` columns' space (Halko, Martinsson, Tropp 2011, algorithm 4.4)."""
    sketch = matrix @ np.random.default_rng(1).normal(size=(matrix.shape[1], size))
    for _ in range(2):
        sketch = matrix @ np.linalg.qr(matrix.T @ np.linalg.qr(sketch)[0])[0]
    basis: Matrix = np.linalg.qr(sketch)[0]
    return basis


def _leading(matrix: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    basis = _basis(matrix, rank + _OVERSAMPLING)
    left, values, right = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    roots: NDArray[np.float64] = np.sqrt(values[:rank])
    return (basis @ left[:, :rank]) * roots, right[:rank] * roots[:, None]


def _balanced(left: Matrix, right: Matrix) -> tuple[Matrix, Matrix]:
    """The same product from factors whose parts are orthogonal and of equal size, so that one step fits all."""
    first, inner = np.linalg.qr(left)
    second, outer = np.linalg.qr(right.T)
    u, values, v = np.linalg.svd(inner @ outer.T)
    roots = np.sqrt(values)
    return first @ u * roots, (second @ v.T * roots).T


def _rounded(pair: Pair, weights: Matrix | None, left: Matrix, right: Matrix) -> Change | None:
    """The factors in as many bits as cost the least, residuals included.

    `weights`: the right factor is fitted to what rounding left of the left one; None: it is exact as it is.
    """
    columns = np.sort(np.random.default_rng(2).permutation(right.shape[1])[: max(1, _SAMPLE_ELEMENTS // len(left))])
    part = replace(
        pair,
        old=pair.old[:, columns],
        new=pair.new[:, columns],
        difference=pair.difference[:, columns],
        units=pair.units[:, columns],
    )
    scale = right.shape[1] / len(columns)
    sizes = [float(np.abs(factor).max()) for factor in (left, right)]
    if min(sizes) <= 0 or not all(np.isfinite(sizes)):
        return None
    best: tuple[float, int] | None = None
    rises = 0
    for bits in _bits_tried(pair, left, right):
        product = _product(part, None if weights is None else weights[:, columns], left, right[:, columns], sizes, bits)
        if product is None:
            break
        cost = _factor_bits(product.left) + _factor_bits(product.right) * scale
        cost += _residual_bits(part, product, _levels(pair)[0]) * scale
        if best is None or cost < best[0]:
            best, rises = (cost, bits), 0
        else:
            rises += 1
            if rises > 2:
                break
    if best is None or best[0] > _WORTH * _ordinary_bits(part) * scale:
        return None
    product = _product(pair, weights, left, right, sizes, best[1])
    if product is None:
        return None
    chosen = cast(NDArray[np.int64], np.ascontiguousarray(product.right[:, columns]))
    sample = Product(product.left, chosen, product.precision)
    level = min(_levels(pair), key=lambda level: _residual_bits(part, sample, level))
    return Change(product, level, pair.factors)


def _bits_tried(pair: Pair, left: Matrix, right: Matrix) -> Iterator[int]:
    """From where rounding moves most elements up."""
    moved = float(np.abs(left).max()) * float(np.sqrt((right * right).sum(0).mean()))
    first = int(np.log2(max(moved / large.middle(pair.units), 1.0)))
    return iter(range(min(max(4, first - 3), _MOST_BITS), _MOST_BITS + 1))


def _product(
    pair: Pair, weights: Matrix | None, left: Matrix, right: Matrix, sizes: list[float], bits: int
) -> Product | None:
    """`left` in integers of `bits`, and `right` (as it fits to those best) in integers; None if too large."""
    shifts = [bits - 1 - int(np.ceil(np.log2(size))) for size in sizes]
    whole = np.rint(np.ldexp(left, shifts[0])).astype(np.int64)
    if weights is not None:
        right = large.solved(pair.difference.T, weights.T, np.ldexp(whole.astype(np.float64), -shifts[0]).T).T
    scaled = np.rint(np.ldexp(right, shifts[1]))
    if not np.isfinite(scaled).all() or np.abs(scaled).max(initial=0.0) >= 2.0**31 or not 0 <= sum(shifts) <= 160:
        return None
    product = Product(whole, scaled.astype(np.int64), sum(shifts))
    return product if product.bounded else None


def _factor_bits(factor: NDArray[np.int64] | NDArray[np.int32]) -> float:
    return float(factor.size * (np.log2(max(1.0, float(factor.std()))) + 2.1))


def _levels(pair: Pair) -> list[int]:
    units = pair.kind.exponent_mask // 2 + pair.kind.mantissa
    middle = int(np.log2(large.middle(pair.units))) + units - 7
    return [middle + step for step in _LEVELS_TRIED]


def _residual_bits(pair: Pair, product: Product | Merged, level: int) -> float:
    columns, count = product.columns, pair.new.size
    place = Adapted(0, 0, product)
    whole = Coded(Mode.DELTA, pair.kind, 0, count, 0, columns, 0, level, factors=pair.factors, adapted=place)
    cells, raw = np.zeros((120, 256), np.int64), 0
    for part in large.blocks(pair.new.shape):
        new, old = (np.ascontiguousarray(bits[part]).reshape(-1) for bits in (pair.new, pair.old))
        segment = whole if new.size == count else pieces.part(whole, part.start * columns, new.size)
        found = symbol_writer.symbols_of(segment, new, old)
        counted = symbol_writer.cells_of(found)
        cells += counted
        raw += symbol_writer.raw_bits(counted, found.raw)
    return table_builder.entropy_bits(cells) + raw


def _ordinary_bits(pair: Pair) -> float:
    rows, columns = pair.new.shape
    piece = Piece(0, rows * columns, pair.kind, 0, (columns,), 0)
    return fitter.fits(piece, pair.new.reshape(-1), pair.old.reshape(-1))[0].bits
