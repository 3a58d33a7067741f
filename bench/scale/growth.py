"""How a curve grows, as one number. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

Curve = Sequence[tuple[float, float]]
"""Points (x, y), in any order; both positive, unless a function says otherwise."""


def exponent(curve: Curve) -> float:
    """b of y = a·xᵇ by least squares in log space: 1 is linear, 0 does not grow. ValueError with fewer than two x."""
    points = [(math.log(x), math.log(y)) for x, y in curve]
    middle_x, middle_y = (sum(values) / len(points) for values in zip(*points, strict=True)) if points else (0.0, 0.0)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    if spread == 0:
        raise ValueError("a curve has at least two points of different x")
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread


def ratio(curve: Curve) -> float:
    """y at the largest x by y at the smallest."""
    points = sorted(curve)
    return points[-1][1] / points[0][1]


def of_linear(curve: Curve) -> float:
    """What the largest number of things costs by as many times one thing's cost; KeyError without a point at 1.

    With a point at 0, what no thing at all costs is taken off both.
    """
    points = dict(curve)
    fixed, (most, last) = points.get(0, 0.0), max(points.items())
    return (last - fixed) / (most * (points[1] - fixed))
