"""Finds the parameters of a table of trees: what its values are and how they follow from counts. No I/O here.

`units` serves both sides (for the base), the rest encoders only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from modelsync_protocol.trees import records
from modelsync_protocol.trees.floats import Floats, words_of
from modelsync_protocol.trees.records import Impurity, Parameters, Style, Table
from modelsync_protocol.trees.shape import Shape

_NEAR_UNIT = 1e-6
_NEAR_ULPS = 64
_MOST = 0.9


def units(table: Table, style: Style, trees: int) -> Floats:
    """A sample's weight in each row of the values, for all trees (`trees` 1) or each: 1 unless leaves say otherwise."""
    if style is Style.NUMBERS:
        return np.ones((len(table.values), 1))
    leaf = table.shape.leaf
    tree = table.shape.tree[leaf] if trees > 1 else np.zeros(int(leaf.sum()), np.int64)
    result = np.ones((len(table.values), trees))
    weight = table.weight[leaf]
    with np.errstate(all="ignore"):
        for row, values in enumerate(table.values):
            share = values[leaf]
            amount = share * weight if style is Style.SHARES else share
            pure = (amount > 0) & (amount < 1e300)
            amount = np.where(share == 1.0, weight, amount)
            smallest = np.full(trees, np.inf)
            np.minimum.at(smallest, tree[pure], amount[pure])
            for part in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
                unit = smallest / part
                apart = np.zeros(trees)
                count = amount[pure] / unit[tree[pure]]
                np.maximum.at(apart, tree[pure], np.abs(count - np.rint(count)))
                good = (apart < _NEAR_UNIT * 1000) & np.isfinite(unit) & (result[row] == 1.0)
                result[row][good] = np.where(np.abs(unit[good] - 1.0) < _NEAR_UNIT, 1.0, unit[good])
                if bool((np.abs(count - np.rint(count)) < _NEAR_UNIT).all()):
                    break
    return result


def parameters(table: Table, outputs: int, classes: int) -> Parameters:
    """The parameters with which most of a table follows from little."""
    inner = ~table.shape.leaf
    bits = int(table.feature[inner].max(initial=0)).bit_length()
    plain = Parameters(
        outputs,
        classes,
        Style.NUMBERS,
        Impurity.SPREAD,
        True,
        bits,
        _fractional(table),
        np.ones((outputs * classes, 1)),
    )
    trees = int(table.shape.tree.max(initial=0)) + 1
    if classes > 1:
        rows = table.values.reshape(outputs, classes, -1)
        shares = bool((np.abs(rows.sum(axis=1) - 1.0) < 1e-6).all())
        style = Style.SHARES if shares else Style.WEIGHTS
        for count in (1, trees):
            found = replace(
                plain, style=style, weighted=False, impurity=Impurity.GINI, units=units(table, style, count)
            )
            if _counts_fit(found, table):
                return replace(found, impurity=_impurity(found, table, found.style))
            if trees == 1:
                break
        if shares:
            return replace(plain, impurity=_impurity(plain, table, Style.NUMBERS))
    return plain


def _fractional(table: Table) -> bool:
    with np.errstate(all="ignore"):
        return bool((np.rint(table.weight) != table.weight).any() or (table.weight < table.samples).any())


def _counts_fit(p: Parameters, table: Table) -> bool:
    holds = records.holds(p, table)
    samples = holds[: p.classes].sum(axis=0) - holds[-1]
    if not np.array_equal(samples, table.samples):
        return False
    weight = np.zeros(table.shape.count)
    for row in range(p.classes):
        weight = weight + holds[row].astype(np.float64) * records.unit_of(p.units, row, table.shape)
    return _near(weight, table.weight)


def _near(guess: Floats, exact: Floats) -> bool:
    apart = np.abs((words_of(guess) - words_of(exact)).view(np.int64))
    return float((apart < _NEAR_ULPS).mean()) > _MOST


def _impurity(p: Parameters, table: Table, style: Style) -> Impurity:
    shape: Shape = table.shape
    if style is Style.NUMBERS:
        counts, weight = table.values, np.ones(shape.count)
    else:
        holds = records.holds(p, table)[:-1]
        counts, weight = holds * records.units_of(p.units, shape), table.weight
    for kind in (Impurity.GINI, Impurity.ENTROPY):
        with np.errstate(all="ignore"):
            guess = records.impurity_of(replace(p, impurity=kind), counts, weight)
        apart = np.abs(guess - table.impurity) < 1e-9
        if float(apart.mean()) > _MOST:
            return kind
    return Impurity.ENTROPY if style is not Style.NUMBERS else Impurity.SPREAD
