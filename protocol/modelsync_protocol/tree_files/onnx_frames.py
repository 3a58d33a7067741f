"""Kind 2 of tree frames: the attributes of ONNX-ML's TreeEnsembleClassifier, -Regressor and TreeEnsemble. No I/O here.

Nodes stand depth first, tree by tree, as skl2onnx writes them; TreeEnsemble (`onnx_ensemble`) counts leaves apart.
Arrays that do not follow from splits and leaf weights stay among the bytes between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.tree_files import onnx_arrays, onnx_ensemble
from modelsync_protocol.tree_files.onnx_arrays import NAMES, Array
from modelsync_protocol.tree_files.onnx_ensemble import Order
from modelsync_protocol.trees import columns, records
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.floats import Drawn, Floats, floats_of, words_of
from modelsync_protocol.trees.lanes import Lanes, Learner
from modelsync_protocol.trees.machine_words import counted, numbered, repeated
from modelsync_protocol.trees.mixing import joined
from modelsync_protocol.trees.shape import Shape, from_depth_first
from modelsync_protocol.trees.splits import MAX_NODES, Layout, SplitModel, Splits
from modelsync_protocol.wire import Reader, write_varint

_NUMBER = {name: number for number, name in enumerate(NAMES)}
MAX_TREES = 1 << 16
_MAX_WIDTH = 1 << 12


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is common to all trees: entries per leaf (`width`), their ids (ascending from `first_id`, or all that)."""

    trees: int
    width: int
    first_id: int
    nested: bool
    feature_bits: int
    order: Order = Order.NODES


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Nodes of all trees wave by wave; `weights` has one row for each entry of a leaf, `missing` a flag per node."""

    shape: Shape
    feature: Integers
    threshold: Floats
    weights: Floats
    missing: Integers


@dataclass(frozen=True, slots=True)
class Draft:
    """What an encoder found."""

    parameters: Parameters
    ensemble: Ensemble
    arrays: list[Array]


def read(data: bytes, found: list[Array]) -> tuple[Ensemble, int] | None:
    """(ensemble, entries per leaf) of one ensemble's arrays; None if they do not fit each other."""
    values: dict[str, NDArray[Any]] = {}
    try:
        for array in found:
            values.setdefault(NAMES[array.name].replace("target_", "class_"), onnx_arrays.read(data, array))
        if "nodes_splits" in values:
            made = onnx_ensemble.read(values)
            return Ensemble(*made), 1
        leaf = values["nodes_modes"] == 1
        feature, threshold = values["nodes_featureids"], values["nodes_values"].astype(np.float64)
        weights = values["class_weights"].astype(np.float64)
        missing = values.get("nodes_missing_value_tracks_true", np.zeros(len(leaf), np.int64))
        leaves = int(leaf.sum())
        if not 0 < len(leaf) <= MAX_NODES or len(weights) % leaves or len(weights) // leaves > _MAX_WIDTH:
            return None
        shape, order = from_depth_first(leaf)
        place = np.cumsum(leaf) - 1
        table = weights.reshape(leaves, -1)[place[order][shape.leaf]].T
        if not len(table) or int(feature.min()) < 0 or not bool(np.isfinite(threshold).all()):
            return None
        ensemble = Ensemble(shape, feature[order], threshold[order], table, missing[order])
    except (KeyError, FormatError, IndexError, ValueError, ZeroDivisionError):
        return None
    return ensemble, len(table)


def empty(width: int) -> Ensemble:
    """An ensemble of no tree."""
    shape, none = from_depth_first(np.zeros(0, bool))
    return Ensemble(shape, none, np.empty(0), np.empty((width, 0)), none)


def draft(target: bytes) -> Draft | None:
    """What there is to code in `target`; None if nothing."""
    found = onnx_arrays.arrays(target)
    made = read(target, found)
    if made is None:
        return None
    ensemble, width = made
    inner = ~ensemble.shape.leaf
    if not bool(inner.any()):
        return None
    ids = [array for array in found if NAMES[array.name].endswith(("class_ids", "target_ids"))]
    first = int(onnx_arrays.read(target, ids[0])[0]) if ids else 0
    bits = int(ensemble.feature[inner].max()).bit_length()
    trees = int(ensemble.shape.tree.max()) + 1
    if bits > 16 or trees > MAX_TREES:
        return None
    drawn = Drawn(1 << bits, (np.empty(0, np.int64), np.empty(0)), 1)
    places = drawn.known_places(ensemble.feature[inner], ensemble.threshold[inner])
    place = np.full(ensemble.shape.count, -1, np.int64)
    place[inner] = places
    nested = records.nested(Splits(ensemble.shape, ensemble.feature, place, np.zeros((0, len(place)), np.int64)))
    parameters = Parameters(trees, width, first, nested, bits)
    if any(NAMES[array.name] == "nodes_splits" for array in found):
        parameters = max(
            (replace(parameters, order=order) for order in (Order.DEPTH_FIRST, Order.BREADTH_FIRST)),
            key=lambda p: sum(generated(p, ensemble, a) == target[a.begin : a.end] for a in found),
        )
    kept, names = [], set()
    for array in found:
        made_of = generated(parameters, ensemble, array)
        if array.name not in names and made_of == target[array.begin : array.end]:
            kept.append(array)
            names.add(array.name)
    return Draft(parameters, ensemble, kept) if kept else None


