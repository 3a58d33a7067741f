"""LightGBM's trees as columns: all that is told of inner nodes follows from the leaves' gradients. No I/O here.

A leaf with gradient G, hessian H and regularisation λ holds -η G / (H + λ); G and H are sums of float32 (`grids`).
Trees grow at the leaf that gains most, and nodes are numbered as they grow, so gains give the numbers.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

import numpy as np

from modelsync_protocol.errors import FormatError
from modelsync_protocol.trees import columns, records
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.digits import PER_EXPONENT, decimals
from modelsync_protocol.trees.floats import Drawn, Floats, floats_of, words_of
from modelsync_protocol.trees.gradients import FEW, GradientLeaves, Regularisation, soft
from modelsync_protocol.trees.lanes import Lanes, Learner
from modelsync_protocol.trees.mixing import joined
from modelsync_protocol.trees.shape import Shape
from modelsync_protocol.trees.splits import Layout, SplitModel, Splits


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is common to all trees of a frame.

    `shifted`: thresholds are one unit in the last place above a mean. `penalty` is λ, `more` is added to it below
    splits of categories.
    """

    nested: bool
    shifted: bool
    feature_bits: int
    penalty: float
    more: float
    leaves: Regularisation


@dataclass(frozen=True, slots=True)
class Leafwise:
    """Nodes wave by wave. `index`: each one's number in its tree, leaves and others counted apart.

    `weight` and `value` are exact in leaves, elsewhere words of six digits, as gains are; `rate`: one element a tree.
    """

    shape: Shape
    index: Integers
    feature: Integers
    threshold: Floats
    decision: Integers
    count: Integers
    weight: Floats
    value: Floats
    gain_word: Integers
    weight_word: Integers
    value_word: Integers
    rate: Floats


class LeafwiseModel:
    """Codes such trees after learning from the base's."""

    def __init__(self, parameters: Parameters, old: Leafwise, elements: int) -> None:
        self._parameters, self._old = parameters, old
        inner = ~old.shape.leaf
        self._thresholds = Drawn(
            1 << parameters.feature_bits, (old.feature[inner], self._lowered(old.threshold[inner])), 1
        )
        self._elements = elements
        self._leaves = GradientLeaves(parameters.leaves)
        self._decisions = columns.mixer(2, columns.NUMBER_SLOTS, FEW)
        self._digits = columns.mixer(3, columns.NUMBER_SLOTS, FEW)
        self._ranks = columns.mixer(2, columns.NUMBER_SLOTS, FEW)

    def _lowered(self, thresholds: Floats) -> Floats:
        return floats_of(words_of(thresholds) - np.uint64(self._parameters.shifted))

    def run(self, lanes: Lanes, rate: Floats, twins: Integers, known: Leafwise | None) -> Leafwise:
        """Code a tree for each of `rate`; `twins` names the base's tree that each is likely to resemble, or -1."""
        p = self._parameters
        inner = None if known is None else ~known.shape.leaf
        self._thresholds.prepare(
            lanes, None if known is None else (known.feature[inner], self._lowered(known.threshold[inner]))
        )
        layout = Layout(p.feature_bits, 0, 1, 2, self._thresholds.entries.starts, p.nested)
        model = SplitModel(layout, self._elements, self._thresholds.masses)
        old, learner = self._old, Learner(lanes.count)
        old_splits = None
        if old.shape.count:
            old_splits = self._splits(old)
            if not p.nested or records.nested(old_splits):
                model.run(learner, len(old.rate), old_splits, None)
            self._rest(learner, old_splits, old.rate, old)
        found = model.run(lanes, len(rate), None if known is None else self._splits(known), old_splits, twins)
        return self._rest(lanes, found, rate, known)

    def _splits(self, trees: Leafwise) -> Splits:
        inner = ~trees.shape.leaf
        place = np.full(trees.shape.count, -1, np.int64)
        words = words_of(self._lowered(trees.threshold[inner]))
        place[inner] = self._thresholds.entries.find(trees.feature[inner], words)
        holds = np.stack([trees.count, np.zeros_like(trees.count)])
        return Splits(trees.shape, np.where(inner, trees.feature, -1), place, holds)

    def _rest(self, lanes: Lanes, found: Splits, rate: Floats, known: Leafwise | None) -> Leafwise:
        p, shape = self._parameters, found.shape
        leaf = shape.leaf
        (inner,) = (~leaf).nonzero()
        feature = np.where(leaf, 0, found.feature)
        threshold = np.zeros(shape.count)
        words = self._thresholds.entries.words[found.place[inner]]
        threshold[inner] = floats_of(words + np.uint64(p.shifted))
        decision = np.zeros(shape.count, np.int64)
        decision[inner] = columns.numbers(
            self._decisions,
            lanes,
            stacked(joined(feature[inner], 1), joined(shape.depths()[inner], 2)),
            None if known is None else known.decision[inner],
        )
        count = found.holds[0]
        penalty = np.full(shape.count, p.penalty)
        below = shape.parent >= 0
        penalty[below] += np.where(decision[shape.parent[below]] & 1 == 1, p.more, 0.0)
        with np.errstate(all="ignore"):
            given = count, penalty, rate[shape.tree]
            leaves = self._leaves.run(lanes, shape, given, None if known is None else (known.weight, known.value))
            weight, value = leaves.weight, leaves.value
            sums = followed(shape, weight, value, (penalty, p.leaves.absolute), rate)
            gain = self._told(lanes, sums[0][inner], shape, inner, 0, None if known is None else known.gain_word)
            weights = self._told(lanes, sums[1][inner], shape, inner, 1, None if known is None else known.weight_word)
            values = self._told(lanes, sums[2][inner], shape, inner, 2, None if known is None else known.value_word)
        index = self._numbered(lanes, shape, gain, None if known is None else known.index)
        return Leafwise(shape, index, feature, threshold, decision, count, weight, value, gain, weights, values, rate)

    def _told(
        self, lanes: Lanes, guess: Floats, shape: Shape, inner: Integers, field: int, known: Integers | None
    ) -> Integers:
        """Words of six digits."""
        expected = decimals(guess)
        values = None if known is None else columns.signed(known[inner] - expected)
        root = (shape.parent[inner] < 0).astype(np.int64)
        scale = np.abs(expected) // PER_EXPONENT
        context = stacked(joined(root, field, 1), joined(root, field, scale, 2), joined(field, scale, 3))
        apart = columns.unsigned(columns.numbers(self._digits, lanes, context, values))
        result = np.zeros(shape.count, np.int64)
        result[inner] = expected + apart
        return result

    def _numbered(self, lanes: Lanes, shape: Shape, gain: Integers, known: Integers | None) -> Integers:
        """Each node's number in its tree."""
        count = int((~shape.leaf).sum())
        ranks = None if known is None else numbering(shape, gain, None, known)[1]
        context = stacked(np.full(count, 1), np.full(count, 2))
        ranks = columns.numbers(self._ranks, lanes, context, ranks)
        return numbering(shape, gain, ranks, None)[0]


