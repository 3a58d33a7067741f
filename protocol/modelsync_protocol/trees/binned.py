"""HistGradientBoosting's trees as columns: thresholds are edges of bins, the rest follows from leaves. No I/O here.

scikit-learn's ensemble/_hist_gradient_boosting: a node with gradient G and hessian H holds -G / (H + λ), a leaf η times
that; a split gains what value × gradient of the node has over its children's. Hessians are in no file: an encoder works
them out of values and gains (`tree_files.binned_solving`), and they travel instead of inner values and gains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.trees import columns, records
from modelsync_protocol.trees.columns import Integers, Masses, stacked
from modelsync_protocol.trees.dictionary import Dictionary
from modelsync_protocol.trees.floats import Drawn, Floats, Residuals, floats_of, words_of
from modelsync_protocol.trees.gradients import EPSILON, FEW, GradientLeaves, Regularisation
from modelsync_protocol.trees.lanes import Lanes, Learner
from modelsync_protocol.trees.machine_words import numbered, repeated
from modelsync_protocol.trees.mixing import joined
from modelsync_protocol.trees.shape import Shape
from modelsync_protocol.trees.splits import Layout, SplitModel, Splits

_NOT_SPLIT = -1.0
"""The gain of a leaf that no split was looked for in."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is common to all trees of a frame; `rate` is η, `penalty` λ."""

    nested: bool
    feature_bits: int
    rate: float
    penalty: float
    leaves: Regularisation


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges of bins: which feature's, ascending in each; feature i of `features` has `starts[i]` to `starts[i + 1]`."""

    features: int
    group: Integers
    edge: Floats


@dataclass(frozen=True, slots=True)
class Binned:
    """Nodes wave by wave. `weight`: hessians of leaves as an encoder found them, else zero."""

    shape: Shape
    feature: Integers
    threshold: Floats
    missing: Integers
    categorical: Integers
    bitset: Integers
    bin: Integers
    count: Integers
    value: Floats
    gain: Floats
    weight: Floats


