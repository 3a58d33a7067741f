"""The two alphabets of the rANS encodings: what a symbol says, and how many raw bits follow it. No I/O here.

delta: signed differences, as bit length and the two bits under the leading one; small magnitudes carry their sign.
value: floats, as distance in eighths of an octave under a row's level; or the byte itself for 8-bit integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIGNED_LENGTHS = 4
"""Bit lengths up to here have the sign in the symbol; above, it is the lowest raw bit."""

_COARSE_LENGTH = 57
"""From this bit length on only one bit is modelled, so that 64-bit differences fit 256 symbols."""

VALUE_ZERO = 0
VALUE_ESCAPE = 255
VALUE_TOP_BITS = 3
"""Mantissa bits of a float that a value symbol holds."""


def _top_bits(length: int) -> int:
    return max(0, min(length - 1, 2 if length < _COARSE_LENGTH else 1))


@dataclass(frozen=True, slots=True)
class DeltaAlphabet:
    """Per symbol: the magnitude's leading bits, shifted into place, raw bits of the magnitude, and of the sign."""

    lead: NDArray[np.uint64]
    """Magnitude with its raw bits zero."""

    raw: NDArray[np.uint8]
    """Raw bits, sign included."""

    negative: NDArray[np.bool_]
    """True where the symbol says minus."""

    sign_raw: NDArray[np.bool_]
    """True where the lowest raw bit is the sign."""

    first: NDArray[np.uint8]
    """Per bit length (0 to 64): its first symbol."""

    top: NDArray[np.uint8]
    """Per bit length: how many bits under the leading one the symbol holds."""


def _delta_alphabet() -> DeltaAlphabet:
    lead: list[int] = []
    raw: list[int] = []
    negative: list[bool] = []
    sign_raw: list[bool] = []
    first: list[int] = []
    top: list[int] = []
    for length in range(65):
        first.append(len(lead))
        bits = _top_bits(length)
        top.append(bits)
        for sign in (False, True) if 1 <= length <= SIGNED_LENGTHS else (False,):
            for value in range(1 << bits):
                below = max(0, length - 1 - bits)
                lead.append(0 if length == 0 else ((1 << bits) | value) << below)
                raw.append(below + (length > SIGNED_LENGTHS))
                negative.append(sign)
                sign_raw.append(length > SIGNED_LENGTHS)
    spare = 256 - len(lead)
    return DeltaAlphabet(
        np.array(lead + [0] * spare, np.uint64),
        np.array(raw + [0] * spare, np.uint8),
        np.array(negative + [False] * spare),
        np.array(sign_raw + [False] * spare),
        np.array(first, np.uint8),
        np.array(top, np.uint8),
    )


DELTA = _delta_alphabet()
