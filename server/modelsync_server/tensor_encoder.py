"""Encodes a target whose tensors are known: frames of encodings 4 and 5, others where they are smaller. No I/O here.

Two passes: fit every changed piece of a tensor and count its symbols; then, with tables made from the counts, encode
frame by frame. The result depends on the inputs alone, not on the number of threads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
import zstandard
from numpy.typing import NDArray

from modelsync_protocol import caps, codecs
from modelsync_protocol.codecs import tables
from modelsync_protocol.codecs.segments import Coded, Gap, Mode, Same, Segment
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy, Frame, Op
from modelsync_server import encoder
from modelsync_server.encoder import Chunk, Encoded, Source
from modelsync_server.tensors import fitting, frame_writer, pairing, symbolise, table_builder
from modelsync_server.tensors.frame_writer import Coding
from modelsync_server.tensors.pieces import Piece, elements, part

RANS_DELTA, RANS_NEW = 4, 5

_MAX_PIECE_ELEMENTS = 1 << 20
_MIN_PIECE_ELEMENTS = 16
_AIM_BYTES = 250 * caps.KIB
_ABSORBED_BYTES = 48 * caps.KIB
"""Runs without tensors shorter than this stay inside the frames around them."""

_BASE_SLACK_BYTES = caps.KIB
_CHUNK_OVERHEAD_BYTES = 40

_Item = Piece


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A piece and how it is carried: a template segment (its base offset is into the base's stream)."""

    piece: Piece
    segment: Coded | Same

    @property
    def group_key(self) -> tuple[int, int, bool]:
        assert isinstance(self.segment, Coded)
        return self.segment.numeral.code, self.segment.mode, self.segment.base_offset is not None


def encode_tensors(base: Source | None, target: Source, pool: Executor) -> Encoded | None:
    """Encode `target` on `base` (None: on nothing); None if it holds no tensor whose element type is known."""
    found = pairing.tensors_of(target.manifest, target.stream)
    if not found:
        return None
    pairs: dict[int, pairing.Tensor] = {}
    if base is not None:
        old = pairing.tensors_of(base.manifest, base.stream)
        pairs = pairing.pair(old, base.stream, found, target.stream)
    finder = encoder._BaseFinder(base.manifest if base is not None else Manifest(()), target.manifest)
    runs = _runs(target.manifest, finder)
    pieces = _pieces(found, pairs, [chunks for changed, chunks in runs if changed])
    job = _Job(base, target, finder, pool)
    fitted = list(pool.map(job.fit, pieces))
    fitted, coding, table_bytes = _make_tables(fitted, job)
    return job.encode(runs, fitted, coding, table_bytes)


def _runs(target: Manifest, finder: encoder._BaseFinder) -> list[tuple[bool, list[Chunk]]]:
    runs: list[tuple[bool, list[Chunk]]] = []
    for chunk in target.chunks():
        changed = finder.find(chunk) is None
        if runs and runs[-1][0] == changed:
            runs[-1][1].append(chunk)
        else:
            runs.append((changed, [chunk]))
    return encoder._joined(runs)


def _pieces(
    found: Sequence[pairing.Tensor], pairs: dict[int, pairing.Tensor], runs: Sequence[list[Chunk]]
) -> list[Piece]:
    """The tensors' elements inside changed runs, cut so that each piece can be held in memory."""
    pieces: list[Piece] = []
    spans = [(chunks[0][0], chunks[-1][0] + chunks[-1][1]) for chunks in runs]
    current = 0
    for tensor in found:
        while current < len(spans) and spans[current][1] <= tensor.offset:
            current += 1
        for begin, end in spans[current:]:
            if begin >= tensor.offset + tensor.length:
                break
            pieces += _cut(tensor, pairs.get(tensor.offset), begin, end)
    return pieces


