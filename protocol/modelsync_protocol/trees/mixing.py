"""Predicts bits from several contexts at once and learns from every batch of them. No I/O here.

Each context keeps counts of zeros and ones; their log-odds are mixed with weights that depend on the context's rank
and on how much it has seen (M. Mahoney, "Adaptive weighing of context models", 2005). Integers only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.trees import logistic
from modelsync_protocol.trees.lanes import MAX_LANES, Bits, Lanes
from modelsync_protocol.trees.machine_words import numbered

_LIMIT = 600
"""Counts beyond this are halved, so that what changes is learnt again."""

_WEIGHT_BITS = 16
_RATE_BITS = 14
_SLOWEST_RATE_BITS = 17
_CONFIDENCES = 10

Contexts = NDArray[np.uint32]
"""One row per context, one column per element."""


def _confidences() -> NDArray[np.int32]:
    edges = np.array([1, 2, 3, 5, 8, 16, 32, 90, 300])
    return np.searchsorted(edges, numbered(_LIMIT + MAX_LANES + 1), "right").astype(np.int32)


_CONFIDENCE = _confidences()
_FIRST_WEIGHTS = np.array([0, 14, 18, 22, 26, 30, 34, 38, 42, 44], np.int64) << np.int64(_WEIGHT_BITS - 7)


def joined(*parts: NDArray[np.generic] | int) -> NDArray[np.uint32]:
    """One context number from several small ones."""
    result: NDArray[np.uint32] | np.uint32 = np.uint32(0)
    with np.errstate(over="ignore"):
        for part in parts:
            value = part.astype(np.uint32) if isinstance(part, np.ndarray) else np.uint32(part & 0xFFFFFFFF)
            result = (result ^ value) * np.uint32(0x9E3779B1) + np.uint32(0x7F4A7C15)
    return np.asarray(result, np.uint32)


class Mixer:
    """Counts and weights of one column. `inputs` contexts and `extras` given log-odds; `slots` kinds of decisions."""

    def __init__(self, inputs: int, slots: int, table_bits: int, extras: int = 0) -> None:
        self._inputs, self._extras = inputs, extras
        self._shift = np.uint32(32 - table_bits)
        self._offsets = (np.arange(inputs, dtype=np.int64) << np.int64(table_bits)).reshape(-1, 1)
        self._total = np.zeros(inputs << table_bits, np.uint16)
        self._ones = np.zeros(inputs << table_bits, np.uint16)
        rows = inputs + extras
        weights = np.tile(_FIRST_WEIGHTS, (slots, rows, 1))
        if extras:
            weights[:, :inputs] //= 2
            weights[:, inputs:] = 1 << _WEIGHT_BITS
        self._weights = weights.reshape(-1)
        self._rows = (np.arange(rows, dtype=np.int64) * _CONFIDENCES).reshape(-1, 1)
        self._per_slot = rows * _CONFIDENCES
        self._seen = np.zeros(slots, np.int64)
        self._logarithms = logistic.count_logarithms(_LIMIT + MAX_LANES)
        self._logistic = logistic.logistic()

    def decide(
        self,
        lanes: Lanes,
        contexts: Contexts,
        node: NDArray[np.uint32],
        slot: int,
        known: Bits | None,
        extra: NDArray[np.int32] | None = None,
    ) -> Bits:
        """Code one bit for each column of `contexts`; `node` says which decision of the element it is."""
        hashed = (contexts ^ (node * np.uint32(0x85EBCA6B))) * np.uint32(0x9E3779B1)
        hashed ^= hashed >> np.uint32(15)
        hashed *= np.uint32(0x2C1B3C6D)
        places = (hashed >> self._shift).astype(np.int64) + self._offsets
        total, ones = self._total[places], self._ones[places]
        logits = self._logarithms[ones] - self._logarithms[total - ones]
        confidence = _CONFIDENCE[total]
        if extra is not None:
            logits = np.concatenate([logits, extra])
            confidence = np.concatenate([confidence, np.zeros_like(extra)])
        chosen = confidence + self._rows + np.int64(slot * self._per_slot)
        mixed = (self._weights[chosen] * logits).sum(axis=0) >> np.int64(_WEIGHT_BITS)
        probability = self._logistic[np.clip(mixed, -logistic.MAX_LOGIT, logistic.MAX_LOGIT) + logistic.MAX_LOGIT]
        bits = lanes.bits(probability, known)
        self._learn(places, bits, slot, chosen, logits, probability)
        return bits

    def _learn(
        self,
        places: NDArray[np.int64],
        bits: Bits,
        slot: int,
        chosen: NDArray[np.int64],
        logits: NDArray[np.int32],
        probability: NDArray[np.int32],
    ) -> None:
        count = len(bits)
        error = (bits.astype(np.int32) << np.int32(logistic.PROBABILITY_BITS)) - probability
        gradient = np.bincount(
            chosen.ravel().astype(np.intp), (logits * error).ravel().astype(np.float64), len(self._weights)
        )
        seen = int(self._seen[slot])
        self._seen[slot] = seen + count
        rate = min(_SLOWEST_RATE_BITS, _RATE_BITS + max(0, (seen + 1).bit_length() - 9) // 2)
        rate += max(0, count.bit_length() - 5) // 2
        self._weights += gradient.astype(np.int64) >> np.int64(rate)
        np.add.at(self._total, places.ravel(), np.uint16(1))
        np.add.at(self._ones, places[:, bits].ravel(), np.uint16(1))
        after = self._total[places]
        over = places[after > _LIMIT]
        if len(over):
            over = np.unique(over)
            self._total[over] >>= np.uint16(1)
            self._ones[over] >>= np.uint16(1)
