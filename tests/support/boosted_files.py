"""Makes small files as LightGBM, HistGradientBoosting and ONNX-ML 5 write their trees, with NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.tree_files import binned_scan, onnx_arrays, text_arrays
from modelsync_protocol.wire import write_varint
from tests.support.tree_files import forest

_RATE = 0.1


class _Boosted:
    """A tree with sums of float32 gradients and hessians, depth first."""

    def __init__(self, source: np.random.Generator, seed: int) -> None:
        (tree,) = forest(seed, 1, 2)
        self.leaf = np.array(tree.leaf)
        self.left, self.right = np.array(tree.left), np.array(tree.right)
        self.feature = np.maximum(np.array(tree.feature), 0)
        self.threshold = np.array(tree.threshold)
        self.count = np.array(tree.counts).sum(axis=1)
        size = len(self.leaf)
        self.gradient, self.hessian = np.zeros(size), np.zeros(size)
        for node in reversed(range(size)):
            if self.leaf[node]:
                shares = source.uniform(0.05, 0.95, int(self.count[node])).astype(np.float32)
                signs = np.where(source.random(len(shares)) < 0.5, -1.0, 1.0)
                self.gradient[node] = float((shares.astype(np.float64) * signs).sum())
                slopes = (shares * (np.float32(1) - shares)).astype(np.float64)
                self.hessian[node] = float(slopes.sum())
            else:
                for field in (self.gradient, self.hessian):
                    field[node] = field[self.left[node]] + field[self.right[node]]
        self.plain = -self.gradient / (self.hessian + 1e-15)
        won = -self.plain * self.gradient
        self.gain = np.where(self.leaf, 0.0, won[self.left] - won + won[self.right])


def light(seed: int, trees: int = 3) -> bytes:
    """LightGBM's text: nodes numbered in the order of their gains."""
    source = np.random.default_rng(seed)
    out = b"tree\nversion=v4\n\n"
    for number in range(trees):
        tree = _Boosted(source, seed * 100 + number)
        inner, leaves, child = _numbered(tree)
        values: dict[str, NDArray[np.generic]] = {
            "Tree": np.array([number]),
            "num_leaves": np.array([len(leaves)]),
            "split_feature": tree.feature[inner],
            "split_gain": tree.gain[inner],
            "threshold": np.nextafter(tree.threshold[inner], np.inf),
            "decision_type": np.full(len(inner), 2),
            "left_child": child[tree.left[inner]],
            "right_child": child[tree.right[inner]],
            "leaf_value": tree.plain[leaves] * _RATE,
            "leaf_weight": tree.hessian[leaves],
            "leaf_count": tree.count[leaves],
            "internal_value": tree.plain[inner] * _RATE,
            "internal_weight": tree.hessian[inner],
            "internal_count": tree.count[inner],
            "shrinkage": np.array([_RATE]),
        }
        for name, column in values.items():
            out += name.encode() + b"=" + text_arrays.write(column, name) + b"\n"
        out += b"\n\n"
    return out + b"end of trees\n"


