"""scikit-learn's trees as columns: what of a node's record and values follows from the rest, and what must be coded.

No I/O here. Formulas: sklearn/tree/_criterion.pyx (Gini, entropy, squared error) and _tree.pyx (the record).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.trees import columns, splits
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.floats import Drawn, Floats, Residuals, floats_of, words_of
from modelsync_protocol.trees.lanes import Lanes, Learner
from modelsync_protocol.trees.logarithm import log2_of_floats
from modelsync_protocol.trees.machine_words import numbered, repeated
from modelsync_protocol.trees.mixing import joined
from modelsync_protocol.trees.shape import Shape
from modelsync_protocol.trees.splits import Layout, SplitModel, Splits

LEAF_FEATURE = -2
LEAF_THRESHOLD = -2.0


class Style(IntEnum):
    """What a node's values are: each class' share of the weight, its weight, or other numbers."""

    SHARES = 0
    WEIGHTS = 1
    NUMBERS = 2


class Impurity(IntEnum):
    """How a node's impurity follows from its classes, if it does."""

    SPREAD = 0
    GINI = 1
    ENTROPY = 2


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is common to all trees of a frame.

    `units`: a sample's weight in each class of each output, one column for all trees or one for each. `weighted`: in
    Style.NUMBERS weights are any floats, not counts.
    """

    outputs: int
    classes: int
    style: Style
    impurity: Impurity
    nested: bool
    feature_bits: int
    weighted: bool
    units: Floats

    @property
    def width(self) -> int:
        """Values of a node."""
        return self.outputs * self.classes


@dataclass(frozen=True, slots=True)
class Table:
    """Nodes of all trees, wave by wave. `tail`: what follows a record's floats, as an integer (missing_go_to_left)."""

    shape: Shape
    feature: Integers
    threshold: Floats
    impurity: Floats
    samples: Integers
    weight: Floats
    tail: Integers
    values: Floats
    """One row for each value of a node."""


