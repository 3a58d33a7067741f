"""Tables of logarithms and of the logistic function, made from integers alone. No I/O here.

Logarithms are to base 2 with 8 fraction bits, probabilities have 15 bits: the same on every machine.
"""

from __future__ import annotations

from functools import cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 8
PROBABILITY_BITS = 15
TOTAL = 1 << PROBABILITY_BITS
MAX_LOGIT = PROBABILITY_BITS << FRACTION_BITS
"""Beyond this, a probability is as near to 0 or 1 as it can be said."""

_TABLE_BITS = 12


@cache
def _mantissas() -> NDArray[np.int32]:
    """log2(1 + i / 2^12) of all 12-bit fractions."""
    values = (np.uint64(1 << _TABLE_BITS) + np.arange(1 << _TABLE_BITS, dtype=np.uint64)) << np.uint64(18)
    result = np.zeros(len(values), np.int32)
    for _ in range(FRACTION_BITS):
        values = (values * values) >> np.uint64(30)
        carry = values >> np.uint64(31)
        values >>= carry
        result = (result << np.int32(1)) | carry.astype(np.int32)
    return result


def log2(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Logarithms of integers from 1 to 2^52, rounded down from their leading 13 bits."""
    _, length = np.frexp(values.astype(np.float64))
    shift = length.astype(np.int64) - np.int64(_TABLE_BITS + 1)
    lead = np.where(shift >= 0, values >> np.maximum(shift, 0), values << np.maximum(-shift, 0))
    whole = (length.astype(np.int32) - np.int32(1)) << np.int32(FRACTION_BITS)
    return whole + _mantissas()[lead - np.int64(1 << _TABLE_BITS)]


@cache
def count_logarithms(limit: int) -> NDArray[np.int32]:
    """log2(5 n + 2) for counts n from 0 to `limit`: a fifth of 2 is what is added to every count."""
    return log2(5 * np.arange(limit + 1, dtype=np.int64) + 2)


@cache
def logistic() -> NDArray[np.int32]:
    """1 / (1 + 2^-x) for x from -MAX_LOGIT to MAX_LOGIT, as 15-bit probabilities from 1 to 2^15 - 1."""
    root = 2 << 240
    for _ in range(FRACTION_BITS):
        root = isqrt(root << 240)
    steps = [1 << 240]
    for _ in range((1 << FRACTION_BITS) - 1):
        steps.append(steps[-1] * root >> 240)
    powers = np.array([step >> 212 for step in steps], np.int64)
    x = np.arange(MAX_LOGIT + 1, dtype=np.int64)
    odds = powers[x & 255] << (x >> FRACTION_BITS)
    high = (odds << PROBABILITY_BITS) // (odds + np.int64(1 << 28))
    high = np.clip(high, 1, TOTAL - 1).astype(np.int32)
    return np.concatenate([(TOTAL - high)[:0:-1], high])
