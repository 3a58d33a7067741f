"""Kind 4 of tree frames: LightGBM's text. No I/O here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.tree_files import text_arrays
from modelsync_protocol.tree_files.text_arrays import MAX_TREES, NAMES, NEEDED, Array, Trees
from modelsync_protocol.trees import columns, leafwise, records
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.digits import decimals, from_decimals
from modelsync_protocol.trees.floats import Drawn, Floats, floats_of, words_of
from modelsync_protocol.trees.gradients import Regularisation
from modelsync_protocol.trees.lanes import Lanes
from modelsync_protocol.trees.leafwise import Leafwise, LeafwiseModel, Parameters
from modelsync_protocol.trees.machine_words import counted, numbered, repeated
from modelsync_protocol.trees.mixing import joined
from modelsync_protocol.trees.shape import Shape, from_children
from modelsync_protocol.trees.splits import MAX_NODES, Splits
from modelsync_protocol.wire import Reader, write_varint

_PENALTIES = (0.0, 1.0, 0.1, 0.01, 0.001, 0.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_CLASSES = (0.0, 1.0, *(1.0 - 1.0 / k for k in range(2, 31)))
_SAMPLE = 4096
_ENOUGH = 0.97


@dataclass(frozen=True, slots=True)
class Draft:
    """What an encoder found; `names` and `spans` only of arrays that follow from the trees."""

    parameters: Parameters
    names: tuple[int, ...]
    spans: list[list[Array]]
    trees: Leafwise
    numbers: Integers
    same: Integers


def empty() -> Leafwise:
    """No tree."""
    none, ints = np.empty(0), np.empty(0, np.int64)
    shape = Shape((0,), np.zeros(0, bool), ints, np.zeros(0, bool), ints)
    return Leafwise(shape, ints, ints, none, ints, ints, none, none, ints, ints, ints, none)


def old_trees(base: bytes) -> tuple[Leafwise, Trees | None]:
    """The base's trees, none if they do not fit each other; FormatError never."""
    found = text_arrays.trees(base)
    if found is None:
        return empty(), None
    try:
        return read(base, found)[0], found
    except FormatError:
        return empty(), found


def read(data: bytes, found: Trees) -> tuple[Leafwise, Integers]:
    """(the trees, their numbers) that the arrays hold; FormatError if they do not fit each other."""
    fields: dict[str, list[NDArray[Any]]] = {NAMES[name]: [] for name in found.names}
    total = 0
    for tree in found.arrays:
        for array in tree:
            fields[NAMES[array.name]].append(text_arrays.read(data, array))
        total += 2 * len(fields["left_child"][-1]) + 1
        if total > MAX_NODES:
            raise FormatError("a booster's trees are out of bounds.")
    sizes = np.array([len(part) for part in fields["left_child"]], np.int64)
    whole = {name: np.concatenate(parts) for name, parts in fields.items()}
    shape, index, place = from_children(sizes, whole["left_child"], whole["right_child"])
    leaf, inner = shape.leaf, ~shape.leaf
    zeros = np.zeros(int(sizes.sum()), np.int64)

    def spread(at: NDArray[np.bool_], values: NDArray[Any] | None) -> NDArray[Any]:
        values = zeros if values is None else values
        result = np.zeros(shape.count, values.dtype)
        result[at] = values[place[at]]
        return result

    feature = spread(inner, whole["split_feature"])
    count = spread(leaf, whole["leaf_count"])
    threshold, weight = spread(inner, whole["threshold"]), spread(leaf, whole["leaf_weight"])
    value = spread(leaf, whole["leaf_value"])
    usual = all(bool(np.isfinite(values).all()) for values in (threshold, weight, value))
    if not usual or int(feature.min()) < 0 or int(feature.max()) >= 1 << 16:
        raise FormatError("a booster's arrays hold something unusual.")
    if int(count[leaf].min()) < 1 or int(count.max()) >= 1 << 30:
        raise FormatError("a booster's arrays hold something unusual.")
    left, right = shape.children()
    for nodes in records.upwards(shape):
        count[nodes] = count[left[nodes]] + count[right[nodes]]
    words = [
        spread(inner, decimals(whole[name]) if name in whole else None)
        for name in ("split_gain", "internal_weight", "internal_value")
    ]
    decision = spread(inner, whole.get("decision_type"))
    rate = whole.get("shrinkage", np.ones(len(sizes)))
    rate = np.where(np.isfinite(rate) & (rate != 0), rate, 1.0)
    numbers = whole.get("Tree", numbered(len(sizes)))
    return Leafwise(
        shape, index, feature, threshold, decision, count, weight, value, words[0], words[1], words[2], rate
    ), numbers


