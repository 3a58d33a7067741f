"""Codes floats of nodes: as differences from predictions, or as places in a dictionary that base and target share.

No I/O here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import F32, F64
from modelsync_protocol.trees import columns, dictionary
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.dictionary import Dictionary, Words
from modelsync_protocol.trees.lanes import Lanes, Learner
from modelsync_protocol.trees.machine_words import counted
from modelsync_protocol.trees.mixing import joined

Floats = NDArray[np.float64]


def words_of(values: Floats) -> Words:
    """Bits of floats in the floats' order."""
    return numerals.ordered(F64, np.ascontiguousarray(values).view(np.uint64))


def floats_of(words: Words) -> Floats:
    """Undo `words_of`."""
    return numerals.unordered(F64, words).view(np.float64)


class Residuals:
    """Floats of one field as differences in units of the last place from what both sides predict."""

    def __init__(self, elements: int, *, single: bool = False) -> None:
        """`single`: all are float32."""
        self._single = single
        self._mixer = columns.mixer(3, columns.NUMBER_SLOTS, elements)
        self._any = columns.mixer(1, 1, 16)

    def run(self, lanes: Lanes, predicted: Floats, contexts: tuple[Integers, Integers], known: Floats | None) -> Floats:
        """Code one float for each prediction."""
        if not len(predicted):
            return predicted
        if self._single:
            predicted = predicted.astype(np.float32).astype(np.float64)
        guess = self._words(predicted)
        values = None
        flag = None
        if known is not None:
            values = columns.signed((self._words(known) - guess).view(np.int64))
            flag = np.array([int((values != 0).any())])
        if not columns.symbols(self._any, lanes, np.zeros((1, 1), np.uint32), 1, flag)[0]:
            return predicted
        one, two = contexts
        found = columns.numbers(
            self._mixer, lanes, stacked(joined(one, 1), joined(one, two, 2), joined(two, 3)), values
        )
        words = guess + columns.unsigned(found).view(np.uint64)
        if not self._single:
            return floats_of(words)
        return numerals.unordered(F32, words.astype(np.uint32)).view(np.float32).astype(np.float64)

    def _words(self, values: Floats) -> Words:
        if not self._single:
            return words_of(values)
        bits = values.astype(np.float32).view(np.uint32)
        return numerals.ordered(F32, bits).astype(np.uint64)


class Drawn:
    """Floats of several groups, drawn from the distinct ones of base and target."""

    def __init__(
        self, groups: int, old: tuple[Integers, Floats], elements: int, *, single: bool = False, inputs: int = 4
    ) -> None:
        """`old`: the base's floats and their groups (0 to `groups` - 1); `single`: all are float32."""
        self._groups, self._single = groups, single
        self._old = old[0], words_of(old[1])
        self._mixer = columns.mixer(inputs, columns.RANGE_SLOTS, elements, extras=1)
        self.entries = Dictionary(np.zeros(1, np.int64), np.empty(0, np.uint64))
        self.masses = columns.Masses(np.zeros(0, np.int64))
        self.fresh = np.zeros(0, bool)
        """Which of the entries the base does not use."""

    def prepare(self, lanes: Lanes, known: tuple[Integers, Floats] | None) -> None:
        """Code what is new in the target."""
        before = dictionary.united(self._groups, self._old)
        new = None
        if known is not None:
            wanted = dictionary.united(self._groups, (known[0], words_of(known[1])))
            new = dictionary.fresh(self._groups, wanted, before)
        new = dictionary.code_fresh(lanes, self._groups, new, single=self._single)
        self.entries = dictionary.united(self._groups, self._old, new)
        uses = counted(self.entries.find(*self._old), minlength=len(self.entries.words)).astype(np.int64)
        self.masses = columns.Masses(uses)
        self.fresh = uses == 0

    def learn(self, lanes: Learner, context: Integers) -> None:
        """Learn from the base's floats in their order."""
        self.run(lanes, self._old[0], context, floats_of(self._old[1]))

    def known_places(self, groups: Integers, values: Floats) -> Integers:
        """Places in a dictionary of just these floats."""
        words = words_of(values)
        return dictionary.united(self._groups, (groups, words)).find(groups, words)

    def run(self, lanes: Lanes, groups: Integers, context: Integers, known: Floats | None) -> Floats:
        """Code one float for each element of `groups`."""
        contexts = joined(groups, 2), joined(context, 3), joined(groups, context, 4)
        return floats_of(self.entries.words[self.run_in(lanes, groups, contexts, known)])

    def run_in(
        self, lanes: Lanes, groups: Integers, contexts: tuple[NDArray[np.uint32], ...], known: Floats | None
    ) -> Integers:
        """Code one place for each element of `groups`; `inputs` - 1 contexts."""
        if not len(groups):
            return np.empty(0, np.int64)
        low, high = self.entries.starts[groups], self.entries.starts[groups + 1]
        width = columns.log2_of(np.maximum(high - low, 1))
        rows = [joined(width, 1), *contexts]
        return columns.places(
            self._mixer,
            lanes,
            stacked(*rows),
            low,
            high,
            None if known is None else self.entries.find(groups, words_of(known)),
            self.masses,
        )
