"""Finds long stretches of a target that stand in its base, or earlier in itself, at whatever offset. No I/O here.

Windows at regular places of both streams are hashed; then every window of the wanted ranges is looked up, and what is
found is extended both ways and compared byte by byte. So alignment, names, shapes and containers don't matter. Where
little is wanted of much, only windows with words of it are hashed: the rest is a glance each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_server.scratch import spool

_WINDOW = 64
"""Bytes of a hashed window; a power of two."""

_STRIDE = 256
"""Bytes between windows that are remembered: a repeat of `_STRIDE + _WINDOW` bytes holds one whole."""

LEAST_BYTES = 512
"""Shorter repeats are not looked for: an operation and what it cuts in two cost more."""

_TILE = caps.MIB // 4
"""What is hashed at once: some thirty times as much memory."""

_FACTOR = 0x9E3779B97F4A7C15
"""Multiplier of the polynomial hash, modulo 2^64."""

_LEAST_PLACE_BITS = 24
"""The lower bits of an index's entry: which window it is, as many as 4 GiB have. The others are its hash's: of the
largest streams one place in 250,000 is taken for another's repeat, which comparing finds out."""

_LEAST_FILTER_BITS, _MOST_FILTER_BITS = 22, 26
"""Slots of the filter before the index: eight for each entry, so that a tenth of the places are looked up."""

_MOST_BYTES = 2048 * caps.MIB
"""Of both streams: where more is wanted of larger ones nothing is looked for, as it would take minutes."""

_WORD_BYTES, _HALF_WORD_BYTES, _LOOKS = 16, 8, (0, 48, 24)
"""Words of a window, and their places in it, that tell most of those that are not wanted."""

_FEW_WORD_BITS, _MOST_WORD_BITS, _FEW = 12, 24, 16
"""Of the words' filter; and the share of both streams from which on nearly all would pass it."""

_SAMPLED_FROM, _SAMPLED_BYTES, _SAMPLED_EVERY = 16 * caps.MIB, 2 * caps.KIB, 24 * caps.KIB
"""Of so much that is wanted a sample decides whether all is looked through, and its stretches: a repeat of 26 KiB has
one."""

_LEAST_HITS, _HITS_AMONG = 3, 2000
"""So many stretches must repeat something, at least, and of so many one: headers repeat themselves in all files."""

_MOST_ATTEMPTS = 200_000
"""Places that are compared; in what repeats in short pieces only, more would be a waste."""

_FEW_VALUES, _FIRST_LOOK = 4, 8
"""Windows of fewer different bytes are no sign of anything, and compress well anyway; most show enough of them in so
many of their bytes."""

Unsigned64 = NDArray[np.uint64]
Spans = Sequence[tuple[int, int]]
"""(begin, end) in bytes of a stream, ascending and disjoint."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """`length` bytes at `target` of the target that stand at `source` too: earlier in it (`own`), or in the base."""

    target: int
    length: int
    source: int
    own: bool

    @property
    def end(self) -> int:
        """Where it ends in the target."""
        return self.target + self.length


def repeats(
    base: memoryview,
    target: memoryview,
    wanted: Spans | None = None,
    *,
    nearby: Callable[[int, int], bool] | None = None,
) -> list[Repeat]:
    """Disjoint repeats of at least LEAST_BYTES, ascending; each the longest that was found at its place.

    `wanted`: ascending, disjoint (begin, end) of the target; only repeats that reach into these are looked for. None:
    all of it. `nearby(place, source)` says which stretches of the base are no news; with it a large target is looked
    through whole only if a sample of it repeats something else.
    """
    wanted = _padded([(0, len(target))] if wanted is None else wanted, len(target))
    size = sum(end - begin for begin, end in wanted)
    both = len(base) + len(target)
    if size < LEAST_BYTES or (both > _MOST_BYTES and size * _FEW > both):
        return []
    known = _Known(base, target, wanted, _Words(target, wanted, size) if size * _FEW <= both else None)
    if nearby is not None and size > _SAMPLED_FROM and not known.seen(nearby):
        return []
    found: list[Repeat] = []
    end = attempts = 0
    for place, sources in known.candidates():
        if place < end or attempts > _MOST_ATTEMPTS:
            continue
        attempts += 1
        longest = max(
            (_extended(base, target, place, source, end) for source in sources),
            key=lambda repeat: repeat.length,
        )
        if longest.length >= LEAST_BYTES:
            found.append(longest)
            end = longest.end
    return found


def _padded(wanted: Spans, size: int) -> Spans:
    """The ranges with what is around them: a repeat that reaches into one has a whole window in it or at its edges."""
    result: list[tuple[int, int]] = []
    for begin, end in wanted:
        begin, end = max(0, begin - LEAST_BYTES), min(size, end + LEAST_BYTES)
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], end)
        else:
            result.append((begin, end))
    return result


class _Words:
    """Which windows have words that stand somewhere in the wanted ranges; some others pass too."""

    def __init__(self, target: memoryview, wanted: Spans, size: int) -> None:
        self._bits = min(_MOST_WORD_BITS, max(_FEW_WORD_BITS, (16 * size).bit_length()))
        self._there = np.zeros(1 << self._bits, np.bool_)
        for first, last in wanted:
            for begin in range(first, last - _WORD_BYTES + 1, _TILE):
                part = target[begin : min(begin + _TILE + _WORD_BYTES - 1, last)]
                for phase in range(_HALF_WORD_BYTES):
                    halves = np.frombuffer(part, np.uint64, (len(part) - phase) // _HALF_WORD_BYTES, phase)
                    self._there[self._slots(halves[:-1], halves[1:])] = True

    def holding(self, rows: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Numbers of the rows with such words wherever one looks."""
        kept = np.arange(len(rows))
        for place in _LOOKS:
            halves = np.ascontiguousarray(rows[kept, place : place + _WORD_BYTES]).view(np.uint64)
            kept = kept[self._there[self._slots(halves[:, 0], halves[:, 1])]]
        return kept

    def _slots(self, first: Unsigned64, second: Unsigned64) -> NDArray[np.intp]:
        mixed = (first * np.uint64(_FACTOR) + second) * np.uint64(_FACTOR)
        return (mixed >> np.uint64(64 - self._bits)).astype(np.intp)