class TableModel:
    """Codes a table, after learning from the base's (which may have no node)."""

    def __init__(self, parameters: Parameters, old: Table, elements: int) -> None:
        self._parameters = parameters
        self._old = old
        p = parameters
        inner = ~old.shape.leaf
        features = np.where(inner, old.feature, 0)
        self._old_usable = inner & (features >= 0) & (features < 1 << p.feature_bits)
        groups = 1 << p.feature_bits
        self._thresholds = Drawn(groups, (features[self._old_usable], old.threshold[self._old_usable]), elements)
        self._elements = elements
        self._tails = columns.mixer(2, columns.NUMBER_SLOTS, elements)
        self._weights, self._impurities = Residuals(elements), Residuals(elements)
        self._values = Residuals(elements * p.width)
        leaf = old.shape.leaf
        kinds = _leaf_kinds(old.samples)
        if p.style is Style.NUMBERS:
            rows = [(kinds[leaf] + 2 * row, old.values[row][leaf]) for row in range(p.width)]
            old_values = np.concatenate([g for g, _ in rows]), np.concatenate([v for _, v in rows])
            self._leaf_values = Drawn(2 * p.width, old_values, elements)
        if p.impurity is Impurity.SPREAD:
            self._leaf_impurities = Drawn(2, (kinds[leaf], old.impurity[leaf]), elements)

    def run(self, lanes: Lanes, trees: int, known: Table | None) -> Table:
        """Code `trees` trees: `known` to encode, None to decode."""
        p = self._parameters
        inner = None if known is None else ~known.shape.leaf
        self._thresholds.prepare(lanes, None if known is None else (known.feature[inner], known.threshold[inner]))
        layout = Layout(
            p.feature_bits,
            p.width if p.style is not Style.NUMBERS else 0,
            p.outputs,
            p.width + 1 if p.style is not Style.NUMBERS else 2,
            self._thresholds.entries.starts,
            p.nested,
        )
        model = SplitModel(layout, self._elements, self._thresholds.masses)
        old_splits = None
        learner = Learner(lanes.count)
        old = self._old
        if old.shape.count and bool(self._old_usable[~old.shape.leaf].all()):
            old_splits = self._splits(old)
            if not p.nested or nested(old_splits):
                old_splits = model.run(learner, int(old.shape.tree.max()) + 1, old_splits, None)
        found = model.run(lanes, trees, None if known is None else self._splits(known), old_splits)
        return self._rest(lanes, found, known)

    def _splits(self, table: Table) -> Splits:
        inner = ~table.shape.leaf
        place = np.full(table.shape.count, -1, np.int64)
        entries = self._thresholds.entries
        place[inner] = entries.find(table.feature[inner], words_of(table.threshold[inner]))
        return Splits(table.shape, np.where(inner, table.feature, -1), place, holds(self._parameters, table))

    def _rest(self, lanes: Lanes, found: Splits, known: Table | None) -> Table:
        p = self._parameters
        shape = found.shape
        leaf = shape.leaf
        feature = np.where(leaf, np.int64(LEAF_FEATURE), found.feature)
        threshold = np.full(shape.count, LEAF_THRESHOLD)
        threshold[~leaf] = floats_of(self._thresholds.entries.words[found.place[~leaf]])
        if p.style is Style.NUMBERS:
            samples = found.holds[0]
            weight = (samples + found.holds[1]).astype(np.float64)
        else:
            total = found.holds[: p.classes].sum(axis=0)
            samples = total - found.holds[-1]
            weight = np.zeros(shape.count)
            for row in range(p.classes):
                weight = weight + found.holds[row].astype(np.float64) * unit_of(p.units, row, shape)
        size = splits.bucket(np.maximum(samples, 0))
        kind = leaf.astype(np.int64)
        if p.weighted:
            self._add_weights(lanes, shape, weight, size, known)
        else:
            weight = self._weights.run(lanes, weight, (kind, size), None if known is None else known.weight)
        values, impurity = self._contents(lanes, found, samples, weight, known)
        left, right = shape.children()
        more = np.where(leaf, 0, (samples[left] > samples[right]).astype(np.int64))
        tail = columns.numbers(
            self._tails, lanes, stacked(joined(more, kind), joined(kind, size)), None if known is None else known.tail
        )
        return Table(shape, feature, threshold, impurity, samples, weight, tail, values)

    def _add_weights(self, lanes: Lanes, shape: Shape, weight: Floats, size: Integers, known: Table | None) -> None:
        """Weights of leaves, then of all above them as sums."""
        left, right = shape.children()
        for nodes in [np.flatnonzero(shape.leaf), *upwards(shape)]:
            inner = not bool(shape.leaf[nodes].any())
            guess = weight[left[nodes]] + weight[right[nodes]] if inner else weight[nodes]
            context = np.full(len(nodes), inner).astype(np.int64), size[nodes]
            weight[nodes] = self._weights.run(lanes, guess, context, None if known is None else known.weight[nodes])

    def _contents(
        self, lanes: Lanes, found: Splits, samples: Integers, weight: Floats, known: Table | None
    ) -> tuple[Floats, Floats]:
        """Values and impurity of all nodes."""
        p = self._parameters
        shape = found.shape
        kinds = _leaf_kinds(samples)
        size = splits.bucket(np.maximum(samples, 0))
        values = np.zeros((p.width, shape.count))
        impurity = np.zeros(shape.count)
        old = self._old
        with np.errstate(all="ignore"):
            if p.style is not Style.NUMBERS:
                for row in range(p.width):
                    guess = found.holds[row].astype(np.float64) * unit_of(p.units, row, shape)
                    guess = guess / weight if p.style is Style.SHARES else guess
                    context = np.full(shape.count, row), size
                    values[row] = self._values.run(lanes, guess, context, None if known is None else known.values[row])
                counts = np.stack(
                    [found.holds[row].astype(np.float64) * unit_of(p.units, row, shape) for row in range(p.width)]
                )
                guess = impurity_of(p, counts, weight)
                context = shape.leaf.astype(np.int64), size
                impurity = self._impurities.run(lanes, guess, context, None if known is None else known.impurity)
                return values, impurity
        (leaf,) = shape.leaf.nonzero()
        (old_leaf,) = old.shape.leaf.nonzero()
        old_size = splits.bucket(np.maximum(old.samples, 0))[old_leaf]
        learner = Learner(lanes.count)
        rows = repeated(numbered(p.width), len(leaf))
        groups = np.tile(kinds[leaf], p.width) + 2 * rows
        flat = None if known is None else known.values[:, leaf].ravel()
        self._leaf_values.prepare(lanes, None if flat is None else (groups, flat))
        self._leaf_values.learn(learner, np.tile(old_size, p.width))
        values[:, leaf] = self._leaf_values.run(lanes, groups, np.tile(size[leaf], p.width), flat).reshape(p.width, -1)
        if p.impurity is not Impurity.SPREAD:
            self._merge_all(lanes, (shape, weight, values, impurity, size), known)
            with np.errstate(all="ignore"):
                guess = impurity_of(p, values, np.ones(shape.count))
            context = shape.leaf.astype(np.int64), size
            return values, self._impurities.run(lanes, guess, context, None if known is None else known.impurity)
        flat = None if known is None else known.impurity[leaf]
        self._leaf_impurities.prepare(lanes, None if flat is None else (kinds[leaf], flat))
        self._leaf_impurities.learn(learner, old_size)
        impurity[leaf] = self._leaf_impurities.run(lanes, kinds[leaf], size[leaf], flat)
        self._merge_all(lanes, (shape, weight, values, impurity, size), known)
        return values, impurity

    def _merge_all(
        self, lanes: Lanes, fields: tuple[Shape, Floats, Floats, Floats, Integers], known: Table | None
    ) -> None:
        left, right = fields[0].children()
        for nodes in upwards(fields[0]):
            self._merge(lanes, nodes, (left[nodes], right[nodes]), fields, known)

    def _merge(
        self,
        lanes: Lanes,
        nodes: Integers,
        children: tuple[Integers, Integers],
        fields: tuple[Shape, Floats, Floats, Floats, Integers],
        known: Table | None,
    ) -> None:
        """Values and impurity of nodes from their children's."""
        shape, weight, values, impurity, size = fields
        left, right = children
        kind = shape.leaf[left].astype(np.int64) + shape.leaf[right]
        context = kind, size[nodes]
        spread = np.zeros(len(nodes))
        with np.errstate(all="ignore"):
            for row in range(self._parameters.width):
                of_left, of_right = values[row][left], values[row][right]
                guess = (weight[left] * of_left + weight[right] * of_right) / weight[nodes]
                exact = None if known is None else known.values[row][nodes]
                values[row][nodes] = self._values.run(lanes, guess, context, exact)
                if self._parameters.impurity is not Impurity.SPREAD:
                    continue
                apart = of_left - of_right
                spread = spread + apart * apart
            if self._parameters.impurity is not Impurity.SPREAD:
                return
            mean = spread / float(self._parameters.width)
            share = (weight[left] / weight[nodes]) * (weight[right] / weight[nodes])
            inside = (weight[left] * impurity[left] + weight[right] * impurity[right]) / weight[nodes]
            guess = inside + share * mean
        exact = None if known is None else known.impurity[nodes]
        impurity[nodes] = self._impurities.run(lanes, guess, context, exact)


