"""Turns elements into symbols and raw bits, as `modelsync_protocol.codecs.tensor_frame` undoes it. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import models, numerals, tables
from modelsync_protocol.codecs.numerals import Numeral, Unsigned
from modelsync_protocol.codecs.segments import Coded, Mode
from modelsync_protocol.codecs.symbols import DELTA, SIGNED_LENGTHS, VALUE_ESCAPE, VALUE_TOP_BITS, VALUE_ZERO
from modelsync_protocol.codecs.tensor_frame import add_as_core
from modelsync_protocol.native.core import Segments, core
from modelsync_protocol.native.writer import ROWS, writer
from modelsync_server.tensors import rans_writer

_THEMSELVES = np.arange(tables.MAX_CONTEXTS, dtype=np.uint8)
_NO_BITS = np.zeros(256, np.uint8)


@dataclass(frozen=True, slots=True)
class Symbols:
    """Per element: context and symbol; and by symbol how many raw bits follow it."""

    contexts: NDArray[np.uint8]
    symbols: NDArray[np.uint8]
    raw: NDArray[np.uint8]

    @property
    def counts(self) -> NDArray[np.uint8]:
        """Raw bits of each element."""
        return self.raw[self.symbols]


@dataclass(frozen=True, slots=True)
class Letters:
    """Symbols without their contexts: what does not change with levels in Mode.DELTA."""

    symbols: NDArray[np.uint8]
    counts: NDArray[np.uint8]
    fields: NDArray[np.uint64]


def symbols_of(segment: Coded, new: Unsigned, old: Unsigned | None, raw: rans_writer.Fields | None = None) -> Symbols:
    """Encode the elements `new` of a whole segment, given the base's counterpart (None: no base).

    Their raw bits are added to `raw`, if somebody wants them.
    """
    compiled, kind = writer(), segment.numeral
    if compiled is None:
        guess, contexts = models.modelled(segment, old, 0, len(new))
        letters = _letters(segment, new, guess)
        if raw is not None:
            raw.add(letters.fields, letters.counts)
        return Symbols(contexts, letters.symbols, raw_of(segment))
    new, bits = np.ascontiguousarray(new), None if raw is None else raw.compiled
    if segment.adapted is not None:
        guess, contexts = models.modelled(segment, old, 0, len(new))
    else:
        old = None if old is None else np.ascontiguousarray(old)
        guess = None if old is None else old if segment.factors is None else np.empty_like(old)
        contexts = compiled.rows(_alone(segment, old is not None), old, guess)
    if segment.mode is Mode.DELTA:
        numeral = kind.width, kind.mantissa, kind.signed, segment.drop
        return Symbols(contexts, compiled.delta_symbols(numeral, DELTA.first, DELTA.top, new, guess, bits), DELTA.raw)
    if kind.mantissa:
        return Symbols(contexts, compiled.value_symbols(_alone(segment, False), new, bits), raw_of(segment))
    return Symbols(contexts, new, _NO_BITS)


def contexts_of(segment: Coded, count: int, guess: Unsigned | None) -> NDArray[np.uint8]:
    """Contexts of a whole segment's elements, which are predicted already."""
    compiled = writer()
    if compiled is None:
        level, quiet = models.levels(segment, 0, count)
        return models.contexts(segment, level, quiet, guess)
    guess = None if guess is None else np.ascontiguousarray(guess)
    return compiled.rows(_alone(replace(segment, factors=None, adapted=None), guess is not None), guess, guess)


def _alone(segment: Coded, leans: bool) -> Segments:
    """One segment with nothing before it in its frame, nor in the base that it leans on if it does."""
    made = Segments()
    add_as_core(made, segment, _THEMSELVES, 0, 0 if leans else None)
    return made


def raw_of(segment: Coded) -> NDArray[np.uint8]:
    """How many raw bits follow each symbol of a segment."""
    if segment.mode is Mode.DELTA:
        return DELTA.raw
    kind = segment.numeral
    if not kind.mantissa:
        return _NO_BITS
    counts = np.full(256, 1 + kind.mantissa - VALUE_TOP_BITS - segment.drop, np.uint8)
    counts[VALUE_ZERO], counts[VALUE_ESCAPE] = 1, 8 * kind.width
    return counts


def counted(rows: NDArray[np.uint8], symbols: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each symbol stands in each row: ROWS × 256."""
    compiled = writer()
    if compiled is not None:
        cells = np.zeros((ROWS, 256), np.int64)
        compiled.count(rows, symbols, cells)
        return cells
    places = rows.astype(np.intp) * 256 + symbols
    return np.bincount(places, minlength=ROWS * 256).reshape(ROWS, 256)


def cells_of(found: Symbols) -> NDArray[np.int64]:
    """How often each symbol occurs in each context: MAX_CONTEXTS × 256."""
    return counted(found.contexts, found.symbols)[: tables.MAX_CONTEXTS]


def raw_bits(cells: NDArray[np.int64], raw: NDArray[np.uint8]) -> int:
    """Raw bits behind the counted symbols; rows are contexts, `raw` is by symbol."""
    return int(cells.sum(0) @ raw.astype(np.int64))


def costs(rows: NDArray[np.uint8], symbols: NDArray[np.uint8], prices: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `prices` (ROWS · 256) says of each symbol in its row."""
    compiled = writer()
    if compiled is not None:
        return compiled.costs(rows, symbols, prices)
    found: NDArray[np.float32] = prices[rows.astype(np.intp) * 256 + symbols]
    return found


def _letters(segment: Coded, new: Unsigned, prediction: Unsigned | None) -> Letters:
    if segment.mode is Mode.DELTA:
        return delta_letters(segment.numeral, new, prediction, segment.drop)
    if segment.numeral.mantissa:
        level = models.levels(segment, 0, len(new))[0]
        return _float_letters(segment.numeral, new, level, segment.drop, raw_of(segment))
    return Letters(new, np.zeros(len(new), np.uint8), np.zeros(len(new), np.uint64))


def differences(
    kind: Numeral, new: Unsigned, prediction: Unsigned | None, drop: int = 0
) -> tuple[Unsigned, NDArray[np.bool_]]:
    """Magnitude and sign of new − prediction in the order-preserving integers."""
    reference = np.zeros_like(new) if prediction is None else prediction
    delta = numerals.shortened(kind, new, drop) - numerals.shortened(kind, reference, drop)
    negative = delta.view(kind.signed_dtype) < 0
    return np.where(negative, kind.unsigned_dtype.type(0) - delta, delta), negative


def delta_symbols(kind: Numeral, new: Unsigned, prediction: Unsigned | None, drop: int) -> NDArray[np.uint8]:
    """Symbols in Mode.DELTA, which do not change with levels."""
    compiled = writer()
    if compiled is None:
        return delta_letters(kind, new, prediction, drop).symbols
    guess = None if prediction is None else np.ascontiguousarray(prediction)
    numeral = kind.width, kind.mantissa, kind.signed, drop
    return compiled.delta_symbols(numeral, DELTA.first, DELTA.top, np.ascontiguousarray(new), guess, None)


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


def _float_letters(
    kind: Numeral, new: Unsigned, level: NDArray[np.int32], drop: int, counts: NDArray[np.uint8]
) -> Letters:
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
    return Letters(symbol, counts[symbol], fields)
