"""Where the arrays of a frame's trees lie, and which trees the base holds as they are. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.trees import columns
from modelsync_protocol.trees.columns import Integers, stacked
from modelsync_protocol.trees.lanes import Lanes
from modelsync_protocol.trees.machine_words import numbered
from modelsync_protocol.trees.mixing import joined


class Span(Protocol):
    """A stretch of a file."""

    @property
    def begin(self) -> int:
        """Its first byte."""

    @property
    def end(self) -> int:
        """After its last."""


@dataclass(frozen=True, slots=True)
class Laid:
    """Stretches by tree, behind `start`, and the base's tree that each equals, or -1."""

    spans: Sequence[Sequence[Span]]
    same: Integers
    start: int = 0


def layout(lanes: Lanes, trees: int, arrays: int, old: int, known: Laid | None) -> tuple[NDArray[np.int64], Integers]:
    """(bytes between, before each array of each tree; the base's tree that each tree equals, or -1)."""
    model = columns.mixer(2, columns.NUMBER_SLOTS, 1 << 12)
    gaps = steps = None
    if known is not None:
        flat = [array for tree in known.spans for array in tree]
        ends = [known.start, *(array.end for array in flat)]
        table = np.array([a.begin - end for a, end in zip(flat, ends, strict=False)], np.int64).reshape(trees, arrays)
        gaps = columns.signed(np.diff(table, axis=0, prepend=np.zeros((1, arrays), np.int64))).ravel()
        index = numbered(trees)
        steps = np.where(known.same < 0, 0, 1 + columns.signed(known.same - index))
    row, column = np.divmod(numbered(trees * arrays), max(1, arrays))
    context = stacked(joined(column, row == 0), joined(column, np.minimum(row, 2)))
    found = columns.unsigned(columns.numbers(model, lanes, context, gaps)).reshape(trees, arrays)
    places = np.cumsum(found, axis=0)
    if places.size and (int(places.min()) < 0 or int(places.max()) >= 1 << 24):
        raise FormatError("a frame of trees has arrays out of bounds.")
    context = stacked(np.full(trees, 901), np.full(trees, 902))
    steps = columns.numbers(model, lanes, context, steps)
    same = np.where(steps == 0, -1, columns.unsigned(steps - 1) + numbered(trees))
    if bool((same < -1).any() or (same >= old).any()):
        raise FormatError("a frame of trees names a tree that the base lacks.")
    return places, same
