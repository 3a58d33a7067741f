"""XGBoost's trees as columns: sums of hessians, weights and gains of inner nodes follow from those below. No I/O here.

Chen and Guestrin, arXiv:1603.02754: with hessian H, regularisation λ and weight w = -G / (H + λ), a leaf holds η w, and
a split gains what w² (H + λ) of its children has over its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelsync_protocol.trees import columns, records
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.floats import Drawn, Floats, Residuals, floats_of, words_of
from modelsync_protocol.trees.lanes import Lanes, Learner
from modelsync_protocol.trees.mixing import joined
from modelsync_protocol.trees.shape import Shape
from modelsync_protocol.trees.splits import Layout, SplitModel, Splits


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is common to all trees of a frame; `rate` is η, `penalty` λ."""

    nested: bool
    feature_bits: int
    rate: float
    penalty: float


@dataclass(frozen=True, slots=True)
class Booster:
    """Nodes wave by wave. `condition` is a threshold, in a leaf its value; `default` which way missing values go."""

    shape: Shape
    feature: Integers
    condition: Floats
    default: Integers
    hessian: Floats
    weight: Floats
    gain: Floats


class BoosterModel:
    """Codes a booster's trees after learning from the base's."""

    def __init__(self, parameters: Parameters, old: Booster, elements: int) -> None:
        self._parameters, self._old = parameters, old
        inner = ~old.shape.leaf
        groups = 1 << parameters.feature_bits
        self._elements = elements
        self._thresholds = Drawn(groups, (old.feature[inner], old.condition[inner]), elements, single=True)
        leaves = old.shape.leaf
        zeros = np.zeros(int(leaves.sum()), np.int64)
        self._hessians = Drawn(1, (zeros, old.hessian[leaves]), elements, single=True, inputs=5)
        self._values = Drawn(1, (zeros, old.condition[leaves]), elements, single=True, inputs=5)
        self._sums, self._weights, self._gains, self._same = (Residuals(elements, single=True) for _ in range(4))
        self._defaults = columns.mixer(2, columns.NUMBER_SLOTS, elements)

    def run(self, lanes: Lanes, trees: int, twins: Integers, known: Booster | None) -> Booster:
        """Code `trees` trees; `twins` names the base's tree that each is likely to resemble, or -1."""
        inner = None if known is None else ~known.shape.leaf
        self._thresholds.prepare(lanes, None if known is None else (known.feature[inner], known.condition[inner]))
        for drawn, values in (
            (self._hessians, None if known is None else known.hessian),
            (self._values, None if known is None else known.condition),
        ):
            leaves = None if known is None or values is None else values[known.shape.leaf]
            drawn.prepare(lanes, None if leaves is None else (np.zeros(len(leaves), np.int64), leaves))
        p = self._parameters
        layout = Layout(p.feature_bits, 0, 1, 0, self._thresholds.entries.starts, p.nested)
        model = SplitModel(layout, self._elements, self._thresholds.masses)
        old, learner = self._old, Learner(lanes.count)
        old_splits = None
        if old.shape.count:
            old_splits = self._splits(old)
            if not p.nested or records.nested(old_splits):
                model.run(learner, int(old.shape.tree.max()) + 1, old_splits, None)
            self._rest(learner, old_splits, old, None)
        found = model.run(lanes, trees, None if known is None else self._splits(known), old_splits, twins)
        return self._rest(lanes, found, known, old_splits)

    def _splits(self, booster: Booster) -> Splits:
        inner = ~booster.shape.leaf
        place = np.full(booster.shape.count, -1, np.int64)
        words = words_of(booster.condition[inner])
        place[inner] = self._thresholds.entries.find(booster.feature[inner], words)
        nothing = np.zeros((0, booster.shape.count), np.int64)
        return Splits(booster.shape, np.where(inner, booster.feature, -1), place, nothing)

    def _rest(self, lanes: Lanes, found: Splits, known: Booster | None, old: Splits | None) -> Booster:
        shape, old_booster = found.shape, self._old
        leaf = shape.leaf
        feature = np.where(leaf, 0, found.feature)
        condition, hessian = np.zeros(shape.count), np.zeros(shape.count)
        condition[~leaf] = floats_of(self._thresholds.entries.words[found.place[~leaf]])
        nodes = np.flatnonzero(leaf)
        twin = np.full(len(nodes), -1, np.int64)
        if old is not None and found.twin is not None:
            twin = found.twin[nodes]
            twin = np.where((twin >= 0) & old.shape.leaf[twin], twin, -1)
        depth = shape.depths()
        parent = shape.parent[nodes]
        above = np.where(parent >= 0, found.feature[parent], -1)
        previous = self._drawn_leaves(
            lanes, self._hessians, nodes, shape, (twin, above, depth[nodes]), known, "hessian"
        )
        hessian[nodes] = floats_of(self._hessians.entries.words[previous])
        placed = self._drawn_leaves(
            lanes, self._values, nodes, shape, (twin, previous, depth[nodes]), known, "condition"
        )
        condition[nodes] = floats_of(self._values.entries.words[placed])
        weight, gain = condition.copy(), np.zeros(shape.count)
        kind, size = leaf.astype(np.int64), np.minimum(depth, 12)
        self._same_floats(lanes, nodes, weight, None if known is None else known.weight, kind, size)
        self._same_floats(lanes, nodes, gain, None if known is None else known.gain, kind, size)
        with np.errstate(all="ignore"):
            self._upwards(lanes, shape, (hessian, weight, gain), known)
        inner = np.flatnonzero(~leaf)
        default = np.zeros(shape.count, np.int64)
        context = stacked(joined(feature), joined(kind))
        default = columns.numbers(self._defaults, lanes, context, None if known is None else known.default)
        del old_booster, inner
        return Booster(shape, feature, condition, default, hessian, weight, gain)

    def _same_floats(
        self, lanes: Lanes, nodes: Integers, field: Floats, known: Floats | None, kind: Integers, size: Integers
    ) -> None:
        """Fields of leaves that are as expected, mostly."""
        context = kind[nodes], size[nodes]
        field[nodes] = self._same.run(lanes, field[nodes], context, None if known is None else known[nodes])

    def _drawn_leaves(
        self,
        lanes: Lanes,
        drawn: Drawn,
        nodes: Integers,
        shape: Shape,
        hints: tuple[Integers, Integers, Integers],
        known: Booster | None,
        field: str,
    ) -> Integers:
        """Places of the leaves' floats: those on the left first."""
        twin, second, third = hints
        old = self._old
        values = None if known is None else getattr(known, field)[nodes]
        likely = np.full(len(nodes), -1, np.int64)
        have = twin >= 0
        if bool(have.any()):
            words = words_of(getattr(old, field)[twin[have]])
            likely[have] = drawn.entries.find(np.zeros(int(have.sum()), np.int64), words)
        result = np.full(shape.count, -1, np.int64)
        for right in (False, True):
            some = np.flatnonzero(shape.right[nodes] == right)
            sister = result[nodes[some] - 1] if right else np.full(len(some), -2, np.int64)
            near = np.where(likely[some] >= 0, likely[some] >> 4, -1)
            contexts = (
                joined(likely[some], 1),
                joined(second[some], 2),
                joined(sister, third[some], 3),
                joined(near, third[some], 4),
            )
            part = None if values is None else values[some]
            found = drawn.run_in(lanes, np.zeros(len(some), np.int64), contexts, part)
            result[nodes[some]] = found
        return result[nodes]

    def _upwards(
        self, lanes: Lanes, shape: Shape, fields: tuple[Floats, Floats, Floats], known: Booster | None
    ) -> None:
        """Hessian, weight and gain of inner nodes from their children's."""
        p = self._parameters
        hessian, weight, gain = fields
        left, right = shape.children()
        rate = np.where(shape.leaf, p.rate, 1.0)
        for nodes in records.upwards(shape):
            of_left, of_right = left[nodes], right[nodes]
            context = shape.leaf[of_left].astype(np.int64) + shape.leaf[of_right], np.zeros(len(nodes), np.int64)
            guess = hessian[of_left] + hessian[of_right]
            hessian[nodes] = self._sums.run(lanes, guess, context, None if known is None else known.hessian[nodes])
            amount = [hessian[child] + p.penalty for child in (of_left, of_right, nodes)]
            slope = [weight[child] / rate[child] for child in (of_left, of_right)]
            guess = (slope[0] * amount[0] + slope[1] * amount[1]) / amount[2]
            weight[nodes] = self._weights.run(lanes, guess, context, None if known is None else known.weight[nodes])
            won = slope[0] * slope[0] * amount[0] + slope[1] * slope[1] * amount[1]
            guess = won - weight[nodes] * weight[nodes] * amount[2]
            size = columns.log2_of(np.clip(np.nan_to_num(won / np.abs(guess), posinf=1e9), 1, 1e9).astype(np.int64))
            context = context[0], size >> 8
            gain[nodes] = self._gains.run(lanes, guess, context, None if known is None else known.gain[nodes])


def rates(booster: Booster) -> tuple[float, float]:
    """(η, λ) with which inner weights follow best from leaves. For encoders."""
    shape = booster.shape
    left, right = shape.children()
    nodes = np.flatnonzero(~shape.leaf)
    nodes = nodes[shape.leaf[left[nodes]] & shape.leaf[right[nodes]]]
    best = (np.inf, 0.3, 1.0)
    with np.errstate(all="ignore"):
        for penalty in (1.0, 0.0, 0.1, 0.01, 0.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0):
            parts = [booster.weight[c] * (booster.hessian[c] + penalty) for c in (left[nodes], right[nodes], nodes)]
            ratio = (parts[0] + parts[1]) / parts[2]
            ratio = ratio[np.isfinite(ratio)]
            if not len(ratio):
                continue
            middle = float(np.median(ratio))
            spread = float(np.median(np.abs(ratio - middle)) / max(abs(middle), 1e-9))
            if spread < best[0]:
                best = spread, middle, penalty
    rounded = float(np.round(best[1], 4))
    rate = float(np.float32(rounded)) if abs(rounded - best[1]) < 1e-5 * max(1e-9, abs(best[1])) * 10 else best[1]
    return (rate if rate else 1.0), best[2]
