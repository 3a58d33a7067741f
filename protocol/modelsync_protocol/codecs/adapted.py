"""A prediction by a change of low rank: the base's matrix plus a product of two thin ones. No I/O here.

What makes it exact on every machine stands in FORMAT.md §6.2: a product is one of 64-bit integers, or is summed up
in an order that is said; what follows is one sum in float64 and one rounding to the element's type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import BF16, F16, F32, I8, U8, Numeral, Unsigned

ADAPTABLE = (F32, F16, BF16, I8, U8)
"""Element types that can be predicted so."""

MAX_RANK = 256
MAX_FACTORS = 1 << 19
"""Integers in both factors of one matrix: bounds a decoder's memory to 4 MiB for them."""

MAX_SUM = 1 << 62
"""No sum of products may reach this: rank · largest left · largest right is below it."""

PHASES, _CLASSES = 8, 15
"""Contexts of floats: how far the prediction is from what it was rounded to, in eighths of a unit, times a class."""

_BLOCK_ELEMENTS = 1 << 15
"""Elements that a decoder works on at a time."""

_BYTE_PHASES = 120
"""Contexts of 8-bit integers: the same in parts of a unit."""


@dataclass(frozen=True, slots=True)
class Product:
    """left (rows × rank) times right (rank × columns), integers, to be divided by 2^precision.

    A decoder keeps them in the 32 bits that they are stored in; each product of two is one of 64.
    """

    left: NDArray[np.int64] | NDArray[np.int32]
    right: NDArray[np.int64] | NDArray[np.int32]
    precision: int

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return int(self.right.shape[1])

    @property
    def count(self) -> int:
        """Elements of the matrix."""
        return int(self.left.shape[0]) * self.columns

    @property
    def bounded(self) -> bool:
        """Whether no sum can leave 64 bits."""
        rank = int(self.left.shape[1])
        return rank * _largest(self.left) * _largest(self.right) < MAX_SUM

    def parts(self) -> tuple[NDArray[np.int32], NDArray[np.int32], float]:
        """Left (rank × rows), right and what to multiply sums by, as native.core.Segments.add takes them."""
        left = np.ascontiguousarray(self.left.T, np.int32)  # no copy, where both lie as they were stored
        return left, np.ascontiguousarray(self.right, np.int32), 2.0**-self.precision

    def work(self, first: int, count: int) -> int:
        """How many products of numbers `values` takes for a segment, block by block."""
        return _work(self.columns, int(self.left.shape[1]), first, count)

    def values(self, first: int, count: int) -> NDArray[np.float64]:
        """`count` elements of the product from number `first` on, in the order of rows."""
        top, bottom = first // self.columns, -(-(first + count) // self.columns)
        sums = self.left[top:bottom].astype(np.int64) @ self.right.astype(np.int64, copy=False)
        begin = first - top * self.columns
        result: NDArray[np.float64] = sums.reshape(-1)[begin : begin + count].astype(np.float64)
        result *= 2.0**-self.precision
        return result


@dataclass(frozen=True, slots=True)
class Merged:
    """The same with an adapter's own factors and scale, in binary32, summed up as it was when they were merged.

    That is what a fused multiply-add in a matrix product does: part after part of the rank, each sum rounded once.
    """

    left: NDArray[np.float32]
    right: NDArray[np.float32]
    scale: np.float32

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return int(self.right.shape[1])

    @property
    def count(self) -> int:
        """Elements of the matrix."""
        return int(self.left.shape[0]) * self.columns

    def parts(self) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
        """As Product.parts."""
        left = np.ascontiguousarray(self.left.T, np.float32)
        return left, np.ascontiguousarray(self.right, np.float32), float(self.scale)

    def work(self, first: int, count: int) -> int:
        """How many products of numbers `values` takes for a segment, block by block."""
        return _work(self.columns, len(self.right), first, count)

    def values(self, first: int, count: int) -> NDArray[np.float64]:
        """`count` elements of the product from number `first` on, in the order of rows."""
        top, bottom = first // self.columns, -(-(first + count) // self.columns)
        left, right = self.left[top:bottom].astype(np.float64), self.right
        sums = np.zeros((bottom - top, self.columns), np.float32)
        with np.errstate(all="ignore"):
            for part in range(len(right)):
                exact = left[:, part : part + 1] * right[part].astype(np.float64)
                sums = (sums.astype(np.float64) + exact).astype(np.float32)
            scaled = (sums.astype(np.float64) * np.float64(self.scale)).astype(np.float32)
        begin = first - top * self.columns
        return scaled.reshape(-1)[begin : begin + count].astype(np.float64)


