"""What of a target an update pays for: where its frames lie, and what they cost. No I/O here.

Whoever looks for something better looks there: of a tree in which nine files changed, everything else is copied, and
nothing can be cheaper than that.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter

import numpy as np

from modelsync_protocol.ops import Frame
from modelsync_server.encode.encoder import Encoded


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames side by side: bytes [begin, end) of what the operations tile, and their payloads' bytes."""

    begin: int
    end: int
    payload: int


def stretches(encoded: Encoded) -> list[Stretch]:
    """What is no copy, ascending."""
    found: list[Stretch] = []
    position = 0
    for op in encoded.operations:
        begin, position = position, position + op.length
        if not isinstance(op, Frame):
            continue
        if found and found[-1].end == begin:
            found[-1] = Stretch(found[-1].begin, position, found[-1].payload + op.payload_length)
        else:
            found.append(Stretch(begin, position, op.payload_length))
    return found


def spans(encoded: Encoded) -> list[tuple[int, int]]:
    """(begin, end) of each stretch."""
    return [(stretch.begin, stretch.end) for stretch in stretches(encoded)]


def overlapping(found: Sequence[Stretch], begin: int, end: int) -> Sequence[Stretch]:
    """Those of ascending stretches that share bytes with [begin, end)."""
    first = bisect_right(found, begin, key=attrgetter("end"))
    return found[first : bisect_left(found, end, first, key=attrgetter("begin"))]


class Costs:
    """What ranges of the target cost in an update: frames' payloads, spread evenly over them."""

    def __init__(self, encoded: Encoded) -> None:
        lengths = (op.length for op in encoded.operations)
        payloads = (op.payload_length if isinstance(op, Frame) else 0 for op in encoded.operations)
        self._edges = np.array([0, *accumulate(lengths)], np.float64)
        self._sums = np.array([0, *accumulate(payloads)], np.float64)

    def between(self, begin: int, end: int) -> float:
        """Bytes of payload for that range of the target."""
        low, high = np.interp((begin, end), self._edges, self._sums)
        return float(high - low)
