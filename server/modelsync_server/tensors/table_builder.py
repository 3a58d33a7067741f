"""Builds the header's tables from counts: neighbouring contexts that behave alike share one. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import tables

_CODE_BITS = 4.5
"""What a table's code costs in the compressed header, about."""

_TABLE_BITS = 24.0


@dataclass(frozen=True, slots=True)
class Model:
    """One group's tables as the encoder needs them."""

    group: tables.Group
    frequencies: NDArray[np.int32]
    """(row, symbol) → out of 4,096."""

    choose: NDArray[np.uint8]
    """Context → row."""

    bits: NDArray[np.float32]
    """(row, symbol) → cost in bits; infinite where the symbol does not occur."""

    starts: NDArray[np.uint32]
    """(row, symbol) → first slot."""


def build(counts: NDArray[np.int64], limit: int) -> Model:
    """Make at most `limit` tables for counts per (context, symbol); at least one count is not zero."""
    clusters = [(int(c), counts[c]) for c in np.flatnonzero(counts.sum(1))]
    costs = [_cost(row) for _, row in clusters]
    while len(clusters) > 1:
        merged = [_cost(a[1] + b[1]) for a, b in pairwise(clusters)]
        gains = [costs[i] + costs[i + 1] - cost for i, cost in enumerate(merged)]
        best = int(np.argmax(gains))
        if gains[best] <= 0 and len(clusters) <= limit:
            break
        clusters[best] = (clusters[best][0], clusters[best][1] + clusters[best + 1][1])
        costs[best] = merged[best]
        del clusters[best + 1], costs[best + 1]
    starts = (0, *(first for first, _ in clusters[1:]))
    codes = np.stack([tables.quantised(row) for _, row in clusters])
    frequencies = np.stack([tables.frequencies(row) for row in codes])
    widths = np.diff([*starts, tables.MAX_CONTEXTS])
    with np.errstate(divide="ignore"):
        bits = (tables.PROBABILITY_BITS - np.log2(frequencies)).astype(np.float32)
    return Model(
        tables.Group(starts, codes),
        frequencies,
        np.repeat(np.arange(len(clusters), dtype=np.uint8), widths),
        bits,
        (np.cumsum(frequencies, 1) - frequencies).astype(np.uint32),
    )


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Bits that the counted symbols need under their own distribution; rows are contexts."""
    totals = counts.sum(-1)
    present = counts[counts > 0].astype(np.float64)
    sums = totals[totals > 0].astype(np.float64)
    return float((sums * np.log2(sums)).sum() - (present * np.log2(present)).sum())


def _cost(row: NDArray[np.int64]) -> float:
    present = np.flatnonzero(row)
    span = int(present[-1] - present[0]) + 1
    return entropy_bits(row[None]) + _TABLE_BITS + _CODE_BITS * min(span, 2 * len(present))
