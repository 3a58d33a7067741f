"""Frames of blocks: which runs stand in one, what its rest is made of, and how its quants are counted. No I/O here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.blocks import block_frames, models, runs
from modelsync_protocol.blocks.runs import MAX_QUANTS, MAX_RUNS, Run
from modelsync_protocol.codecs import tables
from modelsync_protocol.codecs.segments import MAX_SEGMENTS, Gap, Segment
from modelsync_server.blocks.block_tensors import BlockTensor
from modelsync_server.blocks.planes import Planes
from modelsync_server.tensors.framer import Framing

_SLACK_BYTES = caps.KIB
"""How much of the base around the counterparts a frame leans on for the bytes between tensors."""

_MIN_RUN_BYTES = 144
"""Shorter runs are not worth it."""

GroupKey = tuple[int, bool]
"""Runs that share tables: type of blocks, and whether there is a base."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A run, its tensor, the number of its first block there, and where in the base's stream the old ones begin."""

    run: Run
    tensor: BlockTensor
    first: int
    base: int | None

    @property
    def key(self) -> GroupKey:
        """Which tables it uses."""
        return self.run.layout.code, self.base is not None


@dataclass(frozen=True, slots=True)
class Layouted:
    """Bytes [begin, end) of the target as a frame: runs, segments of its rest, and the range of the base's stream."""

    begin: int
    end: int
    runs: tuple[Placed, ...]
    segments: tuple[Segment, ...]
    low: int
    high: int

    @property
    def fits(self) -> bool:
        """Whether it is within what one frame may hold and lean on."""
        quants = sum(placed.run.quants for placed in self.runs)
        return (
            self.end - self.begin <= caps.MAX_FRAME_BYTES
            and quants <= MAX_QUANTS
            and len(self.runs) <= MAX_RUNS
            and len(self.segments) <= MAX_SEGMENTS
            and self.high - self.low <= _most_base(self.end - self.begin)
        )


