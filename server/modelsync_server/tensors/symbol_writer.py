"""Turns elements into symbols and raw bits, as `modelsync_protocol.codecs.tensor_frame` undoes it. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import models, numerals
from modelsync_protocol.codecs.numerals import Numeral, Unsigned
from modelsync_protocol.codecs.segments import Coded, Mode
from modelsync_protocol.codecs.symbols import DELTA, SIGNED_LENGTHS, VALUE_ESCAPE, VALUE_TOP_BITS, VALUE_ZERO
from modelsync_protocol.native.core import core


@dataclass(frozen=True, slots=True)
class Symbols:
    """Per element: context, symbol, number of raw bits and their value."""

    contexts: NDArray[np.uint8]
    symbols: NDArray[np.uint8]
    counts: NDArray[np.uint8]
    fields: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Letters:
    """Symbols without their contexts: what does not change with levels in Mode.DELTA."""

    symbols: NDArray[np.uint8]
    counts: NDArray[np.uint8]
    fields: NDArray[np.uint64]


def symbols_of(segment: Coded, new: Unsigned, old: Unsigned | None) -> Symbols:
    """Encode the elements `new` of a whole segment, given the base's counterpart (None: no base)."""
    prediction, contexts = models.modelled(segment, old, 0, len(new))
    if segment.mode is Mode.DELTA:
        letters = delta_letters(segment.numeral, new, prediction, segment.drop)
    elif segment.numeral.mantissa:
        letters = _float_letters(segment.numeral, new, models.levels(segment, 0, len(new))[0], segment.drop)
    else:
        letters = Letters(new, np.zeros(len(new), np.uint8), np.zeros(len(new), np.uint64))
    return Symbols(contexts, letters.symbols, letters.counts, letters.fields)


def differences(
    kind: Numeral, new: Unsigned, prediction: Unsigned | None, drop: int = 0
) -> tuple[Unsigned, NDArray[np.bool_]]:
    """Magnitude and sign of new − prediction in the order-preserving integers."""
    reference = np.zeros_like(new) if prediction is None else prediction
    delta = numerals.shortened(kind, new, drop) - numerals.shortened(kind, reference, drop)
    negative = delta.view(kind.signed_dtype) < 0
    return np.where(negative, kind.unsigned_dtype.type(0) - delta, delta), negative


def delta_letters(kind: Numeral, new: Unsigned, prediction: Unsigned | None, drop: int) -> Letters:
    """Symbols and raw bits in Mode.DELTA."""
    compiled = core()
    if compiled is not None:
        exact = kind.width, kind.mantissa, kind.signed, drop
        old = None if prediction is None else np.ascontiguousarray(prediction)
        found, bits = compiled.letters(exact, DELTA.first, DELTA.top, np.ascontiguousarray(new), old)
        return Letters(found, DELTA.raw[found], bits)
    magnitude, negative = differences(kind, new, prediction, drop)
    if kind.mantissa and prediction is not None:
        negative = negative ^ (prediction >> kind.unsigned_dtype.type(8 * kind.width - 1)).astype(bool)
    length = bit_lengths(magnitude)
    top = DELTA.top[length]
    below = np.maximum(length.astype(np.int8) - 1 - top.astype(np.int8), 0).astype(np.uint8)
    wide = magnitude.astype(np.uint64)
    leading = (wide >> below.astype(np.uint64)).astype(np.uint8)
    small = length <= SIGNED_LENGTHS
    symbol = DELTA.first[length] + (leading & ((np.uint8(1) << top) - np.uint8(1)))
    symbol += (negative & small & (length > 0)).astype(np.uint8) << top
    fields = wide & ((np.uint64(1) << below.astype(np.uint64)) - np.uint64(1))
    fields = np.where(small, fields, (fields << np.uint64(1)) | negative.astype(np.uint64))
    return Letters(symbol, DELTA.raw[symbol], fields)


def bit_lengths(magnitude: Unsigned) -> NDArray[np.uint8]:
    """Bit length of each unsigned integer."""
    if magnitude.dtype.itemsize < 8:
        return np.frexp(magnitude.astype(np.float64))[1].astype(np.uint8)
    high = (magnitude >> np.uint64(32)).astype(np.uint32)
    low = magnitude.astype(np.uint32)
    return np.where(high > 0, bit_lengths(high) + np.uint8(32), bit_lengths(low)).astype(np.uint8)


def _float_letters(kind: Numeral, new: Unsigned, level: NDArray[np.int32], drop: int) -> Letters:
    bits, below = 8 * kind.width, kind.mantissa - VALUE_TOP_BITS
    wide = new.astype(np.uint64)
    magnitude = wide & np.uint64((1 << (bits - 1)) - 1)
    sign = wide >> np.uint64(bits - 1)
    distance = level * np.int32(4) - (magnitude >> np.uint64(below)).astype(np.int32)
    near = (distance >= 0) & (distance < VALUE_ESCAPE - 1)
    symbol = np.where(near, distance + 1, VALUE_ESCAPE).astype(np.uint8)
    symbol[magnitude == 0] = VALUE_ZERO
    fields = ((magnitude & np.uint64((1 << below) - 1)) >> np.uint64(drop) << np.uint64(1)) | sign
    fields = np.where(symbol == VALUE_ESCAPE, wide, np.where(symbol == VALUE_ZERO, sign, fields))
    counts = np.full(256, 1 + below - drop, np.uint8)
    counts[VALUE_ZERO], counts[VALUE_ESCAPE] = 1, bits
    return Letters(symbol, counts[symbol], fields)
