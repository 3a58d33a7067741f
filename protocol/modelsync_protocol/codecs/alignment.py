"""Finds where a target approximately repeats a base: exact matches of 8 bytes, joined and stretched. No I/O here."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps

_WINDOW = 8
_MAX_INDEX = 2 * caps.MIB
"""Windows of the base that are indexed; a longer base is sampled."""

_MAX_ANCHORS = 20_000
_MIN_GAIN = 12
"""Bytes that an anchor must match beyond what going on as before matches."""


@dataclass(frozen=True, slots=True)
class Block:
    """`length` bytes of the target from `begin` on that lean on the base from `place` on."""

    begin: int
    length: int
    place: int


@functools.lru_cache(maxsize=4)
def plans(target: bytes, base: bytes) -> list[list[Block]]:
    """Ways to cover the target with blocks: closely (where bytes agree) and fully; always at least one.

    Looking takes longer than what is done with it, so the last answers are kept: don't change them.
    """
    if not target or not base:
        return [[]]
    new, old = np.frombuffer(target, np.uint8), np.frombuffer(base, np.uint8)
    anchors = _chain(_anchors(new, old), new, old)
    straight = Block(0, min(len(new), len(old)), 0)
    found = [[straight]]
    if anchors:
        found += [_stretched(anchors, new, old, generous) for generous in (False, True)]
    return found


def _windows(data: NDArray[np.uint8], step: int) -> NDArray[np.uint64]:
    count = len(data) - _WINDOW + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    view = np.lib.stride_tricks.sliding_window_view(data, _WINDOW)[::step]
    return np.ascontiguousarray(view).view("<u8").reshape(-1)


def _anchors(new: NDArray[np.uint8], old: NDArray[np.uint8]) -> list[Block]:
    """Maximal runs of matching windows on one diagonal, in the target's order; only windows unique in the base."""
    step = max(1, -(-len(old) // _MAX_INDEX))
    index = _windows(old, step)
    order = np.argsort(index, kind="stable")
    index = index[order]
    if not len(index):
        return []
    single = np.ones(len(index), bool)
    same = index[1:] == index[:-1]
    single[1:] &= ~same
    single[:-1] &= ~same
    index, order = index[single], order[single]
    if not len(index):
        return []
    wanted = _windows(new, 1)
    spot = np.minimum(np.searchsorted(index, wanted), len(index) - 1)
    hits = np.flatnonzero(index[spot] == wanted)
    if not len(hits):
        return []
    places = order[spot[hits]] * step
    shifts = places - hits
    # A run goes on while the diagonal stays and no more than `step` windows lie between two hits.
    breaks = np.flatnonzero((np.diff(shifts) != 0) | (np.diff(hits) > step + _WINDOW)) + 1
    first = np.concatenate([[0], breaks])
    last = np.concatenate([breaks, [len(hits)]]) - 1
    lengths = hits[last] - hits[first] + _WINDOW
    if len(first) > _MAX_ANCHORS:
        kept = np.sort(np.argsort(-lengths, kind="stable")[:_MAX_ANCHORS])
        first, lengths = first[kept], lengths[kept]
    return [Block(int(hits[f]), int(n), int(places[f])) for f, n in zip(first, lengths, strict=True)]


def _chain(anchors: list[Block], new: NDArray[np.uint8], old: NDArray[np.uint8]) -> list[Block]:
    """The anchors worth a change of diagonal, merged along each diagonal; they do not overlap."""
    chain: list[Block] = []
    for anchor in anchors:
        if chain:
            last = chain[-1]
            end = last.begin + last.length
            if anchor.begin + anchor.length <= end:
                continue
            if last.place - last.begin == anchor.place - anchor.begin:
                chain[-1] = Block(last.begin, anchor.begin + anchor.length - last.begin, last.place)
                continue
            place = last.place + anchor.begin - last.begin
            before = _matching(new, old, anchor.begin, place, anchor.length)
            if anchor.length < before + _MIN_GAIN:
                continue
            if anchor.begin < end:
                cut = end - anchor.begin
                anchor = Block(end, anchor.length - cut, anchor.place + cut)
        chain.append(anchor)
    return chain


def _matching(new: NDArray[np.uint8], old: NDArray[np.uint8], begin: int, place: int, length: int) -> int:
    length = min(length, len(old) - place)
    if length <= 0:
        return 0
    return int(np.count_nonzero(new[begin : begin + length] == old[place : place + length]))


def _stretched(chain: list[Block], new: NDArray[np.uint8], old: NDArray[np.uint8], generous: bool) -> list[Block]:
    """Stretch each block towards its neighbours while bytes agree (generously: as far as there is base)."""
    starts = [block.begin for block in chain]
    ends = [block.begin + block.length for block in chain]
    for number in range(len(chain) + 1):
        left = ends[number - 1] if number else 0
        right = starts[number] if number < len(chain) else len(new)
        forward = _agreement(chain[number - 1], left, right, new, old, generous) if number else None
        backward = _agreement(chain[number], left, right, new, old, generous) if number < len(chain) else None
        head, tail = _best_split(forward, backward, right - left)
        if number:
            ends[number - 1] = left + head
        if number < len(chain):
            starts[number] = right - tail
    return [
        Block(start, end - start, block.place + start - block.begin)
        for block, start, end in zip(chain, starts, ends, strict=True)
        if end > start
    ]


def _agreement(
    block: Block, left: int, right: int, new: NDArray[np.uint8], old: NDArray[np.uint8], generous: bool
) -> NDArray[np.int32]:
    """Per byte between left and right, what leaning on the block's diagonal is worth there."""
    result = np.full(right - left, -(1 << 20), np.int32)
    shift = block.place - block.begin
    low, high = max(left, -shift), min(right, len(old) - shift)
    if low < high:
        equal = new[low:high] == old[low + shift : high + shift]
        result[low - left : high - left] = np.where(equal, 2, 1 if generous else -1)
    return result


def _best_split(forward: NDArray[np.int32] | None, backward: NDArray[np.int32] | None, width: int) -> tuple[int, int]:
    """How many bytes of a gap go to the block before it, and how many to the one after it."""
    zero = np.zeros(1, np.int64)
    ahead = zero if forward is None else np.concatenate([zero, np.cumsum(forward, dtype=np.int64)])
    back = zero if backward is None else np.concatenate([zero, np.cumsum(backward[::-1], dtype=np.int64)])
    head = int(np.argmax(ahead))
    tail = int(np.argmax(back))
    if head + tail <= width:
        return head, tail
    # They meet: the best cut between, where every byte goes to one of them.
    both = ahead + back[::-1]
    cut = int(np.argmax(both))
    return cut, width - cut