def write_header(out: bytearray, p: Parameters) -> None:
    """Append what `read_header` reads."""
    for value in (p.nested | p.order << 1, p.trees, p.width, p.first_id, p.feature_bits):
        write_varint(out, value)


def read_header(reader: Reader) -> Parameters:
    """Read the parameters; FormatError if out of bounds."""
    flags, trees, width = reader.varint(5), reader.varint(MAX_TREES), reader.varint(_MAX_WIDTH)
    first, bits = reader.varint(1 << 20), reader.varint(16)
    if not width or not trees:
        raise FormatError("a frame of trees has parameters out of bounds.")
    return Parameters(trees, width, first, bool(flags & 1), bits, Order(flags >> 1))


def layout(lanes: Lanes, old: list[Array], known: list[Array] | None, count: int) -> list[tuple[int, int, bool, int]]:
    """(name, kind, packed, bytes before it that no array covers) of each array, coded against the base's arrays."""
    model = columns.mixer(1, columns.NUMBER_SLOTS, 1 << 8)
    ends = [0, *(array.end for array in old)]
    hints = [(_form(array), array.begin - end) for array, end in zip(old, ends, strict=False)][:count]
    hints += [(0, 0)] * (count - len(hints))
    values = None
    if known is not None:
        ends = [0, *(array.end for array in known)]
        pairs = [(_form(array), array.begin - end) for array, end in zip(known, ends, strict=False)]
        flat = np.array(pairs, np.int64) - np.array(hints, np.int64).reshape(-1, 2)
        values = columns.signed(flat.ravel())
    context = stacked(np.tile([0, 1], count))
    found = columns.unsigned(columns.numbers(model, lanes, context, values)).reshape(-1, 2) + np.array(
        hints, np.int64
    ).reshape(-1, 2)
    result = []
    for form, gap in found.tolist():
        if not 0 <= form < len(NAMES) * 8 or not 0 <= gap < 1 << 24:
            raise FormatError("a frame of trees has arrays out of bounds.")
        result.append((form // 8, form // 2 % 4, bool(form & 1), gap))
    return result


def _form(array: Array) -> int:
    return array.name * 8 + array.kind * 2 + array.packed


def code(lanes: Lanes, p: Parameters, old: Ensemble, known: Ensemble | None) -> Ensemble:
    """Code an ensemble after learning from the base's."""
    elements = max(2 * old.shape.count, 1 << 14)
    inner = ~old.shape.leaf
    usable = bool(((old.feature[inner] >= 0) & (old.feature[inner] < 1 << p.feature_bits)).all())
    if not usable:
        old = empty(len(old.weights))
        inner = ~old.shape.leaf
    drawn = Drawn(1 << p.feature_bits, (old.feature[inner], old.threshold[inner]), elements, single=True)
    mine = None if known is None else ~known.shape.leaf
    drawn.prepare(lanes, None if known is None else (known.feature[mine], known.threshold[mine]))
    model = SplitModel(Layout(p.feature_bits, 0, 1, 0, drawn.entries.starts, p.nested), elements, drawn.masses)
    learner = Learner(lanes.count)
    old_splits = _splits(old, drawn)
    if old.shape.count and (not p.nested or records.nested(old_splits)):
        old_splits = model.run(learner, int(old.shape.tree.max()) + 1, old_splits, None)
        twins: Splits | None = old_splits
    else:
        twins = None
    found = model.run(lanes, p.trees, None if known is None else _splits(known, drawn), twins)
    shape = found.shape
    threshold = np.zeros(shape.count)
    threshold[~shape.leaf] = floats_of(drawn.entries.words[found.place[~shape.leaf]])
    weights = _leaf_weights(lanes, p, old, shape, found.feature, known)
    flags = columns.mixer(2, columns.NUMBER_SLOTS, elements)
    context = stacked(shape.leaf, joined(shape.leaf, found.feature))
    missing = columns.numbers(flags, lanes, context, None if known is None else known.missing)
    return Ensemble(shape, np.where(shape.leaf, 0, found.feature), threshold, weights, missing)


def _splits(ensemble: Ensemble, drawn: Drawn) -> Splits:
    inner = ~ensemble.shape.leaf
    place = np.full(ensemble.shape.count, -1, np.int64)
    place[inner] = drawn.entries.find(ensemble.feature[inner], words_of(ensemble.threshold[inner]))
    nothing = np.zeros((0, ensemble.shape.count), np.int64)
    return Splits(ensemble.shape, np.where(inner, ensemble.feature, -1), place, nothing)


def _leaf_weights(
    lanes: Lanes, p: Parameters, old: Ensemble, shape: Shape, feature: Integers, known: Ensemble | None
) -> Floats:
    old_rows = old.weights if len(old.weights) == p.width else np.empty((p.width, 0))
    old_groups = repeated(np.zeros(p.width, np.int64), old_rows.shape[1])
    drawn = Drawn(1, (old_groups, old_rows.ravel()), max(1 << 12, 2 * old_rows.size), single=True, inputs=5)
    drawn.prepare(lanes, None if known is None else (np.zeros(known.weights.size, np.int64), known.weights.ravel()))
    if old_rows.size:
        _weights_by_side(Learner(lanes.count), drawn, old.shape, old.feature, p.width, old_rows)
    return _weights_by_side(lanes, drawn, shape, feature, p.width, None if known is None else known.weights)


def _weights_by_side(
    lanes: Lanes, drawn: Drawn, shape: Shape, feature: Integers, width: int, known: Floats | None
) -> Floats:
    """Weights of leaves on the left and then of those on the right, which know their sister's."""
    leaves = np.flatnonzero(shape.leaf)
    number = np.cumsum(shape.leaf) - 1
    result = np.zeros((width, len(leaves)))
    places = np.full((width, shape.count), -1, np.int64)
    parent = shape.parent[leaves]
    above = np.where(parent >= 0, feature[parent], -1)
    depth = shape.depths()[leaves]
    for right in (False, True):
        some = np.flatnonzero(shape.right[leaves] == right)
        nodes = leaves[some]
        before = np.full(len(nodes), -1, np.int64)
        earlier = np.full(len(nodes), -1, np.int64)
        for row in range(width):
            sister = places[row][nodes - 1] if right else np.full(len(nodes), -2, np.int64)
            other = np.where(right, shape.leaf[nodes - 1], 2) if right else np.full(len(nodes), 3)
            context = (
                joined(before, sister, row),
                joined(above[some], before, other),
                joined(depth[some], before, row),
                joined(before, earlier, row),
            )
            values = None if known is None else known[row][some]
            found = drawn.run_in(lanes, np.zeros(len(nodes), np.int64), context, values)
            places[row][nodes] = found
            result[row][number[nodes]] = floats_of(drawn.entries.words[found])
            before, earlier = found, before
    return result


def generated(p: Parameters, ensemble: Ensemble, array: Array) -> bytes | None:
    """The bytes of an array as they follow from the ensemble; None where nothing follows."""
    values = _values(p, ensemble, NAMES[array.name].replace("target_", "class_"))
    if values is None:
        return None
    kind = onnx_arrays.FLOATS if array.kind == onnx_arrays.TENSOR else array.kind
    if onnx_arrays.kind_of(values) != kind and kind != onnx_arrays.STRINGS:
        return None
    try:
        return onnx_arrays.write(values, array.kind, array.packed)
    except FormatError:
        return None


def _values(p: Parameters, ensemble: Ensemble, name: str) -> NDArray[Any] | None:
    if p.order is not Order.NODES:
        return onnx_ensemble.values(p.order, ensemble.shape, ensemble, name)
    shape = ensemble.shape
    place = shape.depth_first()
    order = np.argsort(place, kind="stable")
    tree = shape.tree[order]
    sizes = counted(tree, minlength=p.trees)
    number = numbered(shape.count) - (np.cumsum(sizes) - sizes)[tree]
    leaf = shape.leaf[order]
    left, right = shape.children()
    first = (np.cumsum(sizes) - sizes)[shape.tree]
    match name:
        case "nodes_treeids":
            return tree
        case "nodes_nodeids":
            return number
        case "nodes_truenodeids":
            return np.where(leaf, 0, (place[left] - first)[order])
        case "nodes_falsenodeids":
            return np.where(leaf, 0, (place[right] - first)[order])
        case "nodes_featureids":
            return np.where(leaf, 0, ensemble.feature[order])
        case "nodes_values":
            return np.where(leaf, 0.0, ensemble.threshold[order]).astype(np.float32)
        case "nodes_modes":
            return leaf.astype(np.int64)
        case "nodes_missing_value_tracks_true":
            missing: NDArray[Any] = ensemble.missing[order]
            return missing
        case "nodes_hitrates":
            return np.ones(shape.count, np.float32)
        case "class_treeids":
            return repeated(tree[leaf], p.width)
        case "class_nodeids":
            return repeated(number[leaf], p.width)
        case "class_ids":
            return np.tile(numbered(p.first_id, p.first_id + p.width), int(leaf.sum()))
        case "class_weights":
            row = np.cumsum(shape.leaf) - 1
            weights: NDArray[Any] = ensemble.weights.T[row[order][leaf]].astype(np.float32).ravel()
            return weights
    return None
