"""Logarithms to base 2 from additions, multiplications and divisions alone, so that all machines agree. No I/O here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TERMS = 26
_LN2 = 0.6931471805599453


def log2_of_floats(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(x) / ln(2) of normal numbers above zero, within about one unit in the last place of the true one.

    ln(m) = 2 (z + z^3 / 3 + z^5 / 5 + …) with z = (m - 1) / (m + 1), and m in [√½, √2].
    """
    mantissa, exponent = np.frexp(values)
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = exponent - low
    z = (mantissa - 1.0) / (mantissa + 1.0)
    square = z * z
    series = np.zeros(len(values))
    for term in range(_TERMS, 0, -1):
        series = (series + 1.0 / float(2 * term + 1)) * square
    natural = 2.0 * z + 2.0 * z * series
    natural = natural + exponent.astype(np.float64) * _LN2
    return natural / _LN2