def draft(target: bytes, base: bytes, old: Leafwise, old_found: Trees | None) -> Draft | None:
    """What there is to code in `target`; None if nothing."""
    found = text_arrays.trees(target)
    if found is None:
        return None
    try:
        trees, numbers = read(target, found)
    except FormatError:
        return None
    images = _images(base, old_found)
    same = np.array([images.get(image, -1) for image in _list(target, found)], np.int64)
    if not old.shape.count:
        same[:] = -1
    written = generated(trees, numbers, found.names)
    kept = [
        number
        for number in range(len(found.names))
        if all(target[t[number].begin : t[number].end] == w[number] for t, w in zip(found.arrays, written, strict=True))
    ]
    if not {NAMES[found.names[number]] for number in kept} >= NEEDED:
        return None
    spans = [[tree[number] for number in kept] for tree in found.arrays]
    return Draft(_parameters(trees, target), tuple(found.names[n] for n in kept), spans, trees, numbers, same)


def _list(data: bytes, found: Trees) -> list[tuple[bytes, ...]]:
    return [tuple(data[a.begin : a.end] for a in tree if a.name) for tree in found.arrays]


def _images(base: bytes, found: Trees | None) -> dict[tuple[bytes, ...], int]:
    images: dict[tuple[bytes, ...], int] = {}
    if found is not None:
        for number, image in enumerate(_list(base, found)):
            images.setdefault(image, number)
    return images


def _parameters(trees: Leafwise, text: bytes) -> Parameters:
    """The parameters with which most follows from little."""
    shape = trees.shape
    leaf = shape.leaf
    inner = np.flatnonzero(~leaf)
    bits = int(trees.feature.max()).bit_length()
    groups = trees.feature[inner]
    words = words_of(trees.threshold[inner])
    low = np.uint64((1 << 26) - 1)
    shifted = int((words - np.uint64(1) & low == 0).sum()) > int((words & low == 0).sum())
    place = np.full(shape.count, -1, np.int64)
    drawn = Drawn(1 << bits, (np.empty(0, np.int64), np.empty(0)), 1)
    place[inner] = drawn.known_places(groups, trees.threshold[inner])
    nested = records.nested(Splits(shape, trees.feature, place, np.zeros((0, shape.count), np.int64)))
    weight, count = trees.weight[leaf], trees.count[leaf].astype(np.float64)
    ratio = weight / count
    middle = float(np.median(ratio))
    unit = middle if middle > 0 and float((np.abs(ratio / middle - 1.0) < 1e-12).mean()) > 0.9 else 0.0
    if abs(unit - 1.0) < 1e-12:
        unit = 1.0
    absolute, penalty, more = _penalties(trees, text)
    by = weight + penalty
    gradient = np.abs(trees.value[leaf] * by / trees.rate[shape.tree[leaf]])
    share = 0.0 if unit else share_of(gradient, weight, count)
    return Parameters(nested, shifted, bits, penalty, more, Regularisation(share, unit, absolute, told=True))


def _penalties(trees: Leafwise, text: bytes) -> tuple[float, float, float]:
    """(absolute, of squares, more of squares below categories) with which most gains follow."""
    shape = trees.shape
    inner = np.flatnonzero(~shape.leaf)[:_SAMPLE]
    categories = bool((trees.decision[inner] & 1 == 1).any())
    told, extra, absolutes = (_told(name, text) for name in (b"lambda_l2", b"cat_l2", b"lambda_l1"))
    best = (-1.0, (0.0, 0.0, 0.0))
    below = np.zeros(shape.count, bool)
    has = shape.parent >= 0
    below[has] = trees.decision[shape.parent[has]] & 1 == 1
    extras = [0.0, *extra, 10.0] if categories else [0.0]
    for absolute, more, penalty in product([0.0, *absolutes], extras, [*told, *_PENALTIES]):
        amounts = penalty + np.where(below, more, 0.0)
        with np.errstate(all="ignore"):
            gain = leafwise.followed(shape, trees.weight, trees.value, (amounts, absolute), trees.rate)[0][inner]
        # Gains lie in the file with six digits: those that follow to within some units are counted.
        fit = float((np.abs(decimals(gain) - trees.gain_word[inner]) < 8).mean())
        if fit > best[0] + 0.001:
            best = fit, (absolute, penalty, more)
        if fit > _ENOUGH:
            break
    return best[1]


