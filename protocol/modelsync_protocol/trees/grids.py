"""Codes sums of short floats: a multiple of a power of two, which a caller corrects by what rounding did. No I/O here.

A sum of float32 gradients in float64 has no bits below the smallest summand's last one. What remains of a number is
k · 2^e with an odd k; e and the length of k are modelled, the lowest bits of k are raw.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelsync_protocol.trees import columns
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.floats import Floats, words_of
from modelsync_protocol.trees.lanes import Lanes
from modelsync_protocol.trees.mixing import joined

_HIGHEST = 64
_NONE = 255
"""Steps are 2^64 to 2^-190, as 0 to 254; this stands for no multiple at all: zero."""

_QUANTUM_BITS = 8
_LONGEST = 1 << 53


def amounts_of(quantum: Integers, multiple: Integers) -> Floats:
    """The amounts that `quanta` found."""
    amount = np.ldexp(multiple.astype(np.float64), (_HIGHEST - quantum).astype(np.int32))
    return np.where(quantum == _NONE, 0.0, amount)


class Grids:
    """Codes amounts (0 and more) that a caller corrects afterwards."""

    def __init__(self, elements: int) -> None:
        self._quanta = columns.mixer(3, _QUANTUM_BITS, elements)
        self._signs = columns.mixer(2, 1, elements)
        self._lengths = columns.mixer(3, columns.NUMBER_SLOTS, elements)

    def run(
        self, lanes: Lanes, centre: Floats, contexts: tuple[Integers, Integers], known: tuple[Integers, Integers] | None
    ) -> Floats:
        """One amount for each of `centre`, near which it may lie; `known`: (quantum, multiple) by `quanta`."""
        one, two = contexts
        quantum = columns.symbols(
            self._quanta,
            lanes,
            stacked(joined(one, 1), joined(two, 2), joined(one, two, 3)),
            _QUANTUM_BITS,
            None if known is None else known[0],
        )
        exponent = (_HIGHEST - quantum).astype(np.int32)
        with np.errstate(all="ignore"):
            scaled = np.nan_to_num(np.ldexp(centre, -exponent - 1), nan=0.0, posinf=0.0, neginf=0.0)
        near = np.clip(scaled, 0, _LONGEST).astype(np.int64)
        apart = None if known is None else np.where(quantum == _NONE, 0, (known[1] >> np.int64(1)) - near)
        below = None if apart is None else (apart < 0).astype(np.int64)
        sign = columns.symbols(self._signs, lanes, stacked(joined(one, 4), joined(quantum, one, 5)), 1, below)
        context = stacked(joined(quantum, one, 6), joined(quantum, two, 7), joined(one, two, sign, 8))
        size = columns.numbers(self._lengths, lanes, context, None if apart is None else np.abs(apart))
        size = np.clip(size, 0, _LONGEST)
        half = near + np.where(sign == 1, -size, size)
        return amounts_of(quantum, 2 * half + 1)


def quanta(
    amounts: Floats,
    value: Callable[[Floats], Floats],
    exact: Floats,
    *,
    exactly: bool = False,
    slack: float = 1.0,
) -> tuple[Integers, Integers]:
    """(quantum, multiple) of each amount with which `value` of it is told in the fewest bits. For encoders.

    `exactly`: values must come out as they are, if they can; `slack`: units in the last place that cost nothing.
    """
    usable = np.isfinite(amounts) & (amounts > 1e-40) & (amounts < 1e18)
    safe = np.where(usable, amounts, 1.0)
    _, exponent = np.frexp(safe)
    best = np.full(len(safe), np.inf)
    quantum, multiple = np.full(len(safe), _NONE, np.int64), np.zeros(len(safe), np.int64)
    want = words_of(exact)
    for dropped in range(53):
        step = (exponent - 53 + dropped).astype(np.int32)
        count = np.rint(np.ldexp(safe, -step)).astype(np.int64)
        apart = np.abs((words_of(value(np.ldexp(count.astype(np.float64), step))) - want).view(np.int64))
        cost = 53.0 - dropped + 1.25 * np.log2(1.0 + 2.0 * np.abs(apart.astype(np.float64)) / slack)
        if exactly:
            cost[apart != 0] = np.inf
        number = _HIGHEST - step.astype(np.int64)
        better = usable & (count & 1 == 1) & (number >= 0) & (number < _NONE) & (cost < best)
        best[better], quantum[better], multiple[better] = cost[better], number[better], count[better]
    return quantum, multiple
