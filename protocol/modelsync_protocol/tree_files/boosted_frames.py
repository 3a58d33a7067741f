"""Kind 3 of tree frames: XGBoost's models in JSON and UBJSON. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.tree_files import boosted_arrays
from modelsync_protocol.tree_files.boosted_arrays import MAX_TREES, NAMES, Array, Trees
from modelsync_protocol.trees import boosted, records
from modelsync_protocol.trees.boosted import Booster, BoosterModel, Parameters
from modelsync_protocol.trees.columns import Integers
from modelsync_protocol.trees.floats import Drawn
from modelsync_protocol.trees.lanes import Lanes
from modelsync_protocol.trees.machine_words import counted, numbered, repeated
from modelsync_protocol.trees.shape import from_breadth_first
from modelsync_protocol.trees.splits import MAX_NODES, Splits
from modelsync_protocol.wire import Reader, write_varint

_ROOT_PARENT = 2147483647
_FORMS = (b"", b"d", b"l", b"U")


@dataclass(frozen=True, slots=True)
class Draft:
    """What an encoder found; `forms` and `spans` only of arrays that follow from the booster."""

    parameters: Parameters
    binary: bool
    forms: tuple[tuple[int, bytes], ...]
    spans: list[list[Array]]
    booster: Booster
    same: Integers
    first_id: int


def old_trees(base: bytes) -> tuple[Booster, Trees | None]:
    """The base's trees, none if they do not fit each other; FormatError never."""
    found = boosted_arrays.trees(base)
    if found is None:
        return empty(), None
    try:
        return read(base, found), found
    except FormatError:
        return empty(), found


def empty() -> Booster:
    """No tree."""
    none, ints = np.empty(0), np.empty(0, np.int64)
    return Booster(from_breadth_first(np.zeros(0, bool), ints)[0], ints, none, ints, none, none, none)


def read(data: bytes, found: Trees) -> Booster:
    """The booster that the arrays hold; FormatError if they do not fit each other."""
    fields: dict[str, list[NDArray[Any]]] = {name: [] for name in NAMES}
    total = 0
    for tree in found.arrays:
        values = {NAMES[array.name]: boosted_arrays.read(data, array, found.binary) for array in tree}
        count = len(values["left_children"])
        total += count
        if not count or total > MAX_NODES:
            raise FormatError("a booster's trees are out of bounds.")
        zeros = np.zeros(count)
        for name in NAMES[:10]:
            value = values.get(name, zeros)
            if len(value) != count:
                raise FormatError("a booster's arrays do not fit each other.")
            fields[name].append(value)
    whole = {name: np.concatenate(parts) for name, parts in fields.items() if parts}
    leaf = whole["left_children"] == -1
    shape, order = from_breadth_first(leaf, np.array([len(part) for part in fields["left_children"]], np.int64))
    ordered = {name: values[order] for name, values in whole.items()}
    inner = ~shape.leaf
    feature = ordered["split_indices"].astype(np.int64)
    floats = [
        ordered[name].astype(np.float64) for name in ("split_conditions", "sum_hessian", "base_weights", "loss_changes")
    ]
    finite = all(bool(np.isfinite(values).all()) for values in floats)
    if not finite or int(feature.min()) < 0 or int(feature.max()) >= 1 << 16:
        raise FormatError("a booster's arrays hold something unusual.")
    default = ordered["default_left"].astype(np.int64)
    return Booster(shape, np.where(inner, feature, 0), floats[0], default, floats[1], floats[2], floats[3])


def draft(target: bytes, base: bytes, old: Booster, old_found: Trees | None) -> Draft | None:
    """What there is to code in `target`; None if nothing."""
    found = boosted_arrays.trees(target)
    if found is None:
        return None
    try:
        booster = read(target, found)
    except FormatError:
        return None
    inner = ~booster.shape.leaf
    bits = int(booster.feature.max()).bit_length()
    drawn = Drawn(1 << bits, (np.empty(0, np.int64), np.empty(0)), 1)
    place = np.full(booster.shape.count, -1, np.int64)
    place[inner] = drawn.known_places(booster.feature[inner], booster.condition[inner])
    nothing = np.zeros((0, len(place)), np.int64)
    nested = records.nested(Splits(booster.shape, booster.feature, place, nothing))
    parameters = Parameters(nested, bits, *boosted.rates(booster))
    images = _images(base, old_found)
    same = np.array([images.get(image, -1) for image in _list(target, found)], np.int64)
    if not old.shape.count:
        same[:] = -1
    identifiers = [a for a in found.arrays[0] if NAMES[a.name] == "id"]
    first = int(boosted_arrays.read(target, identifiers[0], found.binary)[0]) if identifiers else 0
    kept = []
    written = generated(booster, found.forms, found.binary, first)
    for number in range(len(found.forms)):
        if all(
            target[t[number].begin : t[number].end] == w[number] for t, w in zip(found.arrays, written, strict=True)
        ):
            kept.append(number)
    needed = {"left_children", "split_conditions", "split_indices", "sum_hessian"}
    if not {NAMES[found.forms[number][0]] for number in kept} >= needed:
        return None
    spans = [[tree[number] for number in kept] for tree in found.arrays]
    return Draft(parameters, found.binary, tuple(found.forms[n] for n in kept), spans, booster, same, first)


def _list(data: bytes, found: Trees) -> list[tuple[bytes, ...]]:
    return [tuple(data[a.begin : a.end] for a in tree if a.name < 10) for tree in found.arrays]


