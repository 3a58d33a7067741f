"""Kind 1 of tree frames: scikit-learn's arrays of nodes in pickle and joblib files. No I/O here.

Where the arrays lie is coded too, in the target and in the base, so that decoding needs no reader of the containers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelsync_protocol.errors import FormatError
from modelsync_protocol.tree_files import scan
from modelsync_protocol.tree_files.scan import Found
from modelsync_protocol.trees import columns, judging
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.lanes import Lanes
from modelsync_protocol.trees.machine_words import counted, numbered
from modelsync_protocol.trees.mixing import Mixer, joined
from modelsync_protocol.trees.records import Impurity, Parameters, Style, Table, TableModel
from modelsync_protocol.trees.shape import from_depth_first
from modelsync_protocol.trees.splits import MAX_NODES
from modelsync_protocol.wire import Reader, write_varint

MAX_TREES = 1 << 16
_MAX_UNITS = 1 << 20
Spans = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Draft:
    """What an encoder found: the header's bytes, the target's trees and the base's."""

    parameters: Parameters
    size: int
    found: list[Found]
    old: list[Found]
    same: Integers
    """Per tree of the target: the base's tree that is equal to it byte for byte, or -1."""


def draft(target: bytes, base: bytes) -> Draft | None:
    """What there is to code in `target`; None if nothing."""
    found = list(scan.trees(target))
    if not found:
        return None
    first = max(found, key=lambda tree: tree.count)
    alike = [tree for tree in found if _alike(tree, first)][:MAX_TREES]
    old = [tree for tree in scan.trees(base) if _alike(tree, first)][:MAX_TREES] if base else []
    images: dict[tuple[bytes, bytes], int] = {}
    for number, tree in enumerate(old):
        images.setdefault(_image(base, tree), number)
    same = np.array([images.get(_image(target, tree), -1) for tree in alike], np.int64)
    mine = [tree for tree, twin in zip(alike, same, strict=True) if twin < 0]
    if sum(tree.count for tree in alike) > MAX_NODES or sum(tree.count for tree in old) > MAX_NODES:
        return None
    table = _table(target, mine or alike[:1], first)
    return Draft(judging.parameters(table, first.outputs, first.classes), first.size, alike, old, same)


def write_header(out: bytearray, made: Draft) -> None:
    """Append what `read_header` reads."""
    p = made.parameters
    flags = p.nested | p.weighted << 1 | (made.size == 64) << 2 | p.style << 3 | p.impurity << 5
    plain = bool((p.units == 1.0).all())
    for value in (flags | plain << 7, p.outputs, p.classes, p.feature_bits, len(made.found), len(made.old)):
        write_varint(out, value)
    if not plain:
        write_varint(out, p.units.shape[1])
        out += p.units.astype("<f8").tobytes()


def read_header(reader: Reader) -> tuple[Parameters, int, int, int]:
    """(parameters, record size, trees, trees of the base)."""
    flags = reader.varint(255)
    outputs, classes = reader.varint(1 << 12), reader.varint(1 << 12)
    bits, trees, old = reader.varint(16), reader.varint(MAX_TREES), reader.varint(MAX_TREES)
    style, impurity = flags >> 3 & 3, flags >> 5 & 3
    if not 0 < outputs * classes <= 1 << 12 or style > 2 or impurity > 2:
        raise FormatError("a frame of trees has parameters out of bounds.")
    units = np.ones((outputs * classes, 1))
    if not flags >> 7:
        width = reader.varint(MAX_TREES)
        if not 0 < width * outputs * classes <= _MAX_UNITS:
            raise FormatError("a frame of trees has parameters out of bounds.")
        data = reader.take(8 * width * outputs * classes)
        units = np.frombuffer(data, "<f8").reshape(outputs * classes, width).copy()
        if not bool((np.isfinite(units) & (units > 0)).all()):
            raise FormatError("a frame of trees has parameters out of bounds.")
    kind = Parameters(
        outputs, classes, Style(style), Impurity(impurity), bool(flags & 1), bits, bool(flags >> 1 & 1), units
    )
    return kind, 64 if flags & 4 else 56, trees, old


