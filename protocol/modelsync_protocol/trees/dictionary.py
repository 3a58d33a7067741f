"""Codes the distinct floats of several groups (thresholds of each feature, say) that the base does not hold. No I/O.

Each float takes the first grid that holds it: the mean of two neighbours among rounded decimals (what a threshold is on
data of few digits), or floats whose lowest bits are zero. In a grid, floats travel as differences in ascending order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import F64
from modelsync_protocol.errors import FormatError
from modelsync_protocol.trees import columns
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.lanes import Lanes
from modelsync_protocol.trees.machine_words import counted, numbered, repeated
from modelsync_protocol.trees.mixing import Mixer, joined

Words = NDArray[np.uint64]
"""Floats' bits in the floats' order (`codecs.numerals.ordered`)."""

DROPS = (45, 36, 29, 28, 26, 0)
"""Grids: how many of a float64's lowest bits are zero. 29: exact float32; 28: the mean of two that are close."""

SCALES = (0, 1, 10, 100, 1000, 10_000, 100_000, 1_000_000)
_TRIED_GAPS = 96
_MAX_DECIMAL = 1 << 44
_ENOUGH = 0.6
MAX_GROUPS = 1 << 16
MAX_ENTRIES = 1 << 19


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Entries by group, ascending in each: `starts` has one more element than there are groups."""

    starts: Integers
    words: Words

    def find(self, groups: Integers, words: Words) -> Integers:
        """Place of each entry, which must be there."""
        keys = np.rec.fromarrays([repeated(numbered(len(self.starts) - 1), np.diff(self.starts)), self.words])
        return np.searchsorted(keys, np.rec.fromarrays([groups, words], dtype=keys.dtype)).astype(np.int64)


def united(groups: int, *parts: tuple[Integers, Words]) -> Dictionary:
    """The distinct entries of all parts."""
    keys = np.concatenate([group for group, _ in parts])
    words = np.concatenate([word for _, word in parts])
    order = np.lexsort((words, keys))
    keys, words = keys[order], words[order]
    if len(keys):
        first = np.concatenate([[True], (keys[1:] != keys[:-1]) | (words[1:] != words[:-1])])
        keys, words = keys[first], words[first]
    starts = np.searchsorted(keys, numbered(groups + 1)).astype(np.int64)
    return Dictionary(starts, words)


def fresh(groups: int, wanted: Dictionary, old: Dictionary) -> tuple[Integers, Words]:
    """(groups, words) of `wanted` that `old` lacks, by group, ascending."""
    keys = repeated(numbered(groups), np.diff(wanted.starts))
    old_keys = repeated(numbered(groups), np.diff(old.starts))
    both = np.concatenate([keys, old_keys])
    words = np.concatenate([wanted.words, old.words])
    mine = numbered(len(both)) < len(keys)
    order = np.lexsort((~mine, words, both))
    sorted_keys, sorted_words = both[order], words[order]
    alike = np.zeros(len(both), bool)
    alike[:-1] = (sorted_keys[1:] == sorted_keys[:-1]) & (sorted_words[1:] == sorted_words[:-1])
    keep = mine[order] & ~alike
    return sorted_keys[keep], sorted_words[keep]


def code_fresh(
    lanes: Lanes, groups: int, known: tuple[Integers, Words] | None, *, single: bool = False
) -> tuple[Integers, Words]:
    """Code (groups, words) that are new to the base, by group, ascending and distinct; `single`: all are float32."""
    counts = columns.mixer(2, columns.NUMBER_SLOTS, 1 << 12)
    steps = columns.mixer(3, columns.NUMBER_SLOTS, 1 << 14)
    gaps = columns.mixer(2, columns.NUMBER_SLOTS, 1 << 12)
    every = np.arange(groups, dtype=np.int64)
    scale = None
    decimals: tuple[Integers, Integers, Integers] | None = None
    rest = known
    if known is not None:
        scale, decimals, rest = _decimals(groups, *known, single)
    scale = columns.numbers(counts, lanes, stacked(every * 0 + 1, every * 0), scale)
    if bool((scale >= len(SCALES)).any()):
        raise FormatError("a frame of trees names an unknown grid.")
    found_groups, found_words = [], []
    group, twice, gap = _code_grid(lanes, counts, steps, (every[scale > 0], 0), decimals, gaps)
    found_groups.append(group)
    found_words.append(_means(np.array(SCALES, np.int64)[scale[group]], twice, gap, single))
    for number, drop in enumerate(DROPS, 1):
        part = None
        if rest is not None:
            mine = numerals.unordered(F64, rest[1]) & np.uint64((1 << drop) - 1) == 0
            short = rest[1][mine] >> np.uint64(drop)
            part = rest[0][mine], short.view(np.int64), short.view(np.int64)
            rest = rest[0][~mine], rest[1][~mine]
        group, short_found, _ = _code_grid(lanes, counts, steps, (every, number), part, None)
        found_groups.append(group)
        found_words.append(
            numerals.ordered(F64, numerals.lengthened(F64, short_found.view(np.uint64), drop))
            if len(group)
            else np.empty(0, np.uint64)
        )
    whole = united(groups, (np.concatenate(found_groups), np.concatenate(found_words)))
    return repeated(every, np.diff(whole.starts)), whole.words


def _code_grid(
    lanes: Lanes,
    counts: Mixer,
    steps: Mixer,
    grid: tuple[Integers, int],
    known: tuple[Integers, Integers, Integers] | None,
    gaps: Mixer | None,
) -> tuple[Integers, Integers, Integers]:
    """Entries of one grid: their groups, values and gaps (if there is a mixer for those)."""
    groups, number = grid
    amount = None
    if known is not None:
        amount = counted(known[0], minlength=int(groups.max(initial=-1)) + 1)[groups].astype(np.int64)
    any_at_all = None if amount is None else np.array([int(amount.sum() > 0)])
    if not columns.symbols(counts, lanes, stacked(np.array([number + 500]), np.array([0])), 1, any_at_all)[0]:
        empty = np.empty(0, np.int64)
        return empty, empty, empty
    amount = columns.numbers(counts, lanes, stacked(groups * 0 + number + 10, joined(groups, number)), amount)
    total = int(amount.sum()) if bool((amount < MAX_ENTRIES).all()) else MAX_ENTRIES + 1
    if total > MAX_ENTRIES:
        raise FormatError("a frame of trees has more thresholds than any allowed.")
    group = repeated(groups, amount)
    first = np.zeros(total, bool)
    first[(np.cumsum(amount) - amount)[amount > 0]] = True
    size = columns.log2_of(repeated(amount, amount) + 1) >> np.int64(7)
    values = gap = None
    if known is not None:
        values, gap = known[1], known[2]
        start = np.flatnonzero(first)
        step = np.diff(values, prepend=np.int64(0))
        step[start] = columns.signed(np.diff(values[start], prepend=np.int64(0)))
        coded: Integers | None = step
    else:
        coded = None
    context = stacked(joined(size, first, number), joined(group, first, number), joined(first, number))
    step = columns.numbers(steps, lanes, context, coded)
    values = _sums(step, first)
    if gaps is None:
        return group, values, values * 0
    following = np.minimum(step, 255)
    gap = columns.numbers(gaps, lanes, stacked(joined(group), joined(following)), gap)
    return group, values, gap


def _sums(step: Integers, first: NDArray[np.bool_]) -> Integers:
    """Undo the differences: starts lean on the start before, all others on the value before."""
    start = np.flatnonzero(first)
    bases = np.cumsum(columns.unsigned(step[start]))
    rest = np.where(first, np.int64(0), step)
    running = np.cumsum(rest)
    run = np.cumsum(first) - 1
    result: Integers = bases[run] + running - running[start][run]
    return result


def _means(scale: Integers, twice: Integers, gap: Integers, single: bool) -> Words:
    """Mean of the decimals (twice ∓ gap) / 2 / scale, each rounded to float32 first."""
    if not len(scale):
        return np.empty(0, np.uint64)
    if bool((np.abs(twice) > _MAX_DECIMAL).any()) or bool((gap > _MAX_DECIMAL).any()):
        raise FormatError("a frame of trees holds a decimal out of bounds.")
    by = scale.astype(np.float64)
    low = ((twice - gap) >> np.int64(1)).astype(np.float64) / by
    high = ((twice + gap) >> np.int64(1)).astype(np.float64) / by
    mean = low.astype(np.float32).astype(np.float64) * 0.5 + high.astype(np.float32).astype(np.float64) * 0.5
    if single:
        mean = mean.astype(np.float32).astype(np.float64)
    return numerals.ordered(F64, mean.view(np.uint64))


def _decimals(
    groups: int, keys: Integers, words: Words, single: bool
) -> tuple[Integers, tuple[Integers, Integers, Integers], tuple[Integers, Words]]:
    """(scale of each group, entries on its grid, the rest)."""
    values = numerals.unordered(F64, words).view(np.float64)
    scales = np.zeros(groups, np.int64)
    twice, gap = np.zeros(len(words), np.int64), np.full(len(words), -1, np.int64)
    usable = np.isfinite(values) & (np.abs(values) < 1e6)
    sizes = np.maximum(counted(keys, minlength=groups), 1)
    for number, scale in enumerate(SCALES[1:], 1):
        (open_,) = (usable & (scales[keys] == 0)).nonzero()
        if not len(open_):
            break
        found_twice, found_gap = _on_grid(values[open_], words[open_], scale, single)
        hits = counted(keys[open_][found_gap >= 0], minlength=groups)
        chosen = (scales == 0) & (hits >= _ENOUGH * sizes)
        scales[chosen] = number
        mine = chosen[keys[open_]] & (found_gap >= 0)
        twice[open_[mine]], gap[open_[mine]] = found_twice[mine], found_gap[mine]
    on = gap >= 0
    order = np.lexsort((gap[on], twice[on], keys[on]))
    entries = keys[on][order], twice[on][order], gap[on][order]
    return scales, entries, (keys[~on], words[~on])


def _on_grid(values: NDArray[np.float64], words: Words, scale: int, single: bool) -> tuple[Integers, Integers]:
    """(twice the mean, gap) on the grid of 1 / scale, gap -1 where there is none."""
    twice = np.rint(values * (2.0 * scale)).astype(np.int64)
    result = np.full(len(values), -1, np.int64)
    near = np.abs(values * (2.0 * scale) - twice) < 1e-6 * (2.0 * scale) * np.maximum(np.abs(values), 1e-3) + 1e-3
    (open_,) = near.nonzero()
    for gap in range(_TRIED_GAPS):
        fits = (twice[open_] + gap) & 1 == 0
        some = open_[fits]
        if not len(some):
            continue
        means = _means(np.full(len(some), scale), twice[some], np.full(len(some), gap), single)
        result[some[means == words[some]]] = gap
        open_ = open_[result[open_] < 0]
    return twice, result
