"""Encodes a target whose parts stand in it twice, or in the base elsewhere, as copies of those. No I/O here.

Chunks find repeats only where both are cut alike, and short ones are carried inside the frames around them. Here
operations end where repeats do, which takes format 2.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from itertools import accumulate

from modelsync_protocol.manifest import Entry, Manifest, RegularFile
from modelsync_protocol.ops import Copy
from modelsync_protocol.plain.section import Views
from modelsync_server.encode import choice
from modelsync_server.encode.base_finder import BaseFinder
from modelsync_server.encode.changed import Costs, stretches
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.encode.repeat_finder import Repeat, cut_at, repeats
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.pieces import Chunk

_CUT_BYTES = 160
"""About what a copy costs: its operation, and the head of the frame that it cuts in two."""

_WORTH_BYTES = 256
"""Repeats that spare less in all are not worth encoding a second time."""

_SMALL_SHARE = 16
_SAME_PLACE_BYTES = 64
"""A stretch of the base so near its counterpart is what tensor frames and patches find themselves, for little."""


def encode_repeats(
    base: Source, target: Source, oldest: Encoded, pool: Executor, effort: Effort = Effort.MAX
) -> Encoded | None:
    """Encode `target` for a device that holds `base`; None if it repeats nothing that costs much in `oldest`."""
    dear = [stretch for stretch in stretches(oldest) if stretch.payload > _CUT_BYTES]
    if sum(stretch.payload - _CUT_BYTES for stretch in dear) < _WORTH_BYTES:
        return None
    finder = BaseFinder(base.manifest, target.manifest)
    costs = Costs(oldest)
    kept = []
    spared = 0.0

    def near(place: int, source: int) -> bool:
        return abs(finder.counterpart(place) - source) <= _SAME_PLACE_BYTES

    # Where the update is small beside its target, a repeat that a sample misses could be much of it.
    sampled = effort is not Effort.MAX and oldest.cost * _SMALL_SHARE > target.manifest.size
    wanted = [(stretch.begin, stretch.end) for stretch in dear]
    for repeat in repeats(base.stream, target.stream, wanted, nearby=near if sampled else None):
        cost = costs.between(repeat.target, repeat.end)
        if cost > _CUT_BYTES and (repeat.own or not near(repeat.target, repeat.source)):
            kept.append(repeat)
            spared += cost - _CUT_BYTES
    if spared < _WORTH_BYTES:
        return None
    known = merged(kept, oldest)  # what is copied already stays copied
    cut = Source(recut(target, known), target.stream)
    made = choice.smallest_update(base, cut, pool, RepeatFinder(base.manifest, cut.manifest, known), effort)
    return replace(made, views=Views.streams(base.manifest.size, target.manifest.size))


class RepeatFinder(BaseFinder):
    """Copies exactly the given repeats, ascending and disjoint, at whose ends the target is cut."""

    def __init__(self, base: Manifest, target: Manifest, known: Sequence[Repeat]) -> None:
        super().__init__(base, target)
        self._starts = [repeat.target for repeat in known]
        self._repeats = known

    def find(self, chunk: Chunk) -> Copy | None:
        """Where the chunk can be copied from, if anywhere."""
        number = bisect_right(self._starts, chunk[0]) - 1
        if number < 0 or chunk[0] >= self._repeats[number].end:
            return None
        repeat = self._repeats[number]
        return Copy(chunk[1], repeat.source + chunk[0] - repeat.target, repeat.own)

    def worth_a_cut(self, chunks: Sequence[Chunk]) -> bool:
        """Always: only such repeats are given."""
        return True


def merged(kept: Sequence[Repeat], oldest: Encoded) -> list[Repeat]:
    """Ascending, disjoint repeats, and between them the copies that were made before."""
    result = list(kept)
    position = 0
    starts, ends = [repeat.target for repeat in kept], [repeat.end for repeat in kept]
    for op in oldest.operations:
        if isinstance(op, Copy):
            begin = position
            for repeat in kept[bisect_right(ends, position) : bisect_left(starts, position + op.length)]:
                if repeat.target > begin:
                    result.append(Repeat(begin, repeat.target - begin, op.offset + begin - position, op.own))
                begin = repeat.end
            if begin < position + op.length:
                result.append(Repeat(begin, position + op.length - begin, op.offset + begin - position, op.own))
        position += op.length
    return sorted(result, key=lambda repeat: repeat.target)


def recut(target: Source, known: Sequence[Repeat]) -> Manifest:
    """The target's manifest with its chunks cut at the ends of repeats too."""
    edges = sorted({edge for repeat in known for edge in (repeat.target, repeat.end)})
    entries: list[Entry] = []
    offset = 0
    for entry in target.manifest.entries:
        if not isinstance(entry, RegularFile):
            entries.append(entry)
            continue
        sizes: list[int] = []
        digests: list[str] = []
        for size, digest in zip(entry.sizes, entry.digests, strict=True):
            low, high = bisect_right(edges, offset), bisect_right(edges, offset + size)
            parts = cut_at(edges[low:high], offset, offset + size)
            sizes += parts
            if len(parts) == 1:
                digests.append(digest)
            else:
                starts = accumulate(parts, initial=offset)
                digests += [_digest(target, at, part) for at, part in zip(starts, parts, strict=False)]
            offset += size
        entries.append(replace(entry, sizes=tuple(sizes), digests=tuple(digests)))
    return Manifest(tuple(entries), target.manifest.requires, target.manifest.probe)


def _digest(target: Source, offset: int, length: int) -> str:
    return hashlib.sha256(target.stream[offset : offset + length]).hexdigest()
