"""Makes small files as scikit-learn, ONNX-ML and XGBoost write their trees, from a seed and with NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.tree_files import boosted_arrays, onnx_arrays

_FEATURES = 5
_DTYPE = np.dtype(
    {
        "names": ["left", "right", "feature", "threshold", "impurity", "samples", "weight", "tail"],
        "formats": ["<i8", "<i8", "<i8", "<f8", "<f8", "<i8", "<f8", "<i8"],
    }
)


class _Tree:
    """A tree on random data, depth first: split until pure or three deep."""

    def __init__(self, source: np.random.Generator, classes: int) -> None:
        self.leaf: list[bool] = []
        self.left: list[int] = []
        self.right: list[int] = []
        self.feature: list[int] = []
        self.threshold: list[float] = []
        self.counts: list[NDArray[np.int64]] = []
        table = source.integers(0, 50, (60, _FEATURES)).astype(np.float32) / np.float32(10)
        label = (table.sum(axis=1) * 3).astype(np.int64) % classes
        self._classes, self._source = classes, source
        self._grow(table, label, 0)

    def _grow(self, table: NDArray[np.float32], label: NDArray[np.int64], depth: int) -> int:
        node = len(self.leaf)
        feature = int(self._source.integers(_FEATURES))
        values = np.unique(table[:, feature])
        leaf = depth == 4 or len(values) < 2 or len(np.unique(label)) < 2
        for column, value in ((self.leaf, leaf), (self.left, -1), (self.right, -1), (self.feature, -2)):
            column.append(value)  # type: ignore[arg-type]  # a row of columns of different types
        self.threshold.append(-2.0)
        self.counts.append(np.bincount(label, minlength=self._classes))
        if not leaf:
            cut = int(self._source.integers(1, len(values)))
            self.feature[node] = feature
            self.threshold[node] = float(values[cut - 1]) / 2 + float(values[cut]) / 2
            below = table[:, feature] < values[cut]
            self.left[node] = self._grow(table[below], label[below], depth + 1)
            self.right[node] = self._grow(table[~below], label[~below], depth + 1)
        return node


def forest(seed: int, trees: int = 3, classes: int = 3) -> list[_Tree]:
    """Trees on random data."""
    source = np.random.default_rng(seed)
    return [_Tree(source, classes) for _ in range(trees)]


def pickled(seed: int, trees: int = 3, classes: int = 3) -> bytes:
    """The arrays of a random forest between opcodes like those of a pickle."""
    out = b"\x80\x04n_node_samples"
    for number, tree in enumerate(forest(seed, trees, max(3, classes))):
        nodes = np.zeros(len(tree.leaf), _DTYPE)
        counts = np.array(tree.counts)
        total = counts.sum(axis=1)
        for name in ("left", "right", "feature", "threshold"):
            nodes[name] = getattr(tree, name)
        nodes["samples"], nodes["weight"] = total, total
        squares = np.zeros(len(total))
        for column in counts.T:
            squares = squares + column.astype(np.float64) * column
        nodes["impurity"] = 1.0 - squares / (total.astype(np.float64) * total)
        values = (counts / total[:, None]).tobytes()
        if classes == 1:
            levels = np.array([0.3, 1.7, 2.2])
            mean = counts @ levels / total
            nodes["impurity"] = counts @ (levels * levels) / total - mean * mean
            values = mean.tobytes()
        shape = b"M" + len(total).to_bytes(2, "little") + b"K\x01K" + bytes([classes]) + b"\x87"
        out += b"seed" + bytes([number]) + b"B" + (64 * len(total)).to_bytes(4, "little") + nodes.tobytes()
        out += b"values" + shape + b"B" + len(values).to_bytes(4, "little") + values + b"tb"
    return out + b"."


def onnx_model(seed: int, trees: int = 3) -> bytes:
    """A TreeEnsembleClassifier's attributes of two classes."""
    made = forest(seed, trees, 2)
    leaf = np.concatenate([np.array(tree.leaf, np.int64) for tree in made])
    number = np.concatenate([np.arange(len(tree.leaf)) for tree in made])
    tree_of = np.concatenate([np.full(len(tree.leaf), i) for i, tree in enumerate(made)])
    joined = {name: np.concatenate([np.array(getattr(tree, name)) for tree in made]) for name in ("left", "right")}
    share = np.concatenate([np.array(t.counts)[:, 1] / np.array(t.counts).sum(axis=1) for t in made]) / trees
    some = leaf == 1
    feature = np.concatenate([np.array(tree.feature) for tree in made])
    threshold = np.concatenate([np.array(tree.threshold) for tree in made])
    arrays = {
        "class_ids": np.zeros(int(some.sum()), np.int64),
        "class_nodeids": number[some],
        "class_treeids": tree_of[some],
        "class_weights": share[some].astype(np.float32),
        "nodes_falsenodeids": np.maximum(joined["right"], 0),
        "nodes_featureids": np.maximum(feature, 0),
        "nodes_modes": leaf,
        "nodes_nodeids": number,
        "nodes_treeids": tree_of,
        "nodes_truenodeids": np.maximum(joined["left"], 0),
        "nodes_values": np.where(some, 0, threshold).astype(np.float32),
    }
    out = b"\x08\x08"
    for name, values in arrays.items():
        kind = onnx_arrays.STRINGS if name == "nodes_modes" else onnx_arrays.kind_of(values)
        body = b"\n" + bytes([len(name)]) + name.encode() + onnx_arrays.write(values, kind, False) + b"\xa0\x01\x07"
        size, length = len(body), b""
        while size > 0x7F:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        out += b"*" + length + bytes([size]) + body
    return out


