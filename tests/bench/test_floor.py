"""The floor that encodings are held against is a coder's that learns as it goes."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bench import floor
from tests.server.tensors.worlds import safetensors, source


def test_the_adaptive_length_is_that_of_coding_symbol_by_symbol() -> None:
    symbols = np.random.default_rng(1).choice((3, 7, 200), 400, p=(0.7, 0.2, 0.1)).tolist()
    seen: Counter[int] = Counter()
    bits = 0.0
    for symbol in symbols:
        bits -= math.log2((seen[symbol] + floor._ALPHA) / (sum(seen.values()) + 3 * floor._ALPHA))
        seen[symbol] += 1
    cells = np.bincount(symbols, minlength=256)[None]
    assert floor._adaptive(cells) == pytest.approx(bits)


def test_tuned_floats_are_within_a_few_per_cent_of_the_floor() -> None:
    chance = np.random.default_rng(2)
    old = chance.normal(0, 0.05, (160, 200)).astype(np.float16)
    new = (old + chance.normal(0, 2e-4, old.shape)).astype(np.float16)
    base, target = (source({"m.safetensors": safetensors({"w": ("f16", w)})}) for w in (old, new))
    with ThreadPoolExecutor(1) as pool:
        found = floor.floors(base, target, pool)
    (one,) = found.values()
    assert list(found) == ["f16 delta"] and one.elements == old.size
    assert one.ours < 1.03 * one.adaptive