class Layouter:
    """Lays out ranges of the target, given its tensors of blocks and which of them have usable counterparts."""

    def __init__(
        self,
        tensors: Sequence[BlockTensor],
        matches: Mapping[int, BlockTensor],
        planes: tuple[Planes, Planes],
        base_size: int,
    ) -> None:
        self._tensors = tensors
        self._matches = matches
        self._old, self._new = planes
        self._starts = [tensor.offset for tensor in tensors]
        self._base_size = base_size

    def placed(self, begin: int, end: int) -> Iterator[Placed]:
        """The runs of a range; groups of tables are not chosen yet."""
        index = max(0, bisect_right(self._starts, begin) - 1)
        for tensor in islice(self._tensors, index, None):
            if tensor.offset >= end:
                break
            first, last = tensor.inside(begin, end)
            match = self._matches.get(tensor.offset)
            shared = match.count if match is not None else 0
            # What the old tensor is too short for stands alone.
            for low, high, old in ((first, min(last, shared), match), (max(first, shared), last, None)):
                if (high - low) * tensor.layout.bytes >= _MIN_RUN_BYTES:
                    size = tensor.layout.bytes
                    base = old.offset + low * size if old is not None else None
                    run = Run(tensor.layout, tensor.offset + low * size - begin, high - low, base, 0)
                    yield Placed(run, tensor, low, base)

    def layout(self, begin: int, end: int, framing: Framing) -> Layouted:
        """The frame of bytes [begin, end) of the target."""
        found = _near(list(self.placed(begin, end)), _most_base(end - begin))
        outside: list[Segment] = []
        position = begin
        for placed in found:
            outside += framing.segments(position, begin + placed.run.offset)
            position = begin + placed.run.offset + placed.run.length
        outside += framing.segments(position, end)
        low, high = self._range(found, outside, end - begin)
        kept = [_within(placed, low, high) for placed in found]
        inside = [list(self._scales(placed, framing)) for placed in kept]
        segments = self._moved(outside, inside, kept, low, high)
        return Layouted(begin, end, tuple(kept), tuple(segments), low, high)

    def _scales(self, placed: Placed, framing: Framing) -> Iterator[Segment]:
        for number, field in enumerate(placed.run.layout.fields):
            start = self._new.start(placed.tensor, number)
            begin = start + placed.first * field.width
            yield from framing.segments(begin, begin + placed.run.count * field.width)

    def _range(self, found: Sequence[Placed], outside: Sequence[Segment], length: int) -> tuple[int, int]:
        spans = [(placed.base, placed.base + placed.run.length) for placed in found if placed.base is not None]
        spans += [
            (segment.base_offset, segment.base_offset + segment.length)
            for segment in outside
            if not isinstance(segment, Gap) and segment.base_offset is not None
        ]
        if not spans:
            return 0, 0
        low, high = min(begin for begin, _ in spans), max(end for _, end in spans)
        most = _most_base(length)
        if high - low > most:  # what single elements lean on lies too far: they go without
            spans = [(placed.base, placed.base + placed.run.length) for placed in found if placed.base is not None]
            low, high = (min(a for a, _ in spans), max(b for _, b in spans)) if spans else (low, low + most)
            return low, high
        if any(isinstance(segment, Gap) for segment in outside):
            slack = min(_SLACK_BYTES, (most - (high - low)) // 2)
            low, high = max(0, low - slack), min(self._base_size, high + slack)
        return low, high

    def _moved(
        self,
        outside: Sequence[Segment],
        inside: Sequence[Sequence[Segment]],
        kept: Sequence[Placed],
        low: int,
        high: int,
    ) -> list[Segment]:
        """Segments with their base offsets in the rest of the base range; gaps that touch are one."""
        spans = _united(sorted((p.base, p.base + p.run.length) for p in kept if p.base is not None))
        planes_at = high - low - sum(end - begin for begin, end in spans)
        result: list[Segment] = []
        for segment in outside:
            _append(result, _moved_outside(segment, spans, low, high))
        for placed, segments in zip(kept, inside, strict=True):
            match = self._matches.get(placed.tensor.offset)
            areas = []
            if placed.base is not None and match is not None:
                for number, field in enumerate(placed.run.layout.fields):
                    start = self._old.start(match, number) + placed.first * field.width
                    areas.append((start, start + placed.run.count * field.width, planes_at - start))
                    planes_at += placed.run.count * field.width
            for segment in segments:
                _append(result, _moved_inside(segment, areas))
        return result


def _most_base(length: int) -> int:
    """The longest base range that a frame of `length` decoded bytes may lean on."""
    return min(caps.MAX_BASE_BYTES, caps.MAX_LEAN_BYTES - length)


def _near(found: Sequence[Placed], most: int) -> list[Placed]:
    """The runs; those whose old blocks lie too far from the largest run's stand alone."""
    based = [(placed.base, placed.base + placed.run.length) for placed in found if placed.base is not None]
    if not based or max(end for _, end in based) - min(begin for begin, _ in based) <= most:
        return list(found)
    begin, end = max(based, key=lambda span: span[1] - span[0])
    room = (most - (end - begin)) // 2

    def kept(placed: Placed) -> Placed:
        if placed.base is None or (begin - room <= placed.base and placed.base + placed.run.length <= end + room):
            return placed
        return replace(placed, run=replace(placed.run, base_offset=None), base=None)

    return [kept(placed) for placed in found]


def _within(placed: Placed, low: int, high: int) -> Placed:
    """The run as a frame that leans on [low, high) of the base's stream has it."""
    if placed.base is None:
        return placed
    return replace(placed, run=replace(placed.run, base_offset=placed.base - low))


def _united(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ascending spans, with those that overlap as one."""
    result: list[tuple[int, int]] = []
    for begin, end in spans:
        if result and begin < result[-1][1]:
            result[-1] = result[-1][0], max(end, result[-1][1])
        else:
            result.append((begin, end))
    return result


def _moved_outside(segment: Segment, spans: Sequence[tuple[int, int]], low: int, high: int) -> Segment:
    if isinstance(segment, Gap) or segment.base_offset is None:
        return segment
    begin, end = segment.base_offset, segment.base_offset + segment.length
    if not low <= begin <= end <= high or any(a < end and begin < b for a, b in spans):
        return Gap(segment.length)
    return replace(segment, base_offset=begin - low - sum(b - a for a, b in spans if a < begin))


def _moved_inside(segment: Segment, areas: Sequence[tuple[int, int, int]]) -> Segment:
    if isinstance(segment, Gap) or segment.base_offset is None:
        return segment
    begin, end = segment.base_offset, segment.base_offset + segment.length
    for low, high, shift in areas:
        if low <= begin and end <= high:
            return replace(segment, base_offset=begin + shift)
    return Gap(segment.length)


def _append(result: list[Segment], segment: Segment) -> None:
    if result and isinstance(segment, Gap) and isinstance(result[-1], Gap):
        result[-1] = Gap(result[-1].length + segment.length)
    else:
        result.append(segment)


@dataclass(frozen=True, slots=True)
class Contents:
    """A frame's bytes, those of its base range, and the rest of both."""

    data: bytes
    base: bytes
    rest: bytes
    rest_of_base: bytes

    @classmethod
    def of(cls, frame: Layouted, target: memoryview, base: memoryview) -> Contents:
        """Read them from the streams."""
        data, old = bytes(target[frame.begin : frame.end]), bytes(base[frame.low : frame.high])
        found = [placed.run for placed in frame.runs]
        rest = runs.rest(data, [(run.offset, run) for run in found])
        return cls(data, old, rest, runs.rest_of_base(old, found))


@dataclass(frozen=True, slots=True)
class Quants:
    """The quants of a slab: contexts, number of the group of tables within the run's, symbols."""

    key: GroupKey
    contexts: NDArray[np.uint8]
    groups: NDArray[np.uint8]
    symbols: NDArray[np.uint8]


def quants(frame: Layouted, contents: Contents) -> Iterator[Quants]:
    """Symbols of a frame's quants in the order of its payload."""
    offset = len(contents.data) - sum(placed.run.length for placed in frame.runs)
    for placed in frame.runs:
        run = placed.run
        for first, last in run.slabs():
            part = block_frames.slab(run, contents.base, contents.rest, offset, first, last)
            codes = run.layout.split(runs.raw(run, contents.data, run.offset, first, last))[1]
            yield Quants(placed.key, part.contexts, part.groups, models.folded(run.layout, part, codes))
        offset += run.count * run.layout.plane_bytes


def cells(found: Quants) -> NDArray[np.int32]:
    """(group · 120 + context) · 256 + symbol of each quant."""
    rows = found.groups.astype(np.int32) * np.int32(tables.MAX_CONTEXTS) + found.contexts
    return rows * np.int32(256) + found.symbols