class _Known:
    """Windows of both streams by hash, and which windows of the wanted ranges have one."""

    def __init__(self, base: memoryview, target: memoryview, wanted: Spans, words: _Words | None) -> None:
        self._streams = {True: target, False: base}
        self._target = target
        self._wanted = wanted
        bits = max(_LEAST_PLACE_BITS, (max(len(base), len(target)) // _STRIDE).bit_length())
        self._hash = np.uint64((1 << 64) - (1 << bits))
        self._base, self._own = _index(base, self._hash, words), _index(target, self._hash, words)
        entries = len(self._base) + len(self._own)
        self._bits = min(_MOST_FILTER_BITS, max(_LEAST_FILTER_BITS, (8 * entries).bit_length()))
        self._filter = np.frombuffer(spool.room(1 << self._bits), np.bool_)
        for index in (self._base, self._own):
            for begin in range(0, len(index), _TILE):
                self._filter[_slots(index[begin : begin + _TILE], self._bits)] = True

    def seen(self, nearby: Callable[[int, int], bool]) -> bool:
        """Whether something is repeated in a regular sample of what is wanted that holds a part of each long repeat."""
        hits = samples = 0
        for first, last in self._wanted:
            for begin in range(first, last - _SAMPLED_BYTES, _SAMPLED_EVERY):
                samples += 1
                found = self._candidates(begin, begin + _SAMPLED_BYTES)
                hits += any(own or not nearby(place, source) for place, sources in found for source, own in sources)
        return hits >= max(_LEAST_HITS, samples // _HITS_AMONG)

    def candidates(self) -> Iterator[tuple[int, list[tuple[int, bool]]]]:
        """Yield (place in the target, [(place of an equal hash, whether in the target itself), …]), ascending."""
        for begin, end in self._wanted:
            yield from self._candidates(begin, end)

    def _candidates(self, first: int, last: int) -> Iterator[tuple[int, list[tuple[int, bool]]]]:
        for begin in range(first, last - _WINDOW + 1, _TILE):
            hashes = _rolling(self._target[begin : min(begin + _TILE + _WINDOW - 1, last)], self._hash)
            places = np.flatnonzero(self._filter[_slots(hashes, self._bits)])
            in_base = _lookup(self._base, hashes[places], self._hash)
            own = _lookup(self._own, hashes[places], self._hash)
            own = np.where(own < places + begin, own, -1)
            for index in np.flatnonzero((in_base >= 0) | (own >= 0)):
                place = int(places[index]) + begin
                sources = [(int(found[index]), mine) for found, mine in ((in_base, False), (own, True))]
                sources = [source for source in sources if source[0] >= 0 and self._equal(place, *source)]
                if sources:
                    yield place, sources

    def _equal(self, place: int, source: int, own: bool) -> bool:
        """Whether a window is the same: an index knows 40 bits of its hash, and of a GiB some hundred windows have
        another's."""
        return self._target[place : place + _WINDOW] == self._streams[own][source : source + _WINDOW]


def _rolling(data: memoryview, mask: np.uint64) -> Unsigned64:
    """The hash of each window of `data`, by the byte that it begins at: those bits of it that an index has."""
    hashes = np.frombuffer(data, np.uint8).astype(np.uint64)
    width = 1
    while width < _WINDOW:
        factor = np.uint64(pow(_FACTOR, width, 1 << 64))
        hashes = hashes[:-width] * factor + hashes[width:]
        width *= 2
    # Once more, or windows that differ in their last byte would have the same upper bits.
    hashes *= np.uint64(_FACTOR)
    hashes &= mask
    return hashes


def _slots(hashes: Unsigned64, bits: int) -> NDArray[np.intp]:
    return (hashes >> np.uint64(64 - bits)).astype(np.intp)


def _index(stream: memoryview, mask: np.uint64, words: _Words | None) -> Unsigned64:
    """The windows at multiples of the stride that hold the words, ascending: each entry is its hash above its number.
    They lie in a scratch file."""
    entries = np.frombuffer(spool.room(8 * max(0, (len(stream) - _WINDOW) // _STRIDE + 1)), np.uint64)
    powers = np.array([pow(_FACTOR, _WINDOW - n, 1 << 64) for n in range(_WINDOW)], np.uint64)
    used = 0
    for begin in range(0, len(stream) - _WINDOW + 1, _TILE):
        tile = np.frombuffer(stream[begin : begin + _TILE + _WINDOW - 1], np.uint8)
        rows = np.lib.stride_tricks.sliding_window_view(tile, _WINDOW)[::_STRIDE]
        at = np.arange(len(rows), dtype=np.uint64) + np.uint64(begin // _STRIDE)
        if words is not None:
            kept = words.holding(rows)
            rows, at = rows[kept], at[kept]
        telling = _telling(rows[:, :: _WINDOW // _FIRST_LOOK])
        unsure = np.flatnonzero(~telling)
        telling[unsure] = _telling(rows[unsure])
        hashes = (rows[telling].astype(np.uint64) * powers).sum(axis=1, dtype=np.uint64)
        entries[used : used + len(hashes)] = hashes & mask | at[telling]
        used += len(hashes)
    entries = entries[:used]
    entries.sort()
    return entries


def _telling(rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which rows have enough different values."""
    ordered = np.sort(rows, axis=1)
    return np.asarray((ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) >= _FEW_VALUES - 1)


def _lookup(entries: Unsigned64, wanted: Unsigned64, mask: np.uint64) -> NDArray[np.int64]:
    """The first place of each wanted hash in an index; -1 where there is none."""
    if not len(entries):
        return np.full(len(wanted), -1, np.int64)
    found = entries[np.minimum(np.searchsorted(entries, wanted), len(entries) - 1)]
    return np.where(found & mask == wanted, (found & ~mask).astype(np.int64) * _STRIDE, -1)


def _extended(base: memoryview, target: memoryview, place: int, source: tuple[int, bool], least: int) -> Repeat:
    """The longest repeat around equal hashes; it begins at `least` or later. Its length is 0 if the hash lied."""
    offset, own = source
    other = target if own else base
    room = (place if own else len(other)) - offset
    ahead = _alike(target[place : place + room], other[offset : offset + room])
    most = min(place - least, offset)
    behind = _alike(target[place - most : place][::-1], other[offset - most : offset][::-1]) if ahead else 0
    # In itself a stretch may only repeat what is written before it begins.
    length = ahead + behind
    if own:
        length = min(length, place - offset)
    return Repeat(place - behind, length, offset - behind, own)


def _alike(one: memoryview, other: memoryview) -> int:
    """How many first bytes of both are the same."""
    size, done, step = min(len(one), len(other)), 0, 4096
    while done < size:
        end = min(size, done + step)
        different = np.flatnonzero(
            np.frombuffer(one[done:end].tobytes(), np.uint8) != np.frombuffer(other[done:end].tobytes(), np.uint8)
        )
        if len(different):
            return done + int(different[0])
        done, step = end, min(2 * step, _TILE)
    return size


def cut_at(edges: Sequence[int], begin: int, end: int) -> list[int]:
    """Sizes of the parts of [begin, end) between those of the ascending `edges` that lie inside of it."""
    inner = [edge for edge in edges if begin < edge < end]
    return [b - a for a, b in zip([begin, *inner], [*inner, end], strict=True)]
