"""Numbers of six significant digits, as C's printf writes them with %g, as integers in their order. No I/O here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError

PER_EXPONENT = 900_000
"""Numbers of six digits that share an exponent."""

_OFFSET = 400


def decimals(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers rounded to six digits, as integers, one apart where the last digit is one apart; not finite ones as 0."""
    return np.array([_decimal(value) for value in values.tolist()], np.int64)


def _decimal(value: float) -> int:
    if value == 0 or value != value or value in (float("inf"), float("-inf")):
        return 0
    text = f"{abs(value):.5e}"
    size = int(text[0] + text[2:7]) - 100_000 + (int(text[8:]) + _OFFSET) * PER_EXPONENT
    return size if value > 0 else -size


def from_decimals(words: NDArray[np.int64]) -> NDArray[np.float64]:
    """Undo `decimals`; FormatError if a number is out of bounds."""
    if bool((np.abs(words) >= 2 * _OFFSET * PER_EXPONENT).any()):
        raise FormatError("a frame of trees holds a decimal out of bounds.")
    return np.array([_from_decimal(word) for word in words.tolist()], np.float64)


def _from_decimal(word: int) -> float:
    if word == 0:
        return 0.0
    exponent, digits = divmod(abs(word), PER_EXPONENT)
    value = float(f"{digits + 100_000}e{exponent - _OFFSET - 5}")
    return value if word > 0 else -value
