"""Element types as the tensor encodings see them: order-preserving integers, exponents, predictions. No I/O here.

Everything is exact on every machine (FORMAT.md §exactness): products are taken in float64 and rounded once, what is
not finite is left alone, and nothing here is transcendental or sums floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError

Unsigned = NDArray[Any]
"""Elements as little-endian unsigned integers of the element's width."""

_UNSIGNED: dict[int, np.dtype[Any]] = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}
_SIGNED: dict[int, np.dtype[Any]] = {width: np.dtype(f"<i{width}") for width in (1, 2, 4, 8)}


@dataclass(frozen=True, slots=True)
class Numeral:
    """An element type: its code in a payload, width in bytes, and for floats the stored mantissa's bits (else 0)."""

    code: int
    name: str
    width: int
    mantissa: int = 0
    signed: bool = False

    @property
    def unsigned_dtype(self) -> np.dtype[Any]:
        """NumPy's type for the raw bits."""
        return _UNSIGNED[self.width]

    @property
    def signed_dtype(self) -> np.dtype[Any]:
        """NumPy's type for differences."""
        return _SIGNED[self.width]

    @property
    def exponent_mask(self) -> int:
        """Largest value of a float's exponent field, which says infinity or NaN."""
        return (1 << (8 * self.width - 1 - self.mantissa)) - 1


F32 = Numeral(0, "f32", 4, 23, True)
F16 = Numeral(1, "f16", 2, 10, True)
BF16 = Numeral(2, "bf16", 2, 7, True)
F64 = Numeral(3, "f64", 8, 52, True)
I8 = Numeral(4, "i8", 1, signed=True)
U8 = Numeral(5, "u8", 1)
I16 = Numeral(6, "i16", 2, signed=True)
I32 = Numeral(7, "i32", 4, signed=True)
I64 = Numeral(8, "i64", 8, signed=True)

NUMERALS = (F32, F16, BF16, F64, I8, U8, I16, I32, I64)
BY_NAME = {numeral.name: numeral for numeral in NUMERALS}


def numeral(code: int) -> Numeral:
    """The element type with that code; FormatError if there is none."""
    if code >= len(NUMERALS):
        raise FormatError(f"element type {code} is not known here; update this program.")
    return NUMERALS[code]


def ordered(kind: Numeral, bits: Unsigned) -> Unsigned:
    """Map floats' bits to unsigned integers in the floats' order (integers stay as they are)."""
    if not kind.mantissa:
        return bits
    dtype = kind.unsigned_dtype
    sign = dtype.type(1 << (8 * kind.width - 1))
    spread = (bits.view(kind.signed_dtype) >> kind.signed_dtype.type(8 * kind.width - 1)).view(dtype)
    result: Unsigned = bits ^ (spread | sign)
    return result


def unordered(kind: Numeral, order: Unsigned) -> Unsigned:
    """Undo `ordered`."""
    if not kind.mantissa:
        return order
    dtype = kind.unsigned_dtype
    sign = dtype.type(1 << (8 * kind.width - 1))
    spread = (order.view(kind.signed_dtype) >> kind.signed_dtype.type(8 * kind.width - 1)).view(dtype)
    result: Unsigned = order ^ (~spread | sign)
    return result


def shortened(kind: Numeral, bits: Unsigned, drop: int) -> Unsigned:
    """`ordered` without its lowest `drop` bits."""
    order = ordered(kind, bits)
    return order >> kind.unsigned_dtype.type(drop) if drop else order


def lengthened(kind: Numeral, short: Unsigned, drop: int) -> Unsigned:
    """Undo `shortened` for elements whose lowest `drop` bits are zero."""
    if not drop:
        return unordered(kind, short)
    result = unordered(kind, short << kind.unsigned_dtype.type(drop))
    result &= kind.unsigned_dtype.type((1 << 8 * kind.width) - (1 << drop))
    return result


def exponents(kind: Numeral, bits: Unsigned) -> NDArray[np.int16]:
    """Exponent fields of floats, subnormals' as the smallest normal's, which has the same unit in the last place."""
    field = (bits >> kind.unsigned_dtype.type(kind.mantissa)) & kind.unsigned_dtype.type(kind.exponent_mask)
    result: NDArray[np.int16] = np.maximum(field.astype(np.int16), np.int16(1))
    return result


def scaled(kind: Numeral, bits: Unsigned, factors: NDArray[np.float64]) -> Unsigned:
    """Floats times factors, in float64, rounded once to the type; those that are not finite as they are."""
    mask = kind.unsigned_dtype.type(kind.exponent_mask << kind.mantissa)
    with np.errstate(all="ignore"):
        product = narrowed(kind, widened(kind, bits) * factors)
    result: Unsigned = np.where((bits & mask) == mask, bits, product)
    return result


def widened(kind: Numeral, bits: Unsigned) -> NDArray[np.float64]:
    """Floats as float64 (exact)."""
    if kind is BF16:
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    values: NDArray[np.float64] = bits.view(np.dtype(f"<f{kind.width}")).astype(np.float64)
    return values


def narrowed(kind: Numeral, values: NDArray[np.float64]) -> Unsigned:
    """float64 rounded to the type (half to even; bfloat16 by way of float32), as bits."""
    if kind is BF16:
        single = values.astype(np.float32).view(np.uint32)
        rounded = single + (np.uint32(0x7FFF) + ((single >> np.uint32(16)) & np.uint32(1)))
        return (rounded >> np.uint32(16)).astype(np.uint16)
    return values.astype(np.dtype(f"<f{kind.width}")).view(kind.unsigned_dtype)


MAX_SLOPE = 1 << 21
MAX_SHIFT = 1 << 28
"""Bounds of the fixed-point map of 8-bit integers: with these no sum leaves 32 bits."""


def mapped(kind: Numeral, bits: Unsigned, slopes: NDArray[np.int32], shifts: NDArray[np.int32]) -> Unsigned:
    """8-bit integers through (value · slope + shift + 2^15) >> 16, clipped to the type."""
    values = (bits.view(np.int8) if kind.signed else bits).astype(np.int32)
    values *= slopes
    values += shifts + np.int32(1 << 15)
    values >>= np.int32(16)
    low, high = (-128, 127) if kind.signed else (0, 255)
    np.clip(values, low, high, out=values)
    return values.astype(np.int8).view(np.uint8) if kind.signed else values.astype(np.uint8)
