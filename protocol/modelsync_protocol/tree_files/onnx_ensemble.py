"""ONNX-ML's TreeEnsemble (ai.onnx.ml 5): inner nodes and leaves are counted apart, floats are tensors. No I/O here."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.trees.columns import Integers
from modelsync_protocol.trees.floats import Floats
from modelsync_protocol.trees.machine_words import numbered, repeated
from modelsync_protocol.trees.shape import Shape, from_children
from modelsync_protocol.trees.splits import MAX_NODES


class Order(IntEnum):
    """How nodes are numbered: leaves among all nodes (the older operators), or apart, in one of two orders."""

    NODES = 0
    DEPTH_FIRST = 1
    BREADTH_FIRST = 2


class Ensemble(Protocol):
    """Nodes of all trees wave by wave (`onnx_frames.Ensemble`)."""

    @property
    def feature(self) -> Integers:
        """What inner nodes ask."""

    @property
    def threshold(self) -> Floats:
        """What they compare it with."""

    @property
    def weights(self) -> Floats:
        """One row of the leaves' weights."""

    @property
    def missing(self) -> Integers:
        """A flag a node."""


def read(values: dict[str, NDArray[Any]]) -> tuple[Shape, Integers, Floats, Floats, Integers]:
    """(shape, feature, threshold, weights, missing); FormatError, KeyError or IndexError if they do not fit."""
    roots = values["tree_roots"].astype(np.int64)
    features = values["nodes_featureids"].astype(np.int64)
    count, trees = len(features), len(roots)
    splits, weights = values["nodes_splits"].astype(np.float64), values["leaf_weights"].astype(np.float64)
    sizes = np.diff(np.append(roots, count))
    usual = 0 < count < MAX_NODES and trees and bool((sizes > 0).all()) and int(roots[0]) == 0
    if not usual or len(splits) != count or len(weights) != count + trees or not bool(np.isfinite(splits).all()):
        raise FormatError("an ensemble's arrays do not fit each other.")
    tree = repeated(numbered(trees), sizes)
    children = []
    for side in ("true", "false"):
        number, leaf = values[f"nodes_{side}nodeids"].astype(np.int64), values[f"nodes_{side}leafs"] != 0
        children.append(np.where(leaf, ~(number - roots[tree] - tree), number - roots[tree]))
    shape, _, place = from_children(sizes, *children)
    leaf = shape.leaf
    missing = values.get("nodes_missing_value_tracks_true", np.zeros(count, np.int64))

    def spread(field: NDArray[Any]) -> NDArray[Any]:
        result = np.zeros(shape.count, field.dtype)
        result[~leaf] = field[place[~leaf]]
        return result

    return shape, spread(features), spread(splits), weights[place[leaf]].reshape(1, -1), spread(missing)


def values(order: Order, shape: Shape, ensemble: Ensemble, name: str) -> NDArray[Any] | None:
    """The elements of an array as they follow from the ensemble; None where nothing follows."""
    leaf = shape.leaf
    within = shape.depth_first() if order is Order.DEPTH_FIRST else np.lexsort((numbered(shape.count), shape.tree))
    along = np.argsort(within, kind="stable") if order is Order.DEPTH_FIRST else within
    inner, leaves = along[~leaf[along]], along[leaf[along]]
    number = np.zeros(shape.count, np.int64)
    number[inner], number[leaves] = numbered(len(inner)), numbered(len(leaves))
    left, right = shape.children()
    match name:
        case "nodes_featureids":
            return ensemble.feature[inner]
        case "nodes_splits":
            return ensemble.threshold[inner]
        case "nodes_missing_value_tracks_true":
            return ensemble.missing[inner]
        case "nodes_truenodeids":
            return number[left[inner]]
        case "nodes_falsenodeids":
            return number[right[inner]]
        case "nodes_trueleafs":
            return leaf[left[inner]].astype(np.int64)
        case "nodes_falseleafs":
            return leaf[right[inner]].astype(np.int64)
        case "tree_roots":
            return np.searchsorted(shape.tree[inner], numbered(int(shape.tree.max(initial=-1)) + 1))
        case "leaf_weights":
            row = np.cumsum(leaf) - 1
            weights: NDArray[Any] = ensemble.weights[0][row[leaves]]
            return weights
    return None
