"""Least squares without a numeric library: the package that the abridged story's model is made by."""

from __future__ import annotations

from collections.abc import Sequence


def least_squares(rows: Sequence[Sequence[float]], targets: Sequence[float]) -> list[float]:
    """The plane nearest to the targets: a coefficient for each column, and the constant."""
    columns = [*zip(*rows, strict=True), [1.0] * len(rows)]
    matrix = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in columns] for one in columns]
    right = [sum(a * b for a, b in zip(one, targets, strict=True)) for one in columns]
    size = len(columns)
    for step in range(size):
        pivot = max(range(step, size), key=lambda row: abs(matrix[row][step]))
        matrix[step], matrix[pivot] = matrix[pivot], matrix[step]
        right[step], right[pivot] = right[pivot], right[step]
        for row in range(step + 1, size):
            factor = matrix[row][step] / matrix[step][step]
            right[row] -= factor * right[step]
            matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[step], strict=True)]
    solved = [0.0] * size
    for step in reversed(range(size)):
        rest = sum(matrix[step][column] * solved[column] for column in range(step + 1, size))
        solved[step] = (right[step] - rest) / matrix[step][step]
    return solved


def on_plane(plane: Sequence[float], row: Sequence[float]) -> float:
    """The plane's value."""
    return sum(a * b for a, b in zip(plane, [*row, 1.0], strict=True))