def _told(name: bytes, text: bytes) -> list[float]:
    """What the parameters at the text's end say."""
    return [float(x) for x in re.findall(rb"\[" + name + rb": ([0-9.e+-]{1,20})\]", text)[:1] if _number(x)]


def _number(text: bytes) -> bool:
    try:
        return np.isfinite(float(text)) and 0 <= float(text) < 1e9
    except ValueError:
        return False


def share_of(gradient: Floats, weight: Floats, count: Floats) -> float:
    """The share that puts most gradients near to what hessians say. For encoders."""
    best = (np.inf, 0.0)
    with np.errstate(all="ignore"):
        for share in _CLASSES:
            root = np.maximum(1.0 - 4.0 * share * weight / count, 0.0)
            apart = np.abs(gradient - count * (1.0 - np.sqrt(root)) / 2.0)
            cost = float(np.nansum(np.log2(apart + 1e-9)))
            if cost < best[0]:
                best = cost, share
    return best[1]


def write_header(out: bytearray, made: Draft) -> None:
    """Append what `read_header` reads."""
    p = made.parameters
    for value in (p.nested | p.shifted << 1, p.feature_bits, len(made.spans), len(made.names)):
        write_varint(out, value)
    out += np.array([p.penalty, p.more, p.leaves.share, p.leaves.unit, p.leaves.absolute], "<f8").tobytes()
    out += bytes(made.names)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the coded columns."""

    parameters: Parameters
    trees: int
    names: tuple[int, ...]


def read_header(reader: Reader) -> Header:
    """Read what `write_header` wrote; FormatError if out of bounds."""
    flags, bits, trees, count = reader.varint(3), reader.varint(16), reader.varint(MAX_TREES), reader.varint(len(NAMES))
    numbers = np.frombuffer(reader.take(40), "<f8").tolist()
    names = tuple(reader.take(count))
    if not all(0 <= number < 1e9 for number in numbers) or any(name >= len(NAMES) for name in names):
        raise FormatError("a frame of trees has parameters out of bounds.")
    penalty, more, share, unit, absolute = numbers
    leaves = Regularisation(share, unit, absolute, told=True)
    return Header(Parameters(bool(flags & 1), bool(flags & 2), bits, penalty, more, leaves), trees, names)


def code(
    lanes: Lanes, p: Parameters, old: Leafwise, same: Integers, known: tuple[Leafwise, Integers] | None
) -> tuple[Leafwise, Integers]:
    """Code the trees that the base does not hold, join them with those that it does, and number all."""
    if old.shape.count and int(old.feature.max()) >= 1 << p.feature_bits:
        if bool((same >= 0).any()):
            raise FormatError("a frame of trees leans on features that it lacks.")
        old = empty()
    numbers = _numbers(lanes, len(same), None if known is None else known[1])
    mine = np.flatnonzero(same < 0)
    part = None if known is None else picked([(known[0], int(tree)) for tree in mine])
    rate = _rates(lanes, len(mine), old, None if part is None else part.rate)
    twins = np.where(mine < len(old.rate), mine, -1)
    found = LeafwiseModel(p, old, max(2 * old.shape.count, 1 << 14)).run(lanes, rate, twins, part)
    number = np.cumsum(same < 0) - 1
    whole = picked([(found, int(number[t])) if twin < 0 else (old, int(twin)) for t, twin in enumerate(same.tolist())])
    return whole, numbers


def _numbers(lanes: Lanes, trees: int, known: Integers | None) -> Integers:
    """The trees' numbers."""
    model = columns.mixer(1, columns.NUMBER_SLOTS, 16)
    steps = None if known is None else columns.signed(np.diff(known, prepend=np.int64(-1)) - 1)
    flag = None if steps is None else np.array([int((steps != 0).any())])
    if not columns.symbols(model, lanes, np.full((1, 1), 7, np.uint32), 1, flag)[0]:
        return numbered(trees)
    found = columns.numbers(model, lanes, stacked(numbered(trees) > 0), steps)
    return np.cumsum(columns.unsigned(found) + 1) - 1


def _rates(lanes: Lanes, trees: int, old: Leafwise, known: Floats | None) -> Floats:
    """What each tree's values have been multiplied by."""
    zeros = np.zeros(len(old.rate), np.int64)
    drawn = Drawn(1, (zeros, old.rate), max(trees, 16), inputs=2)
    group = np.zeros(trees, np.int64)
    drawn.prepare(lanes, None if known is None else (group, known))
    if not trees:
        return np.empty(0)
    found = drawn.run_in(lanes, group, (joined(np.minimum(numbered(trees), 1)),), known)
    return floats_of(drawn.entries.words[found])