def _leaf_kinds(samples: Integers) -> Integers:
    return (samples > 1).astype(np.int64)


def holds(parameters: Parameters, table: Table) -> NDArray[np.int64]:
    """What each node's children share out, summed up from the leaves (`splits.Splits.holds`)."""
    p = parameters
    shape = table.shape
    leaf = shape.leaf
    with np.errstate(all="ignore"):
        if p.style is Style.NUMBERS:
            extra = np.rint(table.weight - table.samples)
            rows = [table.samples, np.clip(np.nan_to_num(extra), 0, 1 << 30).astype(np.int64)]
        else:
            weights = table.values * table.weight if p.style is Style.SHARES else table.values
            counts = np.clip(np.nan_to_num(np.rint(weights / units_of(p.units, shape))), 0, 1 << 30).astype(np.int64)
            rows = [*counts, np.clip(counts[: p.classes].sum(axis=0) - table.samples, 0, 1 << 30)]
    result = np.where(leaf, np.clip(np.stack(rows), 0, 1 << 30), 0)
    for begin, end in reversed(list(zip(shape.starts[1:], shape.starts[2:], strict=False))):
        np.add.at(result.T, shape.parent[begin:end], result.T[begin:end])
    return result


def nested(trees: Splits) -> bool:
    """Whether each threshold lies within those of its ancestors on the same feature."""
    shape = trees.shape
    node = np.flatnonzero(~shape.leaf)
    child, ancestor, rows = node, shape.parent[node], numbered(len(node))
    while len(rows):
        going = ancestor >= 0
        rows, child, ancestor = rows[going], child[going], ancestor[going]
        alike = trees.feature[ancestor] == trees.feature[node[rows]]
        mine, other = trees.place[node[rows]], trees.place[ancestor]
        if bool((alike & np.where(shape.right[child], mine <= other, mine >= other)).any()):
            return False
        child, ancestor = ancestor, shape.parent[ancestor]
    return True


def upwards(shape: Shape) -> Iterator[Integers]:
    """The inner nodes of each wave, lowest wave first."""
    for begin, end in reversed(list(zip(shape.starts, shape.starts[1:], strict=False))):
        nodes = np.flatnonzero(~shape.leaf[begin:end]) + begin
        if len(nodes):
            yield nodes


def unit_of(units: Floats, row: int, shape: Shape) -> Floats:
    """A sample's weight at each node in one row of the values."""
    return units[row][shape.tree] if units.shape[1] > 1 else np.full(shape.count, units[row][0])


def units_of(units: Floats, shape: Shape) -> Floats:
    """A sample's weight at each node in all rows of the values."""
    return np.stack([unit_of(units, row, shape) for row in range(len(units))])


def impurity_of(p: Parameters, counts: Floats, weight: Floats) -> Floats:
    """Gini or entropy from each class' weight, in the order of scikit-learn's operations."""
    total = np.zeros(len(weight))
    for output in range(p.outputs):
        rows = counts[output * p.classes : (output + 1) * p.classes]
        total = total + (_gini(rows, weight) if p.impurity is Impurity.GINI else _entropy(rows, weight))
    return total / float(p.outputs)


def _gini(counts: Floats, weight: Floats) -> Floats:
    squares = np.zeros(len(weight))
    for count in counts:
        squares = squares + count * count
    return 1.0 - squares / (weight * weight)


def _entropy(counts: Floats, weight: Floats) -> Floats:
    entropy = np.zeros(len(weight))
    for count in counts:
        share = count / weight
        some = (share > 1e-300) & (share < 1e300)
        entropy[some] = entropy[some] - share[some] * log2_of_floats(share[some])
    return entropy