class BinnedModel:
    """Codes edges and trees, after learning splits from the base's."""

    def __init__(self, parameters: Parameters, old: Binned, old_edges: Edges, elements: int) -> None:
        self._parameters, self._old, self._old_edges = parameters, old, old_edges
        self._elements = elements
        inner = ~old.shape.leaf
        groups = np.concatenate([old.feature[inner], old_edges.group])
        floats = np.concatenate([old.threshold[inner], old_edges.edge])
        self._drawn = Drawn(1 << parameters.feature_bits, (groups, floats), 1)
        self._members = columns.mixer(3, 1, 2 * FEW)
        self._flags = columns.mixer(2, columns.NUMBER_SLOTS, 2 * FEW)
        self._leaves = GradientLeaves(parameters.leaves)
        self._values, self._gains, self._open = Residuals(FEW), Residuals(FEW), Residuals(FEW)
        self._closed = columns.mixer(2, 1, FEW)

    def run(
        self, lanes: Lanes, trees: int, features: int, twins: Integers, known: tuple[Binned, Edges] | None
    ) -> tuple[Binned, Edges]:
        """Code `trees` trees on `features` features whose edges are there."""
        p, old = self._parameters, self._old
        some = None
        if known is not None:
            inner = ~known[0].shape.leaf
            some = (
                np.concatenate([known[0].feature[inner], known[1].group]),
                np.concatenate([known[0].threshold[inner], known[1].edge]),
            )
        self._drawn.prepare(lanes, some)
        entries = self._drawn.entries
        member, edges = self._edges(lanes, features, None if known is None else known[1])
        masses = self._drawn.masses if not features else Masses(np.zeros(len(entries.words), np.int64), ~member)
        layout = Layout(p.feature_bits, 0, 1, 2, entries.starts, p.nested)
        model = SplitModel(layout, self._elements, masses)
        old_splits = None
        if old.shape.count:
            old_splits = self._splits(old)
            if not p.nested or records.nested(old_splits):
                model.run(Learner(lanes.count), int(old.shape.tree.max()) + 1, old_splits, None)
        splits = None if known is None else self._splits(known[0])
        found = model.run(lanes, trees, splits, old_splits, twins)
        rank = self._ranks(member, features)
        return self._rest(lanes, found, rank, None if known is None else known[0]), edges

    def _splits(self, trees: Binned) -> Splits:
        inner = ~trees.shape.leaf
        place = np.full(trees.shape.count, -1, np.int64)
        place[inner] = self._drawn.entries.find(trees.feature[inner], words_of(trees.threshold[inner]))
        holds = np.stack([trees.count, np.zeros_like(trees.count)])
        return Splits(trees.shape, np.where(inner, trees.feature, -1), place, holds)

    def _edges(self, lanes: Lanes, features: int, known: Edges | None) -> tuple[NDArray[np.bool_], Edges]:
        """(which of the dictionary's entries are edges, the edges)."""
        entries: Dictionary = self._drawn.entries
        limit = int(entries.starts[features])
        group = repeated(numbered(features), np.diff(entries.starts[: features + 1]))
        held = np.zeros(len(entries.words), np.int64)
        old = self._old_edges
        held[entries.find(old.group, words_of(old.edge))] = 1
        fresh = self._drawn.fresh.astype(np.int64)
        kind = (held + 2 * fresh)[:limit]
        before = np.concatenate([[0], kind[:-1]])[:limit]
        after = np.concatenate([kind[1:], [0]])[:limit]
        flags = None
        if known is not None:
            flags = np.zeros(len(entries.words), np.int64)
            flags[entries.find(known.group, words_of(known.edge))] = 1
            flags = flags[:limit]
        context = stacked(joined(kind, 1), joined(kind, before, after, 2), joined(kind, group, 3))
        chosen = columns.symbols(self._members, lanes, context, 1, flags).astype(bool)
        member = np.zeros(len(entries.words), bool)
        member[:limit] = chosen
        return member, Edges(features, group[chosen], floats_of(entries.words[:limit][chosen]))

    def _ranks(self, member: NDArray[np.bool_], features: int) -> Integers:
        """The bin that each of the dictionary's entries is the edge of, as far as that is known."""
        entries = self._drawn.entries
        before: Integers = np.cumsum(member) - member
        group = repeated(numbered(len(entries.starts) - 1), np.diff(entries.starts))
        rank: Integers = before - before[np.minimum(entries.starts[group], len(member) - 1)]
        if features:
            return rank
        rank = np.full(len(member), 0, np.int64)
        old, (inner,) = self._old, (~self._old.shape.leaf).nonzero()
        place = entries.find(old.feature[inner], words_of(old.threshold[inner]))
        rank[place] = old.bin[inner]
        return rank

    def _rest(self, lanes: Lanes, found: Splits, rank: Integers, known: Binned | None) -> Binned:
        p, shape = self._parameters, found.shape
        leaf = shape.leaf
        (inner,) = (~leaf).nonzero()
        feature = np.where(leaf, 0, found.feature)
        threshold = np.zeros(shape.count)
        place = found.place[inner]
        threshold[inner] = floats_of(self._drawn.entries.words[place])
        flags = [np.zeros(shape.count, np.int64) for _ in range(4)]
        about = feature[inner]
        fields = ("missing", "categorical", "bin", "bitset")
        guess = [np.zeros(len(inner), np.int64), np.zeros(len(inner), np.int64), rank[place], np.zeros(0, np.int64)]
        for number, name in enumerate(fields):
            if name == "bitset":
                guess[3] = _sets(shape, flags[1])[inner]
            exact = None if known is None else columns.signed(getattr(known, name)[inner] - guess[number])
            context = stacked(joined(about, number, 1), np.full(len(inner), number))
            apart = columns.numbers(self._flags, lanes, context, exact)
            flags[number][inner] = guess[number] + columns.unsigned(apart)
        count = found.holds[0]
        with np.errstate(all="ignore"):
            given = count, np.full(shape.count, p.penalty), np.full(shape.count, p.rate)
            leaves = self._leaves.run(lanes, shape, given, None if known is None else (known.weight, known.value))
            value, gain = self._upwards(lanes, shape, leaves.weight, leaves.gradient, leaves.value, known)
            self._leaf_gains(lanes, shape, gain, None if known is None else known.gain)
        return Binned(
            shape,
            feature,
            threshold,
            flags[0],
            flags[1],
            flags[3],
            flags[2],
            count,
            value,
            gain,
            np.where(leaf, leaves.weight, 0.0),
        )

    def _upwards(
        self,
        lanes: Lanes,
        shape: Shape,
        weight: Floats,
        gradient: Floats,
        value: Floats,
        known: Binned | None,
    ) -> tuple[Floats, Floats]:
        """(values, gains) of all nodes; gains of leaves are zero yet."""
        p = self._parameters
        left, right = shape.children()
        weight, gradient = weight.copy(), gradient.copy()
        for nodes in records.upwards(shape):
            weight[nodes] = weight[left[nodes]] + weight[right[nodes]]
            gradient[nodes] = gradient[left[nodes]] + gradient[right[nodes]]
        # A leaf's gradient has the sign of its value, which is against it.
        plain = gradient / (weight + p.penalty + EPSILON)
        won = plain * gradient
        (inner,) = (~shape.leaf).nonzero()
        of_left, of_right = left[inner], right[inner]
        guess = (won[of_left] - won[inner]) + won[of_right]
        kind = shape.leaf[of_left].astype(np.int64) + shape.leaf[of_right]
        small = columns.log2_of(
            np.clip(np.nan_to_num((won[of_left] + won[of_right]) / np.abs(guess), posinf=1e9), 1, 1e9).astype(np.int64)
        )
        root = (shape.parent[inner] < 0).astype(np.int64)
        result, gain = value.copy(), np.zeros(shape.count)
        result[inner] = self._values.run(
            lanes, np.where(root == 1, 0.0, plain[inner]), (root, kind), None if known is None else known.value[inner]
        )
        gain[inner] = self._gains.run(lanes, guess, (kind, small >> 8), None if known is None else known.gain[inner])
        return result, gain

    def _leaf_gains(self, lanes: Lanes, shape: Shape, gain: Floats, known: Floats | None) -> None:
        """What splitting leaves would have gained: less than any split did, or nothing known."""
        (leaf,) = shape.leaf.nonzero()
        (inner,) = (~shape.leaf).nonzero()
        least = np.full(int(shape.tree.max(initial=-1)) + 1, np.inf)
        np.minimum.at(least, shape.tree[inner], gain[inner])
        exact = None if known is None else known[leaf]
        closed = None if exact is None else (exact == _NOT_SPLIT).astype(np.int64)
        at = shape.right[leaf].astype(np.int64)
        depth = np.minimum(shape.depths()[leaf], 12)
        closed = columns.symbols(self._closed, lanes, stacked(joined(at, 1), joined(depth, 2)), 1, closed)
        gain[leaf] = np.where(closed == 1, _NOT_SPLIT, 0.0)
        some = leaf[closed == 0]
        context = np.zeros(len(some), np.int64), np.zeros(len(some), np.int64)
        gain[some] = self._open.run(lanes, least[shape.tree[some]], context, None if known is None else known[some])


def _sets(shape: Shape, categorical: Integers) -> Integers:
    """How many splits of categories come before each node, depth first in its tree."""
    order = np.argsort(shape.depth_first(), kind="stable")
    flags = np.where(shape.leaf, 0, categorical)[order]
    before = np.cumsum(flags) - flags
    tree = shape.tree[order]
    first = np.searchsorted(tree, numbered(int(tree.max(initial=-1)) + 1))
    result = np.zeros(shape.count, np.int64)
    result[order] = before - before[first[tree]] if len(tree) else before
    return result
