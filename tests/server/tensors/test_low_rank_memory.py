"""Looking for a change of low rank takes a worker 64 MiB, however large the matrix is, and finds the same."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.adapted import Product
from modelsync_protocol.codecs.numerals import Numeral
from modelsync_server.low_rank import finder, large

MIB = 2**20
SIDE, RANK = 1536, 4
"""Of a matrix that takes 18 MiB as float64: difference, units, weights and what they are made of would be over 100."""


def moved(kind: Numeral) -> tuple[np.ndarray, np.ndarray]:
    """A matrix before and after a change of rank RANK, as bits."""
    random = np.random.default_rng(5)
    old = random.standard_normal((SIDE, SIDE), np.float32)
    left, right = (random.standard_normal(shape, np.float32) for shape in ((SIDE, RANK), (RANK, SIDE)))
    if kind is numerals.I8:
        old, new = np.clip(old * 32, -127, 127), np.clip(old * 32 + left @ right * 2, -127, 127)
        rounded = [np.rint(values).astype(np.int8).view(np.uint8).reshape(-1) for values in (old, new)]
        return rounded[0], rounded[1]
    old = old * np.float32(0.02)
    new = old + left @ right * np.float32(0.002)
    halves = [values.astype(np.float16).view(np.uint16).reshape(-1) for values in (old, new)]
    return halves[0], halves[1]


@contextmanager
def within(size: int) -> Iterator[None]:
    """Fails if what is done inside takes more than `size` bytes of memory. BLAS has one thread, as in a pool."""
    with threadpool_limits(1, "blas"):
        tracemalloc.start()
        try:
            yield
            assert tracemalloc.get_traced_memory()[1] < size
        finally:
            tracemalloc.stop()


def test_a_large_matrix_takes_no_more_memory_than_a_block() -> None:
    old, new = moved(numerals.F16)
    with within(64 * MIB):
        pair = finder.pair_of(numerals.F16, old, new, SIDE)
        change = None if pair is None else finder.found(pair)
    assert change is not None and isinstance(change.product, Product) and change.product.left.shape == (SIDE, RANK)


def test_a_large_matrix_of_bytes_does_neither() -> None:
    old, new = moved(numerals.I8)
    with within(64 * MIB):
        pair = finder.pair_of(numerals.I8, old, new, SIDE)
    assert pair is not None and np.array_equal(
        pair.difference, pair.new.view(np.int8).astype(float) - pair.old.view(np.int8)
    )


def test_what_is_solved_in_blocks_is_what_each_row_alone_gives() -> None:
    random = np.random.default_rng(6)
    shape = 1025, 2048  # two blocks of unequal size
    assert len(large.blocks(shape)) == 3
    difference, weights = random.standard_normal(shape), random.random(shape) + 0.1
    right = random.standard_normal((3, shape[1]))
    left = large.solved(difference, weights, right)
    for row in (0, 341, 342, 1024):
        roots = np.sqrt(weights[row])
        alone, *_ = np.linalg.lstsq((right * roots).T, difference[row] * roots, rcond=None)
        np.testing.assert_allclose(left[row], alone, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 5), (3, 1 << 20), (4097, 4096), (2, 9)])
def test_blocks_tile_a_matrix_and_never_leave_one_row_alone(shape: tuple[int, int]) -> None:
    found = large.blocks(shape)
    assert [part.start for part in found] == [0, *(part.stop for part in found[:-1])] and found[-1].stop == shape[0]
    assert len(found) == 1 or min(part.stop - part.start for part in found) >= 2