def _largest(factor: NDArray[np.int64] | NDArray[np.int32]) -> int:
    return max(int(factor.max()), -int(factor.min()))


def _work(columns: int, rank: int, first: int, count: int) -> int:
    """Whole rows are taken, and those at the edges of blocks twice."""
    rows = -(-(first + count) // columns) - first // columns
    return (rows + count // _BLOCK_ELEMENTS) * columns * rank


@dataclass(frozen=True, slots=True)
class Adapted:
    """A segment's place in a matrix whose base is changed by a product: the object's product number, first element."""

    number: int
    first: int
    product: Product | Merged

    def at(self, begin: int) -> Adapted:
        """The same for the segment's elements from `begin` on."""
        return replace(self, first=self.first + begin)


def predicted(adapted: Adapted, kind: Numeral, bits: Unsigned, begin: int) -> tuple[Unsigned, NDArray[np.uint8]]:
    """Prediction and phase (0 to 7) of the block of floats at element `begin`, from the same block of the base."""
    mask = kind.unsigned_dtype.type(kind.exponent_mask << kind.mantissa)
    with np.errstate(all="ignore"):
        exact = numerals.widened(kind, bits) + adapted.product.values(adapted.first + begin, len(bits))
        rounded = numerals.narrowed(kind, exact)
        finite = ((bits & mask) != mask) & ((rounded & mask) != mask)
        prediction = np.where(finite, rounded, bits)
        rest = np.where(finite, exact - numerals.widened(kind, prediction), 0.0)
    units = kind.exponent_mask // 2 + kind.mantissa - numerals.exponents(kind, prediction).astype(np.int64)
    rest *= ((units + 1023) << 52).view(np.float64)  # 2^units, exactly
    negative = (prediction >> kind.unsigned_dtype.type(8 * kind.width - 1)).astype(bool)
    np.negative(rest, out=rest, where=negative)
    phases = np.clip(np.floor(rest * PHASES) + PHASES // 2, 0, PHASES - 1).astype(np.uint8)
    return prediction, phases


def predicted_bytes(
    adapted: Adapted, kind: Numeral, scaled: NDArray[np.int64], begin: int
) -> tuple[Unsigned, NDArray[np.uint8]]:
    """Prediction and context (0 to 119) of the block of 8-bit integers at `begin`; `scaled` is the base times 2^16."""
    with np.errstate(all="ignore"):
        exact = scaled.astype(np.float64) * 2.0**-16 + adapted.product.values(adapted.first + begin, len(scaled))
        exact = np.where(np.isfinite(exact), exact, 0.0)
    low, high = (-128, 127) if kind.signed else (0, 255)
    rounded = np.clip(np.rint(exact), low, high)
    places = np.floor((exact - rounded) * _BYTE_PHASES) + _BYTE_PHASES // 2
    prediction = rounded.astype(np.int16).astype(np.int8 if kind.signed else np.uint8).view(np.uint8)
    return prediction, np.clip(places, 0, _BYTE_PHASES - 1).astype(np.uint8)


def contexts(kind: Numeral, level: int, prediction: Unsigned, phases: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Context (0 to 119) of each element: its exponent's class above `level`, then its phase."""
    classes = np.clip(numerals.exponents(kind, prediction).astype(np.int32) - np.int32(level), 0, _CLASSES - 1)
    return classes.astype(np.uint8) * np.uint8(PHASES) + phases