class RecordCoder:
    """Codes the arrays of one frame; `known` to encode, None to decode."""

    def __init__(self, parameters: Parameters, size: int, trees: int, old_trees: int, base: bytes) -> None:
        self._parameters, self._size, self._trees, self._old_trees = parameters, size, trees, old_trees
        self._base = base

    def layout(self, lanes: Lanes, known: Draft | None) -> tuple[list[Found], list[tuple[int, int]], Integers]:
        """(the base's trees, per tree of the target how many bytes come before its records and its values, same)."""
        model = columns.mixer(2, columns.NUMBER_SLOTS, 1 << 10)
        old = self._places(lanes, model, self._old_trees, None if known is None else known.old, True)
        trees = self._places(lanes, model, self._trees, None if known is None else known.found, False)
        gaps = [(tree.records, tree.values) for tree in trees]
        last = 0
        placed: list[Found] = []
        for before, between in gaps:
            placed.append(Found(last + before, 0, self._size, between, 0, 0))
        twin = None if known is None else known.same
        steps = None
        if twin is not None:
            steps = np.where(twin < 0, 0, 1 + columns.signed(twin - _expected(twin)))
        context = stacked(np.full(self._trees, 9), np.full(self._trees, 9))
        steps = columns.numbers(model, lanes, context, steps)
        found = np.full(self._trees, -1, np.int64)
        following = 0
        for number, step in enumerate(steps.tolist()):
            if step:
                found[number] = int(columns.unsigned(np.array([step - 1]))[0]) + following
                following = int(found[number]) + 1
        if bool((found >= self._old_trees).any()) or bool((found < -1).any()):
            raise FormatError("a frame of trees names a tree that the base lacks.")
        return old, gaps, found

    def _places(self, lanes: Lanes, model: Mixer, trees: int, known: list[Found] | None, of_base: bool) -> list[Found]:
        """Trees with the distances before their records and values; those of the base with counts, at their places."""
        rows = []
        width = self._parameters.width * 8
        exact: list[Integers] = []
        if known is not None:
            ends = [0, *(tree.end for tree in known)]
            starts = np.array([tree.records - end for tree, end in zip(known, ends, strict=False)], np.int64)
            between = np.array([tree.values - tree.records_end for tree in known], np.int64)
            counts = np.array([tree.count for tree in known], np.int64)
            exact = [starts, between, counts]
        for number in range(3 if of_base else 2):
            values = None
            if known is not None:
                values = columns.signed(np.diff(exact[number], prepend=np.int64(0)))
            first = numbered(trees) == 0
            context = stacked(joined(first, number, 1), joined(np.full(trees, number), int(of_base)))
            rows.append(np.cumsum(columns.unsigned(columns.numbers(model, lanes, context, values))))
        if trees and (min(int(row.min()) for row in rows) < 0 or max(int(row.max()) for row in rows) > 1 << 24):
            raise FormatError("a frame of trees has its trees out of bounds.")
        p = self._parameters
        if not of_base:
            return [
                Found(before, 0, self._size, between_, p.outputs, p.classes)
                for before, between_ in zip(rows[0].tolist(), rows[1].tolist(), strict=True)
            ]
        result, position = [], 0
        if sum(rows[2].tolist()) > MAX_NODES:
            raise FormatError("a frame has more nodes of trees than any allowed.")
        for before, between_, count in zip(*(row.tolist() for row in rows), strict=True):
            start = position + before
            values_at = start + count * self._size + between_
            result.append(Found(start, count, self._size, values_at, p.outputs, p.classes))
            position = values_at + count * width
        if position > len(self._base):
            raise FormatError("a frame of trees has its trees out of bounds.")
        return result

    def tables(self, lanes: Lanes, old: list[Found], same: Integers, known: tuple[bytes, Draft] | None) -> Table:
        """Code the trees of the target that the base does not hold."""
        shape_of = Found(0, 0, self._size, 0, self._parameters.outputs, self._parameters.classes)
        before = _table(self._base, old, shape_of)
        table = None
        if known is not None:
            target, made = known
            mine = [tree for tree, twin in zip(made.found, same, strict=True) if twin < 0]
            table = _table(target, mine, shape_of)
        trees = int((same < 0).sum())
        elements = before.shape.count + (table.shape.count if table is not None else 0)
        model = TableModel(self._parameters, before, max(elements, before.shape.count * 2, 1 << 12))
        return model.run(lanes, trees, table)


