"""The shape of binary trees: from the order of depth first to waves of equal depth, and back. No I/O here.

A wave holds all nodes of one depth of all trees, tree by tree from left to right. Wave by wave is the order of coding:
everything about a node's ancestors is known before the node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.trees.machine_words import counted, numbered, repeated

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_DEPTH = 4096
"""Waves of one frame: each costs a few steps, however small."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Nodes wave by wave: `starts[d]` is the first of depth d, `parent` its number or -1, `right` which child."""

    starts: tuple[int, ...]
    leaf: Flags
    parent: Integers
    right: Flags
    tree: Integers

    @property
    def count(self) -> int:
        """Nodes of all trees."""
        return len(self.leaf)

    def depths(self) -> Integers:
        """Depth of each node."""
        return repeated(numbered(len(self.starts) - 1), np.diff(self.starts))

    def children(self) -> tuple[Integers, Integers]:
        """Left and right child of each node, -1 where there is none."""
        left, right = np.full(self.count, -1, np.int64), np.full(self.count, -1, np.int64)
        (inner,) = (self.parent >= 0).nonzero()
        numbers = np.arange(self.count, dtype=np.int64)[inner]
        side = self.right[inner]
        left[self.parent[inner][~side]] = numbers[~side]
        right[self.parent[inner][side]] = numbers[side]
        return left, right

    def depth_first(self) -> Integers:
        """Each node's place if all trees are written one after the other, each depth first, left before right."""
        sizes = np.ones(self.count, np.int64)
        waves = [slice(a, b) for a, b in zip(self.starts, self.starts[1:], strict=False)]
        for wave in reversed(waves[1:]):
            np.add.at(sizes, self.parent[wave], sizes[wave])
        left, _ = self.children()
        place = np.zeros(self.count, np.int64)
        roots = waves[0] if waves else slice(0, 0)
        place[roots] = np.cumsum(sizes[roots]) - sizes[roots]
        for wave in waves[1:]:
            parent = self.parent[wave]
            place[wave] = place[parent] + 1 + np.where(self.right[wave], sizes[left[parent]], 0)
        return place


def from_depth_first(leaf: Flags) -> tuple[Shape, Integers]:
    """(shape, each node's place in the order given) of trees whose nodes' leaf flags follow each other depth first.

    FormatError if the last tree does not end with the last flag.
    """
    parents, rights, depths, trees = [-1] * len(leaf), [False] * len(leaf), [0] * len(leaf), [0] * len(leaf)
    waiting: list[tuple[int, int]] = []
    tree = -1
    below = -1
    for node, is_leaf in enumerate(leaf.tolist()):
        if below >= 0:
            parents[node], depths[node] = below, depths[below] + 1
        elif waiting:
            parents[node], depths[node] = waiting.pop()
            rights[node] = True
        else:
            tree += 1
        trees[node] = tree
        below = -1
        if not is_leaf:
            below = node
            waiting.append((node, depths[node] + 1))
    if waiting or below >= 0:
        raise FormatError("a tree is cut short.")
    depth = np.array(depths, np.int64)
    if int(depth.max(initial=0)) >= MAX_DEPTH:
        raise FormatError("a tree is too deep.")
    order = np.argsort(depth, kind="stable")
    inverse = np.empty(len(order), np.int64)
    inverse[order] = numbered(len(order))
    parent = np.array(parents, np.int64)[order]
    parent = np.where(parent >= 0, inverse[parent], -1)
    starts = (0, *np.cumsum(counted(depth)).tolist()) if len(leaf) else (0,)
    shape = Shape(tuple(starts), leaf[order], parent, np.array(rights, bool)[order], np.array(trees, np.int64)[order])
    return shape, order


def from_breadth_first(leaf: Flags, sizes: Integers) -> tuple[Shape, Integers]:
    """As `from_depth_first`, of trees of `sizes` nodes whose children are numbered in their parents' order."""
    count = len(leaf)
    trees = repeated(numbered(len(sizes)), sizes)
    starts = np.cumsum(sizes) - sizes
    within = numbered(count) - starts[trees]
    inner = np.flatnonzero(~leaf)
    before: Integers = np.cumsum(~leaf) - ~leaf
    number = (within - 1) // 2 + before[starts[trees]]
    later = within > 0
    if len(sizes) and (
        bool((sizes <= 0).any()) or bool((2 * counted(trees[inner], minlength=len(sizes)) + 1 != sizes).any())
    ):
        raise FormatError("a tree has another number of nodes than its splits give.")
    parent = np.full(count, -1, np.int64)
    parent[later] = inner[number[later]]
    if bool((parent >= numbered(count)).any()):
        raise FormatError("a tree's nodes do not follow each other.")
    depth = np.zeros(count, np.int64)
    for node, above in enumerate(parent.tolist()):
        if above >= 0:
            depth[node] = depth[above] + 1
    if int(depth.max(initial=0)) >= MAX_DEPTH:
        raise FormatError("a tree is too deep.")
    order = np.argsort(depth, kind="stable")
    inverse = np.empty(count, np.int64)
    inverse[order] = numbered(count)
    higher = np.where(parent >= 0, inverse[parent], -1)[order] if count else parent
    waves = (0, *np.cumsum(counted(depth)).tolist()) if count else (0,)
    right = (within % 2 == 0) & later
    return Shape(tuple(waves), leaf[order], higher, right[order], trees[order]), order


def from_children(sizes: Integers, left: Integers, right: Integers) -> tuple[Shape, Integers, Integers]:
    """(shape, number of each node in its tree, place in the file's order) of trees whose children are named.

    `sizes`: inner nodes of each tree; a child c < 0 is the leaf ~c. Places count inner nodes of all trees, or leaves.
    FormatError if a tree does not hold together.
    """
    trees = len(sizes)
    first = np.cumsum(sizes) - sizes
    first_leaf = first + numbered(trees)
    waves: list[NDArray[np.int64]] = []
    number, tree = np.zeros(trees, np.int64), numbered(trees)
    parent, side = np.full(trees, -1, np.int64), np.zeros(trees, bool)
    total = 0
    starts = [0]
    while len(number):
        if len(starts) > MAX_DEPTH or total + len(number) > 2 * int(sizes.sum()) + trees:
            raise FormatError("a tree is too deep, or holds a node twice.")
        inner = number >= 0
        place = np.where(inner, first[tree] + number, first_leaf[tree] + ~number)
        limit = np.where(inner, number < sizes[tree], ~number <= sizes[tree])
        if not bool(limit.all()):
            raise FormatError("a tree names a node that it lacks.")
        waves.append(np.stack([number, tree, parent, side.astype(np.int64), place]))
        at = np.flatnonzero(inner)
        here = place[at]
        parent = repeated(total + at, 2)
        tree = repeated(tree[at], 2)
        side = np.tile([False, True], len(at))
        number = np.stack([left[here], right[here]], axis=1).ravel()
        total += len(inner)
        starts.append(total)
    whole = np.concatenate(waves, axis=1) if waves else np.zeros((5, 0), np.int64)
    leaf = whole[0] < 0
    places = [np.sort(whole[4][some]) for some in (leaf, ~leaf)]
    wanted = int(sizes.sum())
    if any(not np.array_equal(p, numbered(n)) for p, n in zip(places, (wanted + trees, wanted), strict=True)):
        raise FormatError("a tree holds a node twice, or not at all.")
    shape = Shape(tuple(starts), leaf, whole[2], whole[3] > 0, whole[1])
    return shape, np.where(leaf, ~whole[0], whole[0]), whole[4]
