"""Matrices larger than a worker's share of memory: in scratch files, filled and worked through some rows at a time.

A matrix of up to BLOCK_ELEMENTS is one block in memory, and what is computed of it does not change by being here.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from modelsync_server.scratch import spool

BLOCK_ELEMENTS = 1 << 20
"""What is worked on at once: 8 MiB as float64, of which some six are held at a time."""

Matrix = NDArray[np.float64]


def blocks(shape: tuple[int, ...]) -> list[slice]:
    """The rows of a matrix, about BLOCK_ELEMENTS of its elements at a time, but never one row of several alone."""
    rows, columns = shape
    count = max(1, min(-(-rows * columns // BLOCK_ELEMENTS), rows // 2))
    edges = [rows * number // count for number in range(count + 1)]
    return [slice(begin, end) for begin, end in pairwise(edges)]


def empty(shape: tuple[int, ...]) -> Matrix:
    """Room for a matrix, in a scratch file if it is large. LocalError if there is none."""
    rows, columns = shape
    if rows * columns <= BLOCK_ELEMENTS:
        return np.empty(shape)
    return np.frombuffer(spool.room(8 * rows * columns), np.float64).reshape(shape)


def middle(values: Matrix) -> float:
    """The median; of large matrices that of a regular sample, for the order of all would be a copy of them."""
    return float(np.median(values.reshape(-1)[:: (values.size - 1) // BLOCK_ELEMENTS | 1]))


def noise(units: Matrix) -> float:
    """About the largest singular value that rounding to multiples of `units` alone makes."""
    columns, rows = np.zeros(units.shape[1]), np.empty(len(units))
    for part in blocks(units.shape):
        variances = units[part] * units[part] / 6  # both matrices were rounded, evenly within a unit
        columns += variances.sum(0)
        rows[part] = variances.sum(1)
    return float(np.sqrt(columns.max()) + np.sqrt(rows.max()))


def weights(units: Matrix) -> Matrix:
    """What each element counts in least squares: the more, the smaller its unit is."""
    least, result = float(units.min()), empty(units.shape)
    for part in blocks(units.shape):
        result[part] = (least / units[part]) ** 2
    return result


def solved(difference: Matrix, weights: Matrix, right: Matrix) -> Matrix:
    """The left factor with which left · right comes nearest to `difference`, by weight."""
    result = np.empty((len(difference), len(right)))
    for part in blocks(difference.shape):
        result[part] = _solved(difference[part], weights[part], right)
    return result


def _solved(difference: Matrix, weights: Matrix, right: Matrix) -> Matrix:
    rank, columns = right.shape
    above = np.triu_indices(rank)
    halves = np.empty((len(weights), len(above[0])))
    step = max(1, BLOCK_ELEMENTS // columns)
    for begin in range(0, len(above[0]), step):
        first, second = (side[begin : begin + step] for side in above)
        halves[:, begin : begin + step] = weights @ (right[first] * right[second]).T
    normal = np.empty((len(weights), rank, rank))
    normal[:, above[0], above[1]] = halves
    normal[:, above[1], above[0]] = halves
    ridge = 1e-12 * np.trace(normal, axis1=1, axis2=2) / rank + 1e-300
    normal += ridge[:, None, None] * np.eye(rank)
    sides = (weights * difference) @ right.T
    return np.asarray(np.linalg.solve(normal, sides[..., None])[..., 0], np.float64)