def picked(trees: list[tuple[Leafwise, int]]) -> Leafwise:
    """These trees, in this order."""
    if not trees:
        return empty()
    sources = {id(source): source for source, _ in trees}
    starts: dict[int, tuple[Integers, Integers]] = {}
    for key, source in sources.items():
        order = np.argsort(source.shape.tree, kind="stable")
        starts[key] = order, np.searchsorted(source.shape.tree[order], numbered(len(source.rate) + 1))
    parts = []
    for source, tree in trees:
        order, begin = starts[id(source)]
        parts.append((source, order[begin[tree] : begin[tree + 1]]))
    if sum(len(nodes) for _, nodes in parts) > MAX_NODES:
        raise FormatError("a frame has more nodes of trees than any allowed.")
    depths = {key: source.shape.depths() for key, source in sources.items()}
    depth = np.concatenate([depths[id(source)][nodes] for source, nodes in parts])
    owner = repeated(numbered(len(parts)), [len(nodes) for _, nodes in parts])
    # Within one tree nodes stand wave by wave, so that a stable sort by depth puts all waves together.
    order = np.argsort(depth, kind="stable")
    inverse = np.empty(len(order), np.int64)
    inverse[order] = numbered(len(order))
    parent, base = [], 0
    for source, nodes in parts:
        above = source.shape.parent[nodes]
        place = np.searchsorted(nodes, above) + base
        parent.append(np.where(above >= 0, place, -1))
        base += len(nodes)
    flat = np.concatenate(parent)
    flat = np.where(flat >= 0, inverse[flat], -1)[order]
    starts_ = (0, *np.cumsum(counted(depth)).tolist())

    def column(get: Callable[[Leafwise], NDArray[Any]]) -> NDArray[Any]:
        result: NDArray[Any] = np.concatenate([get(source)[nodes] for source, nodes in parts])[order]
        return result

    leaf, right = column(lambda some: some.shape.leaf), column(lambda some: some.shape.right)
    return Leafwise(
        shape=Shape(starts_, leaf, flat, right, owner[order]),
        index=column(lambda some: some.index),
        feature=column(lambda some: some.feature),
        threshold=column(lambda some: some.threshold),
        decision=column(lambda some: some.decision),
        count=column(lambda some: some.count),
        weight=column(lambda some: some.weight),
        value=column(lambda some: some.value),
        gain_word=column(lambda some: some.gain_word),
        weight_word=column(lambda some: some.weight_word),
        value_word=column(lambda some: some.value_word),
        rate=np.array([source.rate[tree] for source, tree in trees]),
    )


def generated(trees: Leafwise, numbers: Integers, names: tuple[int, ...]) -> list[list[bytes]]:
    """The arrays' text, tree by tree."""
    shape = trees.shape
    leaf = shape.leaf
    order = np.lexsort((trees.index, leaf, shape.tree))
    left, right = shape.children()
    child = np.where(leaf, ~trees.index, trees.index)
    inner = order[~leaf[order]]
    leaves = order[leaf[order]]
    values: dict[str, NDArray[Any]] = {
        "split_feature": trees.feature[inner],
        "split_gain": from_decimals(trees.gain_word[inner]),
        "threshold": trees.threshold[inner],
        "decision_type": trees.decision[inner],
        "left_child": child[left[inner]],
        "right_child": child[right[inner]],
        "leaf_value": trees.value[leaves],
        "leaf_weight": trees.weight[leaves],
        "leaf_count": trees.count[leaves],
        "internal_value": from_decimals(trees.value_word[inner]),
        "internal_weight": from_decimals(trees.weight_word[inner]),
        "internal_count": trees.count[inner],
    }
    count = len(numbers)
    sizes = counted(shape.tree[inner], minlength=count)
    ends = np.cumsum(sizes).tolist()
    result = []
    for tree, (size, end) in enumerate(zip(sizes.tolist(), ends, strict=True)):
        one = {"Tree": numbers[tree : tree + 1], "num_leaves": np.array([size + 1]), "shrinkage": trees.rate[[tree]]}
        row = []
        for name in names:
            text = NAMES[name]
            begin = end - size + (tree if text in text_arrays.LEAVES else 0)
            until = end + (tree + 1 if text in text_arrays.LEAVES else 0)
            row.append(text_arrays.write(one[text] if text in one else values[text][begin:until], text))
        result.append(row)
    return result
