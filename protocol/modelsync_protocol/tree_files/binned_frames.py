"""Kind 5 of tree frames: scikit-learn's HistGradientBoosting in pickle and joblib. No I/O here."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.tree_files import binned_scan, binned_solving
from modelsync_protocol.tree_files.binned_scan import MAX_FEATURES, MAX_TREES, RECORDS, Found, Span
from modelsync_protocol.tree_files.text_frames import share_of
from modelsync_protocol.trees import records
from modelsync_protocol.trees.binned import Binned, BinnedModel, Edges, Parameters
from modelsync_protocol.trees.columns import Integers
from modelsync_protocol.trees.floats import Drawn, Floats
from modelsync_protocol.trees.gradients import Regularisation
from modelsync_protocol.trees.lanes import Lanes
from modelsync_protocol.trees.machine_words import counted, numbered, repeated
from modelsync_protocol.trees.shape import from_depth_first
from modelsync_protocol.trees.splits import Splits
from modelsync_protocol.wire import Reader, write_varint

_RATES = (0.1, 0.05, 0.01, 0.02, 0.03, 0.2, 0.3, 0.5, 1.0, 0.15, 0.25, 0.08)
_PENALTIES = (0.0, 0.1, 0.01, 0.001, 0.5, 1.0, 2.0, 5.0, 10.0)
_SAMPLE = 2048
_NEAR = 1e-9


@dataclass(frozen=True, slots=True)
class Draft:
    """What an encoder found. `spans` and `same` are of trees, one array each."""

    parameters: Parameters
    size: int
    edge_spans: list[list[Span]]
    spans: list[list[Span]]
    trees: Binned
    edges: Edges
    same: Integers


@dataclass(frozen=True, slots=True)
class Old:
    """What the base holds."""

    found: Found | None
    trees: Binned
    edges: Edges

    @property
    def count(self) -> int:
        """Trees."""
        return int(self.trees.shape.tree.max(initial=-1)) + 1

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where all of it lies."""
        found = self.found
        return [] if found is None else [(span.begin, span.end) for span in found.edges + found.trees]


def empty() -> Binned:
    """No tree."""
    none, ints = np.empty(0), np.empty(0, np.int64)
    shape = from_depth_first(np.zeros(0, bool))[0]
    return Binned(shape, ints, none, ints, ints, ints, ints, ints, none, none, none)


def no_edges() -> Edges:
    """No feature."""
    return Edges(0, np.empty(0, np.int64), np.empty(0))


def old_trees(base: bytes) -> Old:
    """The base's trees, none if they do not fit each other; FormatError never."""
    found = binned_scan.find(base)
    if found is not None:
        try:
            return Old(found, read(base, found), _edges(base, found))
        except FormatError:
            pass
    return Old(None, empty(), no_edges())


def read(data: bytes, found: Found) -> Binned:
    """The trees that lie in `data`; FormatError if they do not hold together."""
    parts = [np.frombuffer(data[span.begin : span.end], RECORDS[found.size]) for span in found.trees]
    nodes = np.concatenate(parts)
    shape, order = from_depth_first(nodes["leaf"] == 1)
    nodes = nodes[order]
    inner = ~shape.leaf
    feature = nodes["feature"].astype(np.int64)
    count = np.where(shape.leaf, nodes["count"].astype(np.int64), 0)
    usual = not bool(np.isnan(nodes["threshold"][inner]).any()) and bool((count[shape.leaf] > 0).all())
    if not usual or int(feature.min()) < 0 or int(feature.max()) >= MAX_FEATURES or int(count.max()) >= 1 << 30:
        raise FormatError("a booster's arrays hold something unusual.")
    left, right = shape.children()
    for some in records.upwards(shape):
        count[some] = count[left[some]] + count[right[some]]
    missing, categorical, bitset, bin_ = (
        np.where(inner, nodes[name].astype(np.int64), 0) for name in ("missing", "categorical", "bitset", "bin")
    )
    value, gain = nodes["value"].astype(np.float64), nodes["gain"].astype(np.float64)
    threshold, weight = np.where(inner, nodes["threshold"], 0.0), np.zeros(shape.count)
    return Binned(
        shape, np.where(inner, feature, 0), threshold, missing, categorical, bitset, bin_, count, value, gain, weight
    )