def followed(
    shape: Shape, weight: Floats, value: Floats, penalties: tuple[Floats, float], rate: Floats
) -> tuple[Floats, ...]:
    """(gain, weight, value) of all nodes as they follow from leaves; `penalties`: of squares at each node, absolute."""
    penalty, absolute = penalties
    step = rate[shape.tree]
    total = weight.copy()
    gradient = value * (weight + penalty) / step
    gradient += np.sign(gradient) * absolute
    left, right = shape.children()
    for nodes in records.upwards(shape):
        total[nodes] = total[left[nodes]] + total[right[nodes]]
        gradient[nodes] = gradient[left[nodes]] + gradient[right[nodes]]
    gradient = soft(gradient, absolute)
    gain = gradient * gradient / (total + penalty)
    won = np.zeros(shape.count)
    (inner,) = (~shape.leaf).nonzero()
    won[inner] = gain[left[inner]] + gain[right[inner]] - gain[inner]
    return won, total, gradient / (total + penalty) * step


def numbering(
    shape: Shape, gain: Integers, ranks: Integers | None, known: Integers | None
) -> tuple[Integers, Integers]:
    """(each node's number in its tree, ranks) from ranks, or from the numbers.

    A rank says which of the nodes that might be split next is: 0 the one that gains most, the older leaf among equals.
    """
    left, right = (side.tolist() for side in shape.children())
    words, leaf = gain.tolist(), shape.leaf.tolist()
    result = np.zeros(shape.count, np.int64) if known is None else known
    found: list[int] = []
    given = iter(ranks.tolist()) if ranks is not None else None
    numbers = None if known is None else known.tolist()
    out = [0] * shape.count
    for root in range(shape.starts[1] if len(shape.starts) > 1 else 0):
        waiting = [(-words[root], 0, root)]
        step = 0
        while waiting:
            if given is not None:
                rank = next(given, -1)
            else:
                assert numbers is not None
                rank = next((r for r, item in enumerate(waiting) if numbers[item[2]] == step), -1)
            if not 0 <= rank < len(waiting):
                raise FormatError("a tree's nodes are numbered in no order in which it can have grown.")
            _, slot, node = waiting.pop(rank)
            found.append(rank)
            out[node] = step
            step += 1
            for child, at in ((left[node], slot), (right[node], step)):
                if leaf[child]:
                    out[child] = at
                else:
                    insort(waiting, (-words[child], at, child))
    result = np.array(out, np.int64)
    return result, np.array(found, np.int64)
