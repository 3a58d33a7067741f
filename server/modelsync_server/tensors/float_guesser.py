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

_SAMPLE_BYTES = 8 * caps.KIB
"""What is looked at of each block."""

_KINDS = (numerals.F16, numerals.BF16, numerals.F32, numerals.F64)
_MAX_FILE_BYTES = 4 * 1024 * caps.MIB

_GAIN, _BETTER = 0.06, 0.02
"""The share of a block's bits that knowing each exponent must save, and by how much a second type must save more."""

_NOISE_BITS = 7.0
"""Trained floats' lowest bytes are close to noise; text and tables are not."""


Found = tuple[Numeral, int]
"""Element type, and phase: bytes of a block before its first element."""


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
    start = 0
    current: Found | None = None
    for number in range(count):
        begin = number * _BLOCK_BYTES
        found = _best(raw[begin : begin + _SAMPLE_BYTES], current)
        if found != current:
            if current is not None:
                yield _stretch(start * _BLOCK_BYTES, number * _BLOCK_BYTES, current)
            start, current = number, found
    if current is not None:
        yield _stretch(start * _BLOCK_BYTES, len(data), current)


def _stretch(begin: int, end: int, found: Found) -> Guess:
    kind, phase = found
    begin += phase
    return Guess(begin, (end - begin) // kind.width * kind.width, kind)


def _best(block: NDArray[np.uint8], before: Found | None) -> Found | None:
    """Type and phase (bytes) under which exponents say most; that of the block before is kept if it still says much."""
    if before is not None and _gain(block[before[1] :], before[0]) > 2 * _GAIN:
        return before
    best, most = None, _GAIN
    for kind in _KINDS:
        for phase in range(kind.width):
            gain = _gain(block[phase:], kind)
            # A wider type sees what a narrower one sees too, and must explain it better.
            if gain > most + (_BETTER if best is not None else 0.0):
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