def booster(seed: int, trees: int = 3, *, binary: bool = False) -> bytes:
    """XGBoost's arrays of trees in JSON or UBJSON."""
    source = np.random.default_rng(seed)
    out = b"{" if binary else b'{"trees":['
    for number, tree in enumerate(forest(seed, trees, 2)):
        order, place = [0], 0
        while place < len(order):
            if not tree.leaf[order[place]]:
                order += [tree.left[order[place]], tree.right[order[place]]]
            place += 1
        rank = {node: at for at, node in enumerate(order)}
        leaf = np.array([tree.leaf[node] for node in order])
        left = np.array([-1 if tree.leaf[node] else rank[tree.left[node]] for node in order])
        parent = np.full(len(order), 2147483647)
        for at, child in enumerate(left):
            if child >= 0:
                parent[child : child + 2] = at
        hessian, weight, gain = (np.zeros(len(order)) for _ in range(3))
        condition = np.array([tree.threshold[node] for node in order]).astype(np.float32)
        for at in reversed(range(len(order))):
            if leaf[at]:
                hessian[at] = np.float32(source.integers(1, 20) * 0.21)
                weight[at] = condition[at] = np.float32(source.normal())
                continue
            pair = [left[at], left[at] + 1]
            hessian[at] = np.float32(hessian[pair].sum())
            slope = [weight[child] / (0.3 if leaf[child] else 1.0) for child in pair]
            sums = [s * (hessian[child] + 1) for s, child in zip(slope, pair, strict=True)]
            weight[at] = np.float32(sum(sums) / (hessian[at] + 1))
            won = sum(s * t for s, t in zip(slope, sums, strict=True))
            gain[at] = np.float32(won - weight[at] ** 2 * (hessian[at] + 1))
        feature = np.array([max(tree.feature[node], 0) for node in order])
        zeros = np.zeros(len(order), np.int64)
        fields = (
            weight,
            zeros,
            left,
            gain,
            parent,
            np.where(left < 0, -1, left + 1),
            condition,
            feature,
            zeros,
            hessian,
        )
        for name, values in enumerate(fields):
            text = boosted_arrays.NAMES[name].encode()
            floats = boosted_arrays.NAMES[name] in boosted_arrays.FLOATS
            data = values.astype(np.float32) if floats else values.astype(np.int64)
            form = (b"d" if floats else b"l") if binary else b""
            written = boosted_arrays.write(data, name, form, binary)
            if binary:
                out += b"L" + bytes(7) + bytes([len(text)]) + text + b"[$" + form + b"#L" + written
            else:
                out += b'"' + text + b'":[' + written + b"],"
        out += b"" if binary else b'"id":' + str(number).encode() + b"},{"
    return out + (b"}" if binary else b"]}")
