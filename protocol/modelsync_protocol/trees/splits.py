"""Codes the splits of trees wave by wave: which nodes are leaves, what they ask, and how many of what go left.

No I/O here. The same code learns from the base's trees, encodes and decodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.trees import columns, shape
from modelsync_protocol.trees.columns import Integers, Masses, stacked
from modelsync_protocol.trees.lanes import Lanes
from modelsync_protocol.trees.machine_words import numbered, repeated
from modelsync_protocol.trees.mixing import joined
from modelsync_protocol.trees.shape import Shape

MAX_NODES = 1 << 19
"""Nodes of one frame's trees, or of its base's."""

MAX_HELD = 1 << 20
"""Numbers of what the nodes of one frame, or of its base, hold: 8 MiB."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Trees as splits: per node (in waves) the feature and the threshold's place in the dictionary, and what it holds.

    `holds` has a row for each quantity that a node's children share out between them: samples of each class, or all
    samples (at least one each, then); the last row is what weights exceed samples by.
    """

    shape: Shape
    feature: Integers
    place: Integers
    holds: NDArray[np.int64]
    twin: Integers | None = None
    """Where trees were coded: the base's node in the same place of the tree alike, or -1."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is common to all trees: bits of a feature's number, rows of `holds` that are classes, and the dictionary.

    `starts` are the places in the dictionary where each feature's thresholds begin. `nested`: a threshold lies within
    those of its ancestors.
    """

    feature_bits: int
    classes: int
    outputs: int
    rows: int
    starts: Integers
    nested: bool


class SplitModel:
    """Mixers of all columns of splits; use it on the base's trees first and then on the target's."""

    def __init__(self, layout: Layout, elements: int, masses: Masses) -> None:
        self._layout, self._masses = layout, masses
        self._roots = columns.mixer(2, columns.NUMBER_SLOTS, 1 << 10)
        self._leaves = columns.mixer(6, 1, elements)
        self._features = columns.mixer(6, max(1, layout.feature_bits), elements)
        self._places = columns.mixer(5, columns.RANGE_SLOTS, elements, extras=1)
        self._sides = columns.mixer(6, 2 * 3, elements)
        self._shares = columns.mixer(4, columns.RANGE_SLOTS, elements)

    def run(
        self, lanes: Lanes, trees: int, known: Splits | None, old: Splits | None, twins: Integers | None = None
    ) -> Splits:
        """Code `trees` trees; `known` to learn or encode, `old` those whose nodes in the same places give hints.

        `twins`: the tree of `old` that each is likely to resemble, or -1; without it the one of the same number.
        """
        layout = self._layout
        limit = min(MAX_NODES, MAX_HELD // max(1, layout.rows))
        if trees > limit:
            raise FormatError("a frame has more nodes of trees than any allowed.")
        grown = _Grown(limit, layout.rows)
        grown.reserve(trees)
        grown.holds[:, :trees] = self._root_holds(lanes, trees, known)
        grown.begin(trees, old, twins)
        while grown.first < grown.end:
            self._wave(lanes, grown, known, old)
        return grown.splits()

    def _root_holds(self, lanes: Lanes, trees: int, known: Splits | None) -> NDArray[np.int64]:
        rows = self._layout.rows
        result = np.zeros((rows, trees), np.int64)
        total = np.zeros(trees, np.int64)
        last = self._layout.classes - 1
        for row in range(rows):
            values = None
            context = stacked(np.full(trees, row), np.zeros(trees))
            if known is not None:
                exact = known.holds[: last + 1, :trees].sum(axis=0) if row == last else known.holds[row, :trees]
                values = columns.signed(np.diff(exact, prepend=np.int64(0)))
            found = np.cumsum(columns.unsigned(columns.numbers(self._roots, lanes, context, values)))
            result[row] = found - total if row == last else found
            total += found
        if bool((result < 0).any()) or bool((result >= 1 << 40).any()):
            raise FormatError("a frame of trees holds counts out of bounds.")
        return result

    def _wave(self, lanes: Lanes, grown: _Grown, known: Splits | None, old: Splits | None) -> None:
        layout = self._layout
        wave = slice(grown.first, grown.end)
        depth = np.full(grown.end - grown.first, min(len(grown.starts) - 1, 255))
        parent = grown.parent[wave]
        above = np.where(parent >= 0, grown.feature[parent], -1)
        side = grown.right[wave]
        twin = grown.twin[wave]
        holds = grown.holds[:, wave]
        total = np.minimum(holds[: max(layout.classes, 1)].sum(axis=0), 1 << 30)
        kinds = np.minimum((holds[: layout.classes] > 0).sum(axis=0), 3 * layout.outputs)
        twin_leaf, twin_feature, twin_place = _twins(old, twin)
        small = bucket(total)
        leaf = np.zeros(len(parent), bool)
        for right in (False, True):
            (some,) = (side == right).nonzero()
            if not len(some):
                continue
            sister = leaf[some - 1] + 1 if right else np.zeros(len(some), np.int64)
            kind, size, at, up = kinds[some], small[some], depth[some], above[some]
            leaf[some] = columns.symbols(
                self._leaves,
                lanes,
                stacked(
                    joined(kind, at, sister, 1),
                    joined(kind, size, 2),
                    joined(twin_leaf[some], at, kind, 3),
                    joined(twin_leaf[some], size, kind, sister, 4),
                    joined(kind, size, at, 5),
                    joined(up, sister, kind, 6),
                ),
                1,
                known.shape.leaf[wave][some].astype(np.int64) if known is not None else None,
            ).astype(bool)
        grown.leaf[wave] = leaf
        (inner,) = (~leaf).nonzero()
        nodes = inner + grown.first
        if not len(nodes):
            grown.next(nodes, old)
            return
        depth, above, side, small = depth[inner], above[inner], side[inner], small[inner]
        twin_feature, twin_place = twin_feature[inner], twin_place[inner]
        higher = grown.parent[nodes]
        highest = np.where(higher >= 0, grown.parent[higher], -1)
        over = np.where((higher >= 0) & (highest >= 0), grown.feature[highest], -1)
        feature = columns.symbols(
            self._features,
            lanes,
            stacked(
                joined(above, side, 1),
                joined(depth, 2),
                joined(twin_feature, 3),
                joined(above, over, 4),
                joined(small, kinds[inner], 5),
                joined(twin_feature, depth, 6),
            ),
            layout.feature_bits,
            known.feature[nodes] if known is not None else None,
        )
        if bool((feature >= len(layout.starts) - 1).any()):
            raise FormatError("a frame of trees asks for a feature that it lacks.")
        grown.feature[nodes] = feature
        low, high = layout.starts[feature], layout.starts[feature + 1]
        if layout.nested:
            low, high = grown.within(nodes, feature, low, high)
        same = np.where(twin_feature == feature, twin_place, -1)
        width = np.minimum(columns.log2_of(high - low + 1), 4096)
        grown.place[nodes] = columns.places(
            self._places,
            lanes,
            stacked(joined(small, 1), joined(width, 2), joined(same, 3), joined(feature, depth, 4), joined(feature, 5)),
            low,
            high,
            known.place[nodes] if known is not None else None,
            self._masses,
        )
        self._share_out(lanes, grown, nodes, known)
        grown.next(nodes, old)

    def _share_out(self, lanes: Lanes, grown: _Grown, nodes: Integers, known: Splits | None) -> None:
        """Code what of each quantity goes left."""
        layout = self._layout
        left_known = None if known is None else known.holds[:, known.shape.children()[0][nodes]]
        holds = grown.holds[:, nodes]
        per_output = max(1, layout.classes // max(1, layout.outputs))
        seen = np.zeros(len(nodes), np.int64)
        left_sum = np.zeros(len(nodes), np.int64)
        right_sum = np.zeros(len(nodes), np.int64)
        done = np.zeros(len(nodes), np.int64)
        whole = holds[: max(1, layout.classes)].sum(axis=0)
        left = np.zeros_like(holds)
        for row in range(layout.rows):
            if row < layout.classes and row % per_output == 0:
                seen[:] = 0
                done[:] = 0
            have = holds[row]
            (some,) = (have > 0).nonzero()
            if not len(some):
                continue
            amount = have[some]
            classes = row < layout.classes
            rest = (holds[row + 1 : (row // per_output + 1) * per_output] > 0).sum(axis=0) if classes else seen * 0
            at_least = 1 if not layout.classes and row == 0 else 0
            cap = bucket(amount)
            others = bucket(whole - done - have) if classes else bucket(left_sum)
            context = stacked(
                joined(cap, seen[some], np.minimum(rest[some], 2), 1),
                joined(seen[some], np.minimum(rest[some], 3), cap // 2, others[some] // 2, 2 + (row >= layout.classes)),
                joined(row, cap, seen[some], 4),
                joined(cap, others[some], bucket(right_sum)[some], seen[some], 5),
                joined(np.minimum(amount, 40), np.minimum(rest[some], 2), seen[some], 6),
                joined(cap, bucket(whole)[some], seen[some], 7),
            )
            if at_least:
                found = columns.places(
                    self._shares,
                    lanes,
                    context[[5, 0, 2, 4]],
                    np.ones(len(some), np.int64),
                    amount,
                    left_known[row][some] if left_known is not None else None,
                )
            else:
                found = self._share(lanes, context, amount, left_known[row][some] if left_known is not None else None)
            left[row, some] = found
            if classes or row == 0:
                left_sum[some] += found
                right_sum[some] += amount - found
                seen[some] |= (found > 0) + 2 * (found < amount)
                done[some] += amount
        grown.left_holds = left
        grown.right_holds = holds - left

    def _share(self, lanes: Lanes, context: NDArray[np.uint32], amount: Integers, known: Integers | None) -> Integers:
        """From none to all of `amount`: none, all, or between."""
        kind = None if known is None else np.where(known == 0, 0, np.where(known == amount, 1, 2))
        first = columns.symbols(self._sides, lanes, context, 1, None if kind is None else kind // 2)
        result = np.zeros(len(amount), np.int64)
        (whole,) = (first == 0).nonzero()
        if len(whole):
            all_left = columns.symbols(
                self._sides, lanes, context[:, whole] ^ np.uint32(0x5555), 1, None if kind is None else kind[whole] & 1
            )
            result[whole] = amount[whole] * all_left
        (some,) = (first == 1).nonzero()
        if len(some):
            result[some] = columns.places(
                self._shares,
                lanes,
                context[[5, 0, 2, 4]][:, some],
                np.ones(len(some), np.int64),
                amount[some],
                None if known is None else known[some],
            )
        return result


def bucket(values: NDArray[np.int64]) -> Integers:
    """Small numbers as they are, larger ones in half octaves."""
    return np.where(values < 12, values, 6 + (columns.log2_of(np.maximum(values, 1)) >> np.int64(7)))


def _twins(old: Splits | None, twin: Integers) -> tuple[Integers, Integers, Integers]:
    if old is None:
        none = np.full(len(twin), -1, np.int64)
        return none, none, none
    missing = twin < 0
    leaf = np.where(missing, -1, old.shape.leaf[twin].astype(np.int64))
    feature = np.where(missing | (leaf != 0), -1, old.feature[twin])
    return leaf, feature, np.where(feature >= 0, old.place[twin], -1)


class _Grown:
    """Trees as far as they are known."""

    def __init__(self, limit: int, rows: int) -> None:
        size = min(limit, 1 << 12)
        self._limit = limit
        self.leaf = np.zeros(size, bool)
        self.right = np.zeros(size, bool)
        self.parent = np.full(size, -1, np.int64)
        self.tree = np.zeros(size, np.int64)
        self.feature = np.full(size, -1, np.int64)
        self.place = np.full(size, -1, np.int64)
        self.twin = np.full(size, -1, np.int64)
        self.holds = np.zeros((rows, size), np.int64)
        self.left_holds = self.right_holds = np.zeros((rows, 0), np.int64)
        self.starts = [0]
        self.first = self.end = 0
        self._children: tuple[Integers, Integers] | None = None

    def reserve(self, size: int) -> None:
        """Make room for `size` nodes; FormatError if that is too many."""
        if size > self._limit:
            raise FormatError("a frame has more nodes of trees than any allowed.")
        if size <= len(self.leaf):
            return
        more = min(self._limit, max(size, 2 * len(self.leaf))) - len(self.leaf)
        for name in ("leaf", "right", "parent", "tree", "feature", "place", "twin"):
            setattr(self, name, np.concatenate([getattr(self, name), np.full(more, -1, getattr(self, name).dtype)]))
        self.holds = np.concatenate([self.holds, np.zeros((len(self.holds), more), np.int64)], axis=1)

    def begin(self, trees: int, old: Splits | None, twins: Integers | None) -> None:
        self.reserve(trees)
        self.tree[:trees] = numbered(trees)
        self.end = trees
        if trees:
            self.starts.append(trees)
        if old is not None:
            self._children = old.shape.children()
            roots = int(old.shape.tree.max(initial=-1)) + 1
            wanted = numbered(trees) if twins is None else twins
            self.twin[:trees] = np.where(wanted < roots, wanted, -1)

    def next(self, nodes: Integers, old: Splits | None) -> None:
        """Append the children of `nodes` as the next wave."""
        begin, end = self.end, self.end + 2 * len(nodes)
        self.reserve(end)
        if len(self.starts) > shape.MAX_DEPTH:
            raise FormatError("a tree is too deep.")
        self.first, self.end = begin, end
        if not len(nodes):
            return
        self.starts.append(end)
        self.parent[begin:end] = repeated(nodes, 2)
        self.right[begin:end] = np.tile([False, True], len(nodes))
        self.tree[begin:end] = repeated(self.tree[nodes], 2)
        self.holds[:, begin:end:2] = self.left_holds
        self.holds[:, begin + 1 : end : 2] = self.right_holds
        if old is not None and self._children is not None:
            twin = self.twin[nodes]
            alike = (twin >= 0) & (old.feature[twin] == self.feature[nodes])
            for side in (0, 1):
                self.twin[begin + side : end : 2] = np.where(alike, self._children[side][twin], -1)

    def within(self, nodes: Integers, feature: Integers, low: Integers, high: Integers) -> tuple[Integers, Integers]:
        """Narrow places from `low` to below `high` to what the ancestors' splits leave."""
        low, high = low.copy(), high.copy()
        child, ancestor = nodes, self.parent[nodes]
        rows = numbered(len(nodes))
        while len(rows):
            (going,) = (ancestor >= 0).nonzero()
            rows, child, ancestor = rows[going], child[going], ancestor[going]
            alike = self.feature[ancestor] == feature[rows]
            right = self.right[child] & alike
            left = ~self.right[child] & alike
            low[rows[right]] = np.maximum(low[rows[right]], self.place[ancestor[right]] + 1)
            high[rows[left]] = np.minimum(high[rows[left]], self.place[ancestor[left]])
            child, ancestor = ancestor, self.parent[ancestor]
        return low, high

    def splits(self) -> Splits:
        count = self.end
        whole = Shape(tuple(self.starts), self.leaf[:count], self.parent[:count], self.right[:count], self.tree[:count])
        return Splits(whole, self.feature[:count], self.place[:count], self.holds[:, :count], self.twin[:count])