def _expected(twin: Integers) -> Integers:
    result, following = [], 0
    for value in twin.tolist():
        result.append(following)
        if value >= 0:
            following = value + 1
    return np.array(result, np.int64)


def _alike(one: Found, other: Found) -> bool:
    return (one.size, one.outputs, one.classes) == (other.size, other.outputs, other.classes)


def _image(data: bytes, tree: Found) -> tuple[bytes, bytes]:
    return data[tree.records : tree.records_end], data[tree.values : tree.end]


def _dtype(size: int) -> np.dtype[np.void]:
    names = ["left", "right", "feature", "threshold", "impurity", "samples", "weight"]
    formats = ["<i8", "<i8", "<i8", "<f8", "<f8", "<i8", "<f8"]
    if size == 64:
        names, formats = [*names, "tail"], [*formats, "<i8"]
    return np.dtype({"names": names, "formats": formats})


def _table(data: bytes, trees: Sequence[Found], like: Found) -> Table:
    """Read trees; their leaves must follow each other depth first."""
    dtype, width = _dtype(like.size), like.outputs * like.classes
    nodes = [np.frombuffer(data, dtype, tree.count, tree.records) for tree in trees]
    contents = [np.frombuffer(data, "<f8", tree.count * width, tree.values).reshape(-1, width) for tree in trees]
    node = np.concatenate([np.empty(0, dtype), *nodes])
    values = np.concatenate([np.empty((0, width)), *contents])
    shape, order = from_depth_first(node["left"] == -1)
    if int(shape.tree.max(initial=-1)) + 1 != len(trees):
        raise FormatError("a frame of trees lacks a tree in its base.")
    node = node[order]
    tail = node["tail"].copy() if like.size == 64 else np.zeros(len(node), np.int64)
    return Table(
        shape,
        node["feature"].copy(),
        node["threshold"].copy(),
        node["impurity"].copy(),
        node["samples"].copy(),
        node["weight"].copy(),
        tail,
        values[order].T.copy(),
    )


def arrays(table: Table, size: int) -> list[tuple[bytes, bytes]]:
    """Records and values of each tree, as scikit-learn writes them."""
    place = table.shape.depth_first()
    left, right = table.shape.children()
    count = table.shape.count
    node = np.zeros(count, _dtype(size))
    order = np.argsort(place, kind="stable")
    trees = int(table.shape.tree.max(initial=-1)) + 1
    sizes = counted(table.shape.tree, minlength=trees) if trees else np.empty(0, np.int64)
    begin = (np.cumsum(sizes) - sizes)[table.shape.tree] if trees else np.empty(0, np.int64)
    leaf = table.shape.leaf
    for name, child in (("left", left), ("right", right)):
        node[name] = np.where(leaf, -1, place[child] - begin)
    fields = ("feature", "threshold", "impurity", "samples", "weight") + (("tail",) if size == 64 else ())
    for name in fields:
        node[name] = getattr(table, name)
    node, values = node[order], np.ascontiguousarray(table.values.T[order])
    ends = np.cumsum(sizes).tolist()
    return [
        (node[end - length : end].tobytes(), values[end - length : end].tobytes())
        for end, length in zip(ends, sizes.tolist(), strict=True)
    ]