def _edges(data: bytes, found: Found) -> Edges:
    parts = [np.frombuffer(data[span.begin : span.end], "<f8") for span in found.edges]
    group = repeated(numbered(len(parts)), [len(part) for part in parts])
    return Edges(len(parts), group, np.concatenate([*parts, np.empty(0)]).astype(np.float64))


def draft(target: bytes, base: bytes, old: Old) -> Draft | None:
    """What there is to code in `target`; None if nothing."""
    found = binned_scan.find(target)
    if found is None:
        return None
    trees, edges = read(target, found), _edges(target, found)
    images: dict[bytes, int] = {}
    if old.found is not None and old.found.size == found.size:
        for number, span in enumerate(old.found.trees):
            images.setdefault(base[span.begin : span.end], number)
    same = np.array([images.get(target[span.begin : span.end], -1) for span in found.trees], np.int64)
    parameters, weight = _parameters(trees, edges, old, target)
    return Draft(
        parameters,
        found.size,
        [[span] for span in found.edges],
        [[span] for span in found.trees],
        replace(trees, weight=weight),
        edges,
        same,
    )


def _parameters(trees: Binned, edges: Edges, old: Old, data: bytes) -> tuple[Parameters, Floats]:
    """(what most follows from, hessians of leaves)."""
    shape = trees.shape
    leaf, inner = shape.leaf, ~shape.leaf
    most = max(int(trees.feature.max()), edges.features - 1, int(old.trees.feature.max(initial=0)), old.edges.features)
    bits = max(1, most.bit_length())
    place = np.full(shape.count, -1, np.int64)
    drawn = Drawn(1 << bits, (np.empty(0, np.int64), np.empty(0)), 1)
    place[inner] = drawn.known_places(trees.feature[inner], trees.threshold[inner])
    nested = records.nested(Splits(shape, trees.feature, place, np.zeros((0, shape.count), np.int64)))
    rates, penalties = _told(b"learning_rate", data), _told(b"l2_regularization", data)
    best: tuple[float, Parameters | None, Floats] = (-1.0, None, trees.weight)
    samples = trees.count.astype(np.float64)
    for rate in rates or _RATES:
        for penalty in penalties or _PENALTIES:
            for unit in (1.0, 0.0):
                weight = np.where(leaf, samples, 0.0) if unit else binned_solving.hessians(trees, rate, penalty)
                fit = _fit(trees, weight, rate, penalty)
                if fit > best[0] + 0.01:
                    gradient = np.abs(trees.value * (weight + penalty) / rate)[leaf][:_SAMPLE]
                    share = 0.0 if unit else share_of(gradient, weight[leaf][:_SAMPLE], samples[leaf][:_SAMPLE])
                    leaves = Regularisation(share, unit, 0.0, told=False)
                    best = fit, Parameters(nested, bits, rate, penalty, leaves), weight
        if best[0] > 0.7:
            break
    assert best[1] is not None
    return best[1], best[2]


def _told(name: bytes, data: bytes) -> list[float]:
    """What the estimator's attributes in a pickle say: a name, perhaps a memo opcode, a float."""
    match = re.search(name + rb"(?:\x94|q.|r....)?(?:G([\s\S]{8})|K([\s\S]))", data)
    if match is None:
        return []
    value = float(np.frombuffer(match[1], ">f8")[0]) if match[1] is not None else float(match[2][0])
    return [value] if np.isfinite(value) and 0 <= value < 1e6 and (value or name != b"learning_rate") else []


def _fit(trees: Binned, weight: Floats, rate: float, penalty: float) -> float:
    """The share of inner values that follow from leaves."""
    shape = trees.shape
    left, right = shape.children()
    with np.errstate(all="ignore"):
        total, gradient = weight.copy(), trees.value * (weight + penalty) / rate
        for nodes in records.upwards(shape):
            total[nodes] = total[left[nodes]] + total[right[nodes]]
            gradient[nodes] = gradient[left[nodes]] + gradient[right[nodes]]
        (inner,) = (~shape.leaf & (shape.parent >= 0)).nonzero()
        guess = gradient[inner] / (total[inner] + penalty)
        near = np.abs(guess - trees.value[inner]) <= _NEAR * np.abs(trees.value[inner])
        won = gradient * gradient / (total + penalty)
        guess = won[left[inner]] + won[right[inner]] - won[inner]
        near &= np.abs(guess - trees.gain[inner]) <= 1e3 * _NEAR * np.abs(won[inner])
    return float(near.mean()) if len(inner) else 0.0