def _cut(tensor: pairing.Tensor, match: pairing.Tensor | None, begin: int, end: int) -> list[Piece]:
    width = tensor.numeral.width
    first = max(0, -(-(begin - tensor.offset) // width))
    last = min(tensor.count, (end - tensor.offset) // width)
    shared = match.count if match is not None else 0
    pieces = []
    while first < last:
        stop = min(last, (first // _MAX_PIECE_ELEMENTS + 1) * _MAX_PIECE_ELEMENTS)
        if first < shared:
            stop = min(stop, shared)
        base_offset = match.offset + first * width if match is not None and first < shared else None
        if stop - first >= _MIN_PIECE_ELEMENTS:
            widths = _widths(tensor)
            pieces.append(
                Piece(tensor.offset + first * width, stop - first, tensor.numeral, first, widths, base_offset)
            )
        first = stop
    return pieces


def _widths(tensor: pairing.Tensor) -> tuple[int, ...]:
    """Row lengths worth trying: all axes but the first, the last axis, or no rows at all."""
    shape = [size for size in tensor.shape if size > 1]
    widths: list[int] = []
    if len(shape) >= 2:
        row = int(np.prod(shape[1:], dtype=np.int64))
        widths += [width for width in (row, shape[-1]) if 1 < width < tensor.count and tensor.count % width == 0]
    return tuple(dict.fromkeys(widths)) or (tensor.count,)


def _make_tables(fitted: list[_Fitted], job: _Job) -> tuple[list[_Fitted], Coding | None, bytes]:
    """Number the groups, count their symbols, make their tables."""
    keys = sorted({item.group_key for item in fitted if isinstance(item.segment, Coded)})
    if not keys:
        return fitted, None, b""
    numbers = {key: number for number, key in enumerate(keys)}
    fitted = [
        replace(item, segment=replace(item.segment, group=numbers[item.group_key]))
        if isinstance(item.segment, Coded)
        else item
        for item in fitted
    ]
    counts = np.zeros((len(keys), tables.MAX_CONTEXTS, 256), np.int64)
    for group, cells in job.pool.map(job.count, [item for item in fitted if isinstance(item.segment, Coded)]):
        counts[group] += cells
    models = [table_builder.build(cells, tables.MAX_TABLES // len(keys)) for cells in counts]
    return fitted, Coding.of(models), tables.write([model.group for model in models])


class _Job:
    """One target on one base: reads elements, costs and encodes frames."""

    def __init__(self, base: Source | None, target: Source, finder: encoder._BaseFinder, pool: Executor) -> None:
        self._base = base
        self._base_stream = base.stream if base is not None else memoryview(b"")
        self._target = target
        self._finder = finder
        self.pool = pool
        self._coding: Coding | None = None

    def _elements(self, piece: Piece) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
        new = elements(self._target.stream, piece.offset, piece.count, piece.numeral)
        if piece.base_offset is None:
            return new, None
        return new, elements(self._base_stream, piece.base_offset, piece.count, piece.numeral)

    def fit(self, piece: Piece) -> _Fitted:
        """Choose how a piece is carried."""
        new, old = self._elements(piece)
        if old is not None and piece.base_offset is not None and np.array_equal(new, old):
            return _Fitted(piece, Same(piece.end - piece.offset, piece.base_offset))
        return _Fitted(piece, fitting.fit(piece, new, old).segment)

    def _symbols(self, item: _Fitted) -> symbolise.Symbols:
        assert isinstance(item.segment, Coded)
        new, old = self._elements(item.piece)
        return symbolise.symbols_of(item.segment, new, None if item.segment.base_offset is None else old)

    def count(self, item: _Fitted) -> tuple[int, NDArray[np.int64]]:
        """(group, counts per context and symbol) of a piece."""
        assert isinstance(item.segment, Coded)
        found = self._symbols(item)
        cells = np.bincount(found.contexts.astype(np.intp) * 256 + found.symbols, minlength=tables.MAX_CONTEXTS * 256)
        return item.segment.group, cells.reshape(tables.MAX_CONTEXTS, 256)

    def encode(
        self, runs: Sequence[tuple[bool, list[Chunk]]], fitted: list[_Fitted], coding: Coding | None, shared: bytes
    ) -> Encoded:
        """Encode all runs."""
        self._coding = coding
        chunks = [chunk for changed, group in runs if changed for chunk in group]
        costs = self._chunk_costs(chunks, fitted)
        self._fitted = fitted
        self._starts = np.array([item.piece.offset for item in fitted], np.int64)
        plans: list[tuple[str, list[Chunk]]] = []
        for changed, group in runs:
            plans += self._plan(group, costs) if changed else [("copy", group)]
        tensor_frames = self.pool.map(self._tensor_frame, [group for kind, group in plans if kind == "tensors"])
        operations: list[Op] = []
        payloads: list[bytes] = []
        context = encoder._Context(self._target, self._base, self._finder if self._base is not None else None)
        for kind, group in plans:
            if kind == "copy":
                encoder._append_copies(operations, group, self._finder)
                continue
            made = (
                next(tensor_frames)
                if kind == "tensors"
                else encoder._encode_units(encoder._units(group), context, self.pool)
            )
            for frame, payload in made:
                operations.append(frame)
                payloads.append(payload)
        return Encoded(tuple(operations), tuple(payloads), shared)

    def _chunk_costs(self, chunks: Sequence[Chunk], fitted: list[_Fitted]) -> dict[int, tuple[float, int]]:
        """Per chunk (by offset): bytes of payload for its tensor elements, and how many bytes of it those are."""
        edges = np.array([chunk[0] for chunk in chunks], np.int64)
        costs = np.zeros(len(chunks))
        covered = np.zeros(len(chunks), np.int64)
        for index, cost, size in [
            x for found in self.pool.map(lambda f: self._piece_costs(f, edges), fitted) for x in found
        ]:
            costs[index] += cost
            covered[index] += size
        return {chunk[0]: (float(costs[i]), int(covered[i])) for i, chunk in enumerate(chunks)}

    def _piece_costs(self, item: _Fitted, edges: NDArray[np.int64]) -> list[tuple[int, float, int]]:
        piece, width = item.piece, item.piece.numeral.width
        first = int(np.searchsorted(edges, piece.offset, "right")) - 1
        last = int(np.searchsorted(edges, piece.end, "left")) - 1
        cuts = np.array([0, *(-(-(int(edges[i]) - piece.offset) // width) for i in range(first + 1, last + 1))])
        counts = np.diff([*cuts, piece.count])
        if isinstance(item.segment, Same):
            return [(first + i, 4.0, int(n) * width) for i, n in enumerate(counts)]
        assert self._coding is not None
        found = self._symbols(item)
        bits = self._coding.bits[self._coding.places(item.segment.group, found)] + found.counts
        sums = np.add.reduceat(bits, np.minimum(cuts, piece.count - 1), dtype=np.float64)
        side = 8.0 + sum(len(a) for a in (item.segment.rows, item.segment.offsets) if a is not None) / 2
        if item.segment.factors is not None:
            side += 3.0 * len(item.segment.factors.values)
        return [
            (first + i, float(sums[i]) / 8 + side * n / piece.count + 12, int(n) * width) for i, n in enumerate(counts)
        ]

    def _plan(self, group: Sequence[Chunk], costs: dict[int, tuple[float, int]]) -> list[tuple[str, list[Chunk]]]:
        """Cut a changed run into frames' chunks: with tensors, or opaque."""
        labelled: list[tuple[str, list[Chunk]]] = []
        for chunk in group:
            kind = "tensors" if 2 * costs[chunk[0]][1] >= chunk[1] else "opaque"
            if labelled and labelled[-1][0] == kind:
                labelled[-1][1].append(chunk)
            else:
                labelled.append((kind, [chunk]))
        merged: list[tuple[str, list[Chunk]]] = []
        mixed = any(kind == "tensors" for kind, _ in labelled)
        for kind, chunks in labelled:
            if kind == "opaque" and mixed and sum(c[1] for c in chunks) <= _ABSORBED_BYTES:
                kind = "tensors"
            if merged and merged[-1][0] == kind:
                merged[-1][1].extend(chunks)
            else:
                merged.append((kind, list(chunks)))
        result: list[tuple[str, list[Chunk]]] = []
        for kind, chunks in merged:
            result += [(kind, part) for part in self._grouped(chunks, costs)] if kind == "tensors" else [(kind, chunks)]
        return result

    def _grouped(self, chunks: Sequence[Chunk], costs: dict[int, tuple[float, int]]) -> list[list[Chunk]]:
        groups: list[list[Chunk]] = []
        payload = decoded = 0.0
        for chunk in chunks:
            cost, covered = costs[chunk[0]]
            cost += (chunk[1] - covered) * 0.6 + _CHUNK_OVERHEAD_BYTES
            fits = groups and payload + cost <= _AIM_BYTES and decoded + chunk[1] <= caps.MAX_FRAME_BYTES
            if not fits or not self._spans_little([*groups[-1], chunk]):
                groups.append([])
                payload = 1200.0
                decoded = 0
            groups[-1].append(chunk)
            payload += cost
            decoded += chunk[1]
        return groups

    def _spans_little(self, chunks: Sequence[Chunk]) -> bool:
        begin, end = chunks[0][0], chunks[-1][0] + chunks[-1][1]
        low, high = _span(self._segments(begin, end))
        return high - low + end - begin <= caps.MAX_LEAN_BYTES - 2 * _BASE_SLACK_BYTES and (
            high - low <= caps.MAX_BASE_BYTES - 2 * _BASE_SLACK_BYTES
        )

    def _segments(self, begin: int, end: int) -> list[Segment]:
        """Segments that tile bytes [begin, end) of the target; base offsets are the base stream's."""
        result: list[Segment] = []
        position = begin
        index = max(0, int(np.searchsorted(self._starts, begin, "right")) - 1)
        while index < len(self._fitted) and self._fitted[index].piece.offset < end:
            item = self._fitted[index]
            index += 1
            piece, width = item.piece, item.piece.numeral.width
            first = max(0, -(-(begin - piece.offset) // width))
            last = min(piece.count, (end - piece.offset) // width)
            if last <= first:
                continue
            offset = piece.offset + first * width
            if offset > position:
                result.append(Gap(offset - position))
            if isinstance(item.segment, Same):
                result.append(Same((last - first) * width, item.segment.base_offset + first * width))
            else:
                result.append(part(item.segment, first, last - first))
            position = piece.offset + last * width
        if position < end:
            result.append(Gap(end - position))
        return result

    def _tensor_frame(self, chunks: list[Chunk]) -> list[tuple[Frame, bytes]]:
        begin, end = chunks[0][0], chunks[-1][0] + chunks[-1][1]
        found = self._segments(begin, end)
        base_offset, base_end = self._base_range(begin, end, found)
        base = bytes(self._base_stream[base_offset:base_end])
        target = bytes(self._target.stream[begin:end])
        placed = [_moved(segment, base_offset, base_end) for segment in found]
        payload = frame_writer.write(placed, target, base, b"", self._coding)
        if len(payload) > 256 * caps.KIB and len(chunks) > 1:
            middle = len(chunks) // 2
            return [*self._tensor_frame(chunks[:middle]), *self._tensor_frame(chunks[middle:])]
        encoding = RANS_DELTA if base else RANS_NEW
        frame = Frame(len(target), encoding, len(payload), base_offset if base else 0, len(base))
        return [self._smaller(frame, payload, target, base)]

    def _smaller(self, frame: Frame, payload: bytes, target: bytes, base: bytes) -> tuple[Frame, bytes]:
        """The frame, or one of encodings 1 and 2 if that is smaller."""
        for encoding, dictionary in ((codecs.ZSTD_PATCH, base), (codecs.ZSTD, b"")):
            if encoding == codecs.ZSTD_PATCH and not base:
                continue
            if _quick_size(target, dictionary) > len(payload) * 1.15 + 64:
                continue
            other = codecs.ENCODINGS[encoding].encode(target, dictionary, b"")
            if len(other) < min(len(payload), caps.MAX_PAYLOAD_BYTES):
                offset = frame.base_offset if dictionary else 0
                frame, payload = Frame(frame.length, encoding, len(other), offset, len(dictionary)), other
        return frame, payload

    def _base_range(self, begin: int, end: int, found: Sequence[Segment]) -> tuple[int, int]:
        """The part of the base's stream that a frame leans on: its segments' counterparts and a little around."""
        low, high = _span(found)
        if low == high:
            return 0, 0
        lead = found[0].length if isinstance(found[0], Gap) else 0
        tail = found[-1].length if isinstance(found[-1], Gap) else 0
        room = min(caps.MAX_BASE_BYTES, caps.MAX_LEAN_BYTES - (end - begin)) - (high - low)
        if room < 0:
            return low, low + min(caps.MAX_BASE_BYTES, caps.MAX_LEAN_BYTES - (end - begin))
        lead = min(lead + _BASE_SLACK_BYTES if lead else 0, room // 2, low)
        tail = min(tail + _BASE_SLACK_BYTES if tail else 0, room // 2, len(self._base_stream) - high)
        return low - lead, high + tail


def _span(found: Sequence[Segment]) -> tuple[int, int]:
    """First and last byte of the base's stream that segments lean on."""
    spans = [
        (segment.base_offset, segment.base_offset + segment.length)
        for segment in found
        if not isinstance(segment, Gap) and segment.base_offset is not None
    ]
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else (0, 0)


def _moved(segment: Segment, begin: int, end: int) -> Segment:
    """The segment with its base offset relative to `begin`; what lies outside the range becomes a gap."""
    if isinstance(segment, Gap) or segment.base_offset is None:
        return segment
    if not begin <= segment.base_offset <= end - segment.length:
        return Gap(segment.length)
    return replace(segment, base_offset=segment.base_offset - begin)


def _quick_size(target: bytes, dictionary: bytes) -> int:
    raw = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=max(10, min(24, (len(target) + len(dictionary)).bit_length())), write_content_size=False
    )
    return len(zstandard.ZstdCompressor(dict_data=raw, compression_params=parameters).compress(target))
