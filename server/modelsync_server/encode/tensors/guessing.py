"""Guesses where floats lie in files of no known container, from the bytes alone. No I/O here.

A guess costs nothing but time: frames that know tensors are used only where they are smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import Numeral

_BLOCK_BYTES = 32 * caps.KIB
"""The grain of a guess: a stretch of one type is a number of such blocks."""

_KINDS = (numerals.F16, numerals.BF16, numerals.F32, numerals.F64)
_MAX_FILE_BYTES = 4 * 1024 * caps.MIB

_GAIN = 0.06
"""A type must save this share of a block's bits beyond what any other byte-wise order shows."""

_NOISE_BITS = 7.0
"""Trained floats' lowest bytes are close to noise; text and tables are not."""


@dataclass(frozen=True, slots=True)
class Guess:
    """`length` bytes from `offset` on that look like elements of `numeral`."""

    offset: int
    length: int
    numeral: Numeral


def floats(data: memoryview) -> Iterator[Guess]:
    """Yield stretches of `data` that look like trained floats, in order and disjoint."""
    count = len(data) // _BLOCK_BYTES
    if not count or len(data) > _MAX_FILE_BYTES:
        return
    raw = np.frombuffer(data, np.uint8)
    start, current = 0, None
    for number in range(count):
        block = raw[number * _BLOCK_BYTES : (number + 1) * _BLOCK_BYTES]
        found = _best(block, None if current is None else current)
        if found != current:
            if current is not None:
                yield _stretch(start * _BLOCK_BYTES, number * _BLOCK_BYTES, current)
            start, current = number, found
    if current is not None:
        yield _stretch(start * _BLOCK_BYTES, len(data), current)


def _stretch(begin: int, end: int, found: tuple[Numeral, int]) -> Guess:
    kind, phase = found
    begin += phase
    return Guess(begin, (end - begin) // kind.width * kind.width, kind)


def _best(block: NDArray[np.uint8], before: tuple[Numeral, int] | None) -> tuple[Numeral, int] | None:
    """Type and phase (bytes) under which exponents say most; that of the block before wins if it is about as good."""
    best, most = None, _GAIN
    for kind in _KINDS:
        for phase in range(kind.width):
            gain = _gain(block[phase:], kind) + (0.01 if (kind, phase) == before else 0.0)
            # A type explains what a narrower one sees too, and must then explain it better.
            if gain > most + (0.005 if best is not None else 0.0):
                best, most = (kind, phase), gain
    return best


def _gain(block: NDArray[np.uint8], kind: Numeral) -> float:
    """The share of bits that knowing each element's exponent saves, or 0 if the bytes don't look like floats."""
    whole = len(block) // kind.width * kind.width
    bits = block[:whole].view(kind.unsigned_dtype)
    if _entropy(block[: whole : kind.width], 256) < _NOISE_BITS:
        return 0.0
    width = 8 * kind.width
    exponents = (bits >> kind.unsigned_dtype.type(kind.mantissa)).astype(np.int64) & kind.exponent_mask
    counts = np.bincount(exponents, minlength=kind.exponent_mask + 1)
    if counts[kind.exponent_mask] > len(bits) // 1000:  # infinities and NaN are no weights
        return 0.0
    return (width - kind.mantissa - 1 - _entropy_of(counts)) / width


def _entropy(values: NDArray[np.uint8], size: int) -> float:
    return _entropy_of(np.bincount(values, minlength=size))


def _entropy_of(counts: NDArray[np.int64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())
