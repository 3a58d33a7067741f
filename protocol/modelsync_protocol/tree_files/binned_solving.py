"""Works out the hessians behind HistGradientBoosting's values and gains. For encoders; no I/O here.

Let u = G / (H + λ), which is in the file for every node but the root (a leaf's value divided by -η). Node p with
children a and b has two linear equations in the hessians of a and p: of sums of gradients, and of the gain. What comes
out is near enough to the truth that rounding to a multiple of a power of two (`trees.grids`) finds it.
"""

from __future__ import annotations

import numpy as np

from modelsync_protocol.trees import grids
from modelsync_protocol.trees.binned import Binned
from modelsync_protocol.trees.floats import Floats

_SLACK = 256.0
_STEPS = 40


def hessians(trees: Binned, rate: float, penalty: float) -> Floats:
    """Hessians of all leaves, the number of samples where nothing is found."""
    shape = trees.shape
    left, right = shape.children()
    with np.errstate(all="ignore"):
        u = trees.value / np.where(shape.leaf, rate, 1.0)
        result = np.full(shape.count, np.nan)
        for depth, (begin, end) in enumerate(zip(shape.starts, shape.starts[1:], strict=False)):
            nodes = np.flatnonzero(~shape.leaf[begin:end]) + begin
            if not len(nodes) or depth == 0:
                continue
            a, b = left[nodes], right[nodes]
            apart = u[a] - u[b]
            own = _own(u[a], u[b], u[nodes], trees.gain[nodes], penalty)
            whole = np.where(np.isfinite(result[nodes]), result[nodes], own)
            result[nodes] = whole
            result[a] = ((u[nodes] - u[b]) * (whole + penalty) - penalty * u[a]) / apart
            result[b] = whole - result[a]
        _below_roots(trees, u, result, penalty)
        leaf = shape.leaf
        found = np.where(leaf, result, 1.0)
        quantum, multiple = grids.quanta(found, lambda some: some, found, slack=_SLACK)
        amounts = grids.amounts_of(quantum, multiple)
    usable = leaf & np.isfinite(found) & (amounts > 0)
    return np.where(usable, amounts, np.where(leaf, np.maximum(trees.count, 1).astype(np.float64), 0.0))


def _own(a: Floats, b: Floats, p: Floats, gain: Floats, penalty: float) -> Floats:
    """A node's hessian from its gain, and its children's and its own u."""
    # a A + b B - p P = 0 and a² A + b² B - p² P = gain, with A, B, P the hessians + λ, and A + B = P + λ.
    share = (p - b) / (a - b)
    spread = share * (1.0 - share) * (a - b) * (a - b)
    if not penalty:
        return gain / spread
    # A = (p P - b (P + λ)) / (a - b): linear in P; the gain is so, too.
    slope_a, fixed_a = (p - b) / (a - b), -b * penalty / (a - b)
    slope_b, fixed_b = 1.0 - slope_a, penalty - fixed_a
    slope = a * a * slope_a + b * b * slope_b - p * p
    fixed = a * a * fixed_a + b * b * fixed_b
    return (gain - fixed) / slope - penalty


def _below_roots(trees: Binned, u: Floats, result: Floats, penalty: float) -> None:
    """Leaves right below a root, whose own u is not in the file: from the root's gain and the sister's hessian."""
    shape = trees.shape
    left, right = shape.children()
    roots = np.flatnonzero(~shape.leaf[: shape.starts[1]]) if len(shape.starts) > 1 else np.zeros(0, np.int64)
    for one, other in ((left[roots], right[roots]), (right[roots], left[roots])):
        some = shape.leaf[one] & ~shape.leaf[other]
        leaf, sister, root = one[some], other[some], roots[some]
        known = result[sister] + penalty
        guess = np.maximum(trees.count[leaf] * known / np.maximum(trees.count[sister], 1), 1e-9)
        for _ in range(_STEPS):
            total = guess + known - penalty
            sums = u[leaf] * guess + u[sister] * known
            value = u[leaf] ** 2 * guess + u[sister] ** 2 * known - sums * sums / total - trees.gain[root]
            slope = (u[leaf] - sums / total) ** 2
            step = guess - value / slope
            guess = np.where(np.isfinite(step) & (step > 0), step, guess / 2)
        result[leaf] = guess - penalty