def _numbered(tree: _Boosted) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(inner nodes by number, leaves by number, what each node is called as a child)."""
    inner: list[int] = []
    leaves, open_ = {0: 0}, [0]
    while open_:
        node = max(open_, key=lambda some: float(tree.gain[some]))
        open_.remove(node)
        inner.append(node)
        slot = next(number for number, held in leaves.items() if held == node)
        leaves[slot], leaves[len(leaves)] = int(tree.left[node]), int(tree.right[node])
        open_ += [int(some) for some in (tree.left[node], tree.right[node]) if not tree.leaf[some]]
    child = np.zeros(len(tree.leaf), np.int64)
    child[inner] = np.arange(len(inner))
    for number, node in leaves.items():
        child[node] = ~number
    return np.array(inner), np.array([leaves[number] for number in range(len(leaves))]), child


def histogram(seed: int, trees: int = 3, *, of: int = 0) -> bytes:
    """The arrays of a HistGradientBoostingClassifier between opcodes like those of a pickle, edges of `of` trees."""
    source = np.random.default_rng(seed)
    made = [_Boosted(source, seed * 100 + number) for number in range(max(of, trees))]
    features = max(int(tree.feature.max()) for tree in made) + 1
    edges = []
    for feature in range(features):
        used = [tree.threshold[~tree.leaf & (tree.feature == feature)] for tree in made]
        edges.append(np.unique(np.concatenate([*used, source.integers(0, 50, 20) / 10 + 0.05])))
    out = b"\x80\x04\x8c\rlearning_rate\x94G" + np.array([_RATE], ">f8").tobytes() + b"\x8c\x0fbin_thresholds_\x94]("
    for edge in edges:
        out += b"\x89B" + (8 * len(edge)).to_bytes(4, "little") + edge.astype("<f8").tobytes() + b"\x94t\x94b"
    out += b"num_threshold"
    for tree in made[:trees]:
        nodes = np.zeros(len(tree.leaf), binned_scan.RECORDS[56])
        inner = np.flatnonzero(~tree.leaf)
        nodes["value"] = np.where(tree.leaf, tree.plain * _RATE, tree.plain)
        nodes["value"][0] = 0
        nodes["count"], nodes["leaf"] = tree.count, tree.leaf
        nodes["gain"] = np.where(tree.leaf, -1, tree.gain)
        for name in ("feature", "threshold", "left", "right"):
            nodes[name][inner] = getattr(tree, name)[inner]
        nodes["bin"][inner] = [
            int(np.searchsorted(edges[int(tree.feature[node])], tree.threshold[node])) for node in inner
        ]
        for node in inner:
            nodes["depth"][tree.left[node]] = nodes["depth"][tree.right[node]] = nodes["depth"][node] + 1
        out += b"\x89B" + (56 * len(nodes)).to_bytes(4, "little") + nodes.tobytes() + b"\x94tb"
    return out + b"."


def tensor_ensemble(seed: int, trees: int = 3, *, wide: bool = False) -> bytes:
    """A TreeEnsemble's attributes (ai.onnx.ml 5), inner nodes and leaves depth first; `wide`: tensors of float64."""
    made = forest(seed, trees, 2)
    arrays: dict[str, list[float]] = {name: [] for name in _TENSOR_NAMES}
    for tree in made:
        arrays["tree_roots"].append(len(arrays["nodes_splits"]))
        leaf = np.array(tree.leaf)
        number = np.where(leaf, len(arrays["leaf_weights"]) + np.cumsum(leaf) - 1, 0)
        number = np.where(leaf, number, len(arrays["nodes_splits"]) + np.cumsum(~leaf) - 1)
        for node in range(len(leaf)):
            if leaf[node]:
                counts = tree.counts[node]
                arrays["leaf_weights"].append(float(np.float32(counts[1] / counts.sum())))
                continue
            arrays["nodes_splits"].append(float(np.float32(tree.threshold[node])))
            arrays["nodes_featureids"].append(tree.feature[node])
            for side, child in (("true", tree.left[node]), ("false", tree.right[node])):
                arrays[f"nodes_{side}nodeids"].append(int(number[child]))
                arrays[f"nodes_{side}leafs"].append(int(leaf[child]))
    out = b"\x08\x08"
    for name, values in arrays.items():
        body = b"\n" + bytes([len(name)]) + name.encode()
        if name in ("nodes_splits", "leaf_weights"):
            data = np.array(values, "<f8" if wide else "<f4").tobytes()
            tensor = (
                b"\x08" + _varint(len(values)) + b"\x10" + bytes([11 if wide else 1]) + b"J" + _varint(len(data)) + data
            )
            body += b"*" + _varint(len(tensor)) + tensor + b"\xa0\x01\x04"
        else:
            body += onnx_arrays.write(np.array(values, np.int64), onnx_arrays.INTS, False) + b"\xa0\x01\x07"
        out += b"*" + _varint(len(body)) + body
    return out


_TENSOR_NAMES = (
    "leaf_weights",
    "nodes_falseleafs",
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_splits",
    "nodes_trueleafs",
    "nodes_truenodeids",
    "tree_roots",
)


def _varint(value: int) -> bytes:
    out = bytearray()
    write_varint(out, value)
    return bytes(out)