def _images(base: bytes, found: Trees | None) -> dict[tuple[bytes, ...], int]:
    if found is None:
        return {}
    images: dict[tuple[bytes, ...], int] = {}
    for number, image in enumerate(_list(base, found)):
        images.setdefault(image, number)
    return images


def write_header(out: bytearray, made: Draft) -> None:
    """Append what `read_header` reads."""
    p = made.parameters
    for value in (p.nested | made.binary << 1, p.feature_bits, len(made.spans), made.first_id, len(made.forms)):
        write_varint(out, value)
    out += np.array([p.rate, p.penalty], "<f8").tobytes()
    out += bytes(name * 4 + _FORMS.index(form if NAMES[name] != "id" else b"") for name, form in made.forms)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the coded columns."""

    parameters: Parameters
    binary: bool
    trees: int
    first_id: int
    forms: tuple[tuple[int, bytes], ...]


def read_header(reader: Reader) -> Header:
    """Read what `write_header` wrote; FormatError if out of bounds."""
    flags, bits, trees = reader.varint(3), reader.varint(16), reader.varint(MAX_TREES)
    first, count = reader.varint(1 << 24), reader.varint(len(NAMES))
    rate, penalty = np.frombuffer(reader.take(16), "<f8").tolist()
    codes = bytes(reader.take(count))
    if not (abs(rate) < 1e9 and abs(penalty) < 1e9 and rate) or any(code // 4 >= len(NAMES) for code in codes):
        raise FormatError("a frame of trees has parameters out of bounds.")
    forms = tuple((code // 4, _FORMS[code % 4]) for code in codes)
    if bool(flags & 2) != any(form for _, form in forms):
        raise FormatError("a frame of trees has parameters out of bounds.")
    return Header(Parameters(bool(flags & 1), bits, rate, penalty), bool(flags & 2), trees, first, forms)


def code(lanes: Lanes, p: Parameters, old: Booster, same: Integers, known: Booster | None) -> Booster:
    """Code the trees that the base does not hold, and join them with those that it does."""
    if old.shape.count and int(old.feature.max()) >= 1 << p.feature_bits:
        if bool((same >= 0).any()):
            raise FormatError("a frame of trees leans on features that it lacks.")
        old = empty()
    mine = np.flatnonzero(same < 0)
    old_count = int(old.shape.tree.max(initial=-1)) + 1
    twins = np.where(mine < old_count, mine, -1)
    model = BoosterModel(p, old, max(2 * old.shape.count, 1 << 14))
    part = None if known is None else picked([(known, int(tree)) for tree in mine])
    found = model.run(lanes, len(mine), twins, part)
    number = np.cumsum(same < 0) - 1
    return picked([(found, int(number[t])) if twin < 0 else (old, int(twin)) for t, twin in enumerate(same.tolist())])


def picked(trees: list[tuple[Booster, int]]) -> Booster:
    """A booster of these trees, in this order."""
    fields: list[list[NDArray[Any]]] = [[] for _ in range(7)]
    sizes = []
    starts: dict[int, tuple[Integers, Integers]] = {}
    for booster, tree in trees:
        if id(booster) not in starts:
            order = np.argsort(booster.shape.tree, kind="stable")
            starts[id(booster)] = order, np.searchsorted(booster.shape.tree[order], numbered(len(order) + 2))
        order, begin = starts[id(booster)]
        nodes = order[begin[tree] : begin[tree + 1]]
        sizes.append(len(nodes))
        columns_ = (
            booster.shape.leaf,
            booster.feature,
            booster.condition,
            booster.default,
            booster.hessian,
            booster.weight,
            booster.gain,
        )
        for into, column in zip(fields, columns_, strict=True):
            into.append(column[nodes])
    if not trees:
        return empty()
    if sum(sizes) > MAX_NODES:
        raise FormatError("a frame has more nodes of trees than any allowed.")
    whole = [np.concatenate(parts) for parts in fields]
    shape, order = from_breadth_first(whole[0], np.array(sizes, np.int64))
    return Booster(shape, *(column[order] for column in whole[1:]))


def generated(booster: Booster, forms: tuple[tuple[int, bytes], ...], binary: bool, first_id: int) -> list[list[bytes]]:
    """The arrays' text or bytes, tree by tree."""
    shape = booster.shape
    order = np.argsort(shape.tree, kind="stable")
    number = np.empty(shape.count, np.int64)
    trees = int(shape.tree.max(initial=-1)) + 1
    sizes = counted(shape.tree, minlength=trees)
    ends = np.cumsum(sizes)
    number[order] = numbered(shape.count) - repeated(ends - sizes, sizes)
    left, right = shape.children()
    leaf = shape.leaf
    values: dict[str, NDArray[Any]] = {
        "base_weights": booster.weight.astype(np.float32),
        "default_left": booster.default,
        "left_children": np.where(leaf, -1, number[left]),
        "loss_changes": booster.gain.astype(np.float32),
        "parents": np.where(shape.parent < 0, _ROOT_PARENT, number[shape.parent]),
        "right_children": np.where(leaf, -1, number[right]),
        "split_conditions": booster.condition.astype(np.float32),
        "split_indices": booster.feature,
        "split_type": np.zeros(shape.count, np.int64),
        "sum_hessian": booster.hessian.astype(np.float32),
    }
    result = []
    for tree, (size, end) in enumerate(zip(sizes.tolist(), ends.tolist(), strict=True)):
        nodes = order[end - size : end]
        row = []
        for name, form in forms:
            text = NAMES[name]
            part = values[text][nodes] if text in values else np.array([first_id + tree if text == "id" else size])
            row.append(boosted_arrays.write(part, name, form, binary))
        result.append(row)
    return result