def write_header(out: bytearray, made: Draft) -> None:
    """Append what `read_header` reads."""
    p = made.parameters
    flags = p.nested | (made.size == 52) << 1
    for value in (flags, p.feature_bits, len(made.spans), len(made.edge_spans)):
        write_varint(out, value)
    out += np.array([p.rate, p.penalty, p.leaves.share, p.leaves.unit], "<f8").tobytes()


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the coded columns."""

    parameters: Parameters
    size: int
    trees: int
    features: int


def read_header(reader: Reader) -> Header:
    """Read what `write_header` wrote; FormatError if out of bounds."""
    flags, bits = reader.varint(3), reader.varint(16)
    trees, features = reader.varint(MAX_TREES), reader.varint(MAX_FEATURES)
    rate, penalty, share, unit = np.frombuffer(reader.take(32), "<f8").tolist()
    if not (0 < rate < 1e9 and all(0 <= n < 1e9 for n in (penalty, share, unit))) or features > 1 << bits:
        raise FormatError("a frame of trees has parameters out of bounds.")
    leaves = Regularisation(share, unit, 0.0, told=False)
    return Header(Parameters(bool(flags & 1), bits, rate, penalty, leaves), 52 if flags & 2 else 56, trees, features)


def code(
    lanes: Lanes, p: Parameters, features: int, old: Old, same: Integers, known: tuple[Binned, Edges] | None
) -> tuple[Binned, Edges]:
    """Code edges, and the trees that the base does not hold."""
    trees, edges = old.trees, old.edges
    if max(int(trees.feature.max(initial=0)) + 1, edges.features) > 1 << p.feature_bits:
        trees, edges = empty(), no_edges()
    (mine,) = (same < 0).nonzero()
    count = int(trees.shape.tree.max(initial=-1)) + 1
    twins = np.where(mine < count, mine, -1)
    part = None if known is None else (_picked(known[0], mine), known[1])
    model = BinnedModel(p, trees, edges, max(2 * trees.shape.count, 1 << 14))
    return model.run(lanes, len(mine), features, twins, part)


def _picked(trees: Binned, numbers: Integers) -> Binned:
    """Some of the trees, in their order."""
    shape = trees.shape
    chosen = np.isin(shape.tree, numbers)
    order = np.argsort(shape.depth_first(), kind="stable")
    order = order[chosen[order]]
    made, again = from_depth_first(shape.leaf[order])
    kept = order[again]
    names = [field.name for field in fields(trees) if field.name != "shape"]
    return Binned(made, *(getattr(trees, name)[kept] for name in names))


def generated(trees: Binned, size: int) -> list[bytes]:
    """The records of each tree."""
    shape = trees.shape
    place = shape.depth_first()
    nodes = np.zeros(shape.count, RECORDS[size])
    sizes = counted(shape.tree, minlength=int(shape.tree.max(initial=-1)) + 1)
    ends = np.cumsum(sizes)
    within = place - (ends - sizes)[shape.tree]
    left, right = shape.children()
    columns: dict[str, NDArray[Any]] = {
        "value": trees.value,
        "count": trees.count & 0xFFFFFFFF,
        "feature": trees.feature,
        "threshold": trees.threshold,
        "missing": trees.missing & 255,
        "left": np.where(shape.leaf, 0, within[left]),
        "right": np.where(shape.leaf, 0, within[right]),
        "gain": trees.gain,
        "depth": shape.depths(),
        "leaf": shape.leaf,
        "bin": trees.bin & 255,
        "categorical": trees.categorical & 255,
        "bitset": trees.bitset & 0xFFFFFFFF,
    }
    for name, values in columns.items():
        nodes[name][place] = values
    return [nodes[end - size_ : end].tobytes() for size_, end in zip(sizes.tolist(), ends.tolist(), strict=True)]


def edge_arrays(edges: Edges) -> list[bytes]:
    """Each feature's edges."""
    ends = np.searchsorted(edges.group, numbered(edges.features + 1))
    return [edges.edge[a:b].astype("<f8").tobytes() for a, b in pairwise(ends.tolist())]
