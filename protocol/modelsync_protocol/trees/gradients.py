"""Codes what gradient boosting leaves in leaves: hessians and values, through the gradients behind them. No I/O here.

A leaf with gradient G, hessian H and regularisation λ holds -η G / (H + λ); G and H are sums of float32 (`grids`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelsync_protocol.trees import columns, grids, splits
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.floats import Floats, Residuals, words_of
from modelsync_protocol.trees.grids import Grids
from modelsync_protocol.trees.lanes import Lanes
from modelsync_protocol.trees.mixing import joined
from modelsync_protocol.trees.shape import Shape

EPSILON = float(np.float32(1e-15))
"""LightGBM's kEpsilon, which a leaf's hessian lacks again when it is written; scikit-learn adds as much."""

FEW = 512
"""Elements that tables are made for where contexts are few: a device has little memory."""

_NEAR = 1 << 12
"""Units in the last place within which a value shows that the gradient is right."""


@dataclass(frozen=True, slots=True)
class Regularisation:
    """`share`: the gradient of samples without the class, by their hessian, 0 if unknown. `unit`: each sample's
    hessian, 0 where it varies. `absolute`: the L1 penalty. `told`: hessians are in the file, to the bit.
    """

    share: float
    unit: float
    absolute: float
    told: bool


@dataclass(frozen=True, slots=True)
class Leaves:
    """Of all nodes, zero but in leaves."""

    weight: Floats
    value: Floats
    gradient: Floats


class GradientLeaves:
    """Codes leaves, those on the left first."""

    def __init__(self, parameters: Regularisation) -> None:
        self._parameters = parameters
        self._hessians, self._gradients = Grids(FEW), Grids(FEW)
        self._sides = columns.mixer(3, 1, FEW)
        self._weights, self._values = Residuals(FEW), Residuals(FEW)

    def run(
        self,
        lanes: Lanes,
        shape: Shape,
        given: tuple[Integers, Floats, Floats],
        known: tuple[Floats, Floats] | None,
    ) -> Leaves:
        """`given`: samples, λ and η of each node; `known`: (weight, value)."""
        count = given[0]
        made = Leaves(np.zeros(shape.count), np.zeros(shape.count), np.zeros(shape.count))
        for right in (False, True):
            (nodes,) = (shape.leaf & (shape.right == right)).nonzero()
            if not len(nodes):
                continue
            sister = np.full(len(nodes), -1, np.int64)
            if right:
                near = nodes - 1
                share = made.weight[near] * count[nodes] / np.maximum(count[near], 1)
                sister = np.where(shape.leaf[near], _magnitude(share), -1)
            parts = None if known is None else (known[0][nodes], known[1][nodes])
            self._weigh(lanes, shape, nodes, sister, (count, made), None if parts is None else parts[0])
            self._value(lanes, shape, nodes, given, made, None if parts is None else parts[1])
        return made

    def _weigh(
        self,
        lanes: Lanes,
        shape: Shape,
        nodes: Integers,
        sister: Integers,
        given: tuple[Integers, Leaves],
        exact: Floats | None,
    ) -> None:
        p = self._parameters
        count, made = given
        size, depth = splits.bucket(count[nodes]), _depth(shape, nodes)
        if p.unit:
            guess = count[nodes].astype(np.float64) * p.unit
        else:
            amounts = None if exact is None else grids.quanta(exact, lambda some: some, exact, exactly=not p.told)
            guess = self._hessians.run(lanes, np.zeros(len(nodes)), (size, sister), amounts)
        if p.told:
            at = shape.right[nodes].astype(np.int64)
            guess = self._weights.run(lanes, guess, (at, depth), exact)
        made.weight[nodes] = guess

    def _value(
        self,
        lanes: Lanes,
        shape: Shape,
        nodes: Integers,
        given: tuple[Integers, Floats, Floats],
        made: Leaves,
        exact: Floats | None,
    ) -> None:
        p = self._parameters
        count, penalty, rate = given[0][nodes], given[1][nodes], given[2][nodes]
        weight = made.weight[nodes]
        size, near = splits.bucket(count), _magnitude(weight)
        by = weight + EPSILON + penalty
        centre = np.zeros(len(nodes))
        if p.share:
            samples = count.astype(np.float64)
            root = 1.0 - 4.0 * p.share * weight / samples
            centre = samples * (1.0 - np.sqrt(np.maximum(root, 0.0))) / 2.0
        positive = amounts = None
        if exact is not None:
            positive = (exact > 0).astype(np.int64)
            sign = np.where(positive == 1, 1.0, -1.0)
            guess = np.abs(exact) * by / rate + p.absolute
            amounts = grids.quanta(guess, lambda g: sign * np.maximum(g - p.absolute, 0.0) / by * rate, exact)
        context = stacked(joined(size, 1), joined(near, 2), joined(size, near, _depth(shape, nodes), 3))
        positive = columns.symbols(self._sides, lanes, context, 1, positive)
        sign = np.where(positive == 1, 1.0, -1.0)
        amount = self._gradients.run(lanes, centre, (near * 2 + positive, size * 2 + positive), amounts)
        guess = sign * np.maximum(amount - p.absolute, 0.0) / by * rate
        found = self._values.run(lanes, guess, (positive, near), exact)
        made.value[nodes] = found
        apart = np.abs((words_of(found) - words_of(guess)).view(np.int64))
        made.gradient[nodes] = np.where(apart < _NEAR, sign * amount, found * by / rate)


def _depth(shape: Shape, nodes: Integers) -> Integers:
    return np.minimum(np.searchsorted(np.array(shape.starts), nodes, "right") - 1, 12)


def _magnitude(values: Floats) -> Integers:
    """Binary exponents, in halves."""
    mantissa, exponent = np.frexp(values)
    return np.where(np.isfinite(values), exponent.astype(np.int64) * 2 + (mantissa >= 0.75), 4096)


def soft(gradient: Floats, absolute: float) -> Floats:
    """What the L1 penalty leaves of gradients."""
    result: Floats = np.sign(gradient) * np.maximum(np.abs(gradient) - absolute, 0.0)
    return result
