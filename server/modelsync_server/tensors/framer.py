"""Cuts changed runs into frames, and tiles each frame with segments of fitted pieces and gaps. No I/O here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelsync_protocol import caps
from modelsync_protocol.codecs.segments import Coded, Gap, Same, Segment
from modelsync_server.tensors.fitter import Fit
from modelsync_server.tensors.pieces import Chunk, Piece, part

_ABSORBED_BYTES = 48 * caps.KIB
"""Runs without tensors shorter than this stay inside the frames around them."""

_BASE_SLACK_BYTES = caps.KIB
_HEAD_BYTES, _CHUNK_BYTES, _GAP_RATIO = 1200, 40, 0.6
"""Guesses for a payload's size: per frame, per chunk, per byte between tensors."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A piece and how it is carried: a segment for the whole piece, its base offset in the base's stream."""

    piece: Piece
    segment: Coded | Same
    options: tuple[Fit, ...] = ()
    """Ways that `segment` was chosen from."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a chunk's tensor elements cost in a payload, and how many bytes of the chunk they are."""

    payload: float = 0.0
    covered: int = 0


class Framing:
    """Knows the fitted pieces (ascending, disjoint) and the size of the base's stream in bytes."""

    def __init__(self, fitted: Sequence[Fitted], base_size: int) -> None:
        self._fitted = fitted
        self._starts = [item.piece.offset for item in fitted]
        self._base_size = base_size

    def plan(self, run: Sequence[Chunk], costs: dict[int, Estimate], aim: int) -> list[tuple[bool, list[Chunk]]]:
        """Cut a run into (has tensors, chunks): the former are frames' chunks, the latter opaque stretches."""
        labelled: list[tuple[bool, list[Chunk]]] = []
        for chunk in run:
            _append(labelled, 2 * costs[chunk[0]].covered >= chunk[1], [chunk])
        mixed = any(tensors for tensors, _ in labelled)
        merged: list[tuple[bool, list[Chunk]]] = []
        for tensors, chunks in labelled:
            small = sum(size for _, size, _ in chunks) <= _ABSORBED_BYTES
            _append(merged, tensors or (mixed and small), chunks)
        result: list[tuple[bool, list[Chunk]]] = []
        for tensors, chunks in merged:
            groups = self._grouped(chunks, costs, aim) if tensors else [chunks]
            result += [(tensors, group) for group in groups]
        return result

    def _grouped(self, chunks: Sequence[Chunk], costs: dict[int, Estimate], aim: int) -> list[list[Chunk]]:
        groups: list[list[Chunk]] = []
        payload, decoded = 0.0, 0
        for chunk in chunks:
            estimate = costs[chunk[0]]
            cost = estimate.payload + (chunk[1] - estimate.covered) * _GAP_RATIO + _CHUNK_BYTES
            fits = groups and payload + cost <= aim and decoded + chunk[1] <= caps.MAX_FRAME_BYTES
            if not fits or not self._spans_little([*groups[-1], chunk]):
                groups.append([])
                payload, decoded = _HEAD_BYTES, 0
            groups[-1].append(chunk)
            payload += cost
            decoded += chunk[1]
        return groups

    def _spans_little(self, chunks: Sequence[Chunk]) -> bool:
        begin, end = chunks[0][0], chunks[-1][0] + chunks[-1][1]
        low, high = _span(self.segments(begin, end))
        return high - low + 2 * _BASE_SLACK_BYTES <= _most_base(end - begin)

    def segments(self, begin: int, end: int) -> list[Segment]:
        """Segments that tile bytes [begin, end) of the target; base offsets are the base stream's."""
        result: list[Segment] = []
        position = begin
        index = max(0, bisect_right(self._starts, begin) - 1)
        while index < len(self._fitted) and self._fitted[index].piece.offset < end:
            piece, segment = self._fitted[index].piece, self._fitted[index].segment
            index += 1
            width = piece.numeral.width
            first = max(0, -(-(begin - piece.offset) // width))
            last = min(piece.count, (end - piece.offset) // width)
            if last <= first:
                continue
            offset = piece.offset + first * width
            if offset > position:
                result.append(Gap(offset - position))
            if isinstance(segment, Same):
                result.append(Same((last - first) * width, segment.base_offset + first * width))
            else:
                result.append(part(segment, first, last - first))
            position = piece.offset + last * width
        if position < end:
            result.append(Gap(end - position))
        return result

    def base_range(self, segments: Sequence[Segment], length: int) -> tuple[int, int]:
        """(begin, end) in the base's stream that a frame leans on: its counterparts, and a little around gaps."""
        low, high = _span(segments)
        if low == high:
            return 0, 0
        most = _most_base(length)
        if high - low > most:
            return low, low + most
        room = (most - (high - low)) // 2
        lead = segments[0].length + _BASE_SLACK_BYTES if isinstance(segments[0], Gap) else 0
        tail = segments[-1].length + _BASE_SLACK_BYTES if isinstance(segments[-1], Gap) else 0
        return low - min(lead, room, low), high + min(tail, room, self._base_size - high)


def placed(segments: Sequence[Segment], begin: int, end: int) -> list[Segment]:
    """Base offsets relative to the range [begin, end) of the base; a segment that leans on more becomes a gap."""
    result: list[Segment] = []
    for segment in segments:
        if isinstance(segment, Gap) or segment.base_offset is None:
            result.append(segment)
        elif begin <= segment.base_offset <= end - segment.length:
            result.append(replace(segment, base_offset=segment.base_offset - begin))
        else:
            result.append(Gap(segment.length))
    return result


def _append(labelled: list[tuple[bool, list[Chunk]]], label: bool, chunks: list[Chunk]) -> None:
    if labelled and labelled[-1][0] == label:
        labelled[-1][1].extend(chunks)
    else:
        labelled.append((label, list(chunks)))


def _most_base(length: int) -> int:
    """The longest base range that a frame of `length` decoded bytes may lean on."""
    return min(caps.MAX_BASE_BYTES, caps.MAX_LEAN_BYTES - length)


def _span(segments: Sequence[Segment]) -> tuple[int, int]:
    """First and last byte of the base's stream that segments lean on; (0, 0) if none does."""
    spans = [
        (segment.base_offset, segment.base_offset + segment.length)
        for segment in segments
        if not isinstance(segment, Gap) and segment.base_offset is not None
    ]
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else (0, 0)
