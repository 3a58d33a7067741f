"""Encodes a target whose tensors are known: frames of encodings 4 and 5, others where they are smaller. No I/O here.

Two passes: fit every changed piece of a tensor and count its symbols; then, with tables made from the counts, encode
frame by frame. The result depends on the inputs alone, not on the number of threads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps, codecs
from modelsync_protocol.codecs import low_rank, tables
from modelsync_protocol.codecs.adapted import Adapted
from modelsync_protocol.codecs.numerals import Unsigned
from modelsync_protocol.codecs.quick_size import quick_size
from modelsync_protocol.codecs.segments import MAX_SEGMENTS, Coded, Mode, Same
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Frame, Op
from modelsync_server.encode import byte_candidates, encoder
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.low_rank import product_writer
from modelsync_server.low_rank.finder import Change
from modelsync_server.scratch.spool import Payload, keep
from modelsync_server.tensors import (
    cutter,
    fitter,
    frame_writer,
    framer,
    symbol_writer,
    table_builder,
)
from modelsync_server.tensors import pairs as pairing
from modelsync_server.tensors.frame_writer import Coding
from modelsync_server.tensors.framer import Estimate, Fitted, Framing
from modelsync_server.tensors.pieces import Chunk, Piece, elements, part

_AIM_BYTES = 255 * caps.KIB
_MAX_PAYLOAD_BYTES = 256 * caps.KIB
_NEAR, _NEAR_SMALL, _SMALL_BYTES = 1.06, 1.3, 64 * caps.KIB
"""A quick zstd within this factor of a tensor frame is followed by a real attempt: short frames are cheap to try."""

_TENSOR_ENCODINGS = (codecs.RANS_DELTA, codecs.RANS_NEW, codecs.LOW_RANK)

_UNSEEN_BITS = 14.0
"""What a symbol is taken to cost that no table has yet."""

Made = tuple[Frame, Payload]
GroupKey = tuple[int, int, bool, bool]
"""Segments that share tables: element type, mode, whether there is a base, and whether it is changed first."""

_FACTORS: tuple[GroupKey, GroupKey] = ((-1, 0, False, False), (-1, 1, False, False))
"""The groups of products' factors: integers, floats."""


def encode_tensors(
    base: Source | None,
    target: Source,
    pool: Executor,
    *,
    aim: int = _AIM_BYTES,
    finder: encoder.BaseFinder | None = None,
    changes: Mapping[int, Change] | None = None,
) -> Encoded | None:
    """Encode `target` on `base` (None: on nothing); None if it holds no tensor whose element type is known.

    `aim` is the size (bytes) that payloads come near to where there is more; what `finder` finds is copied.
    `changes`: by a tensor's offset, the change of low rank that moved it, for encoding 6.
    """
    tensors = pairing.tensors_of(target.manifest, target.stream)
    if not tensors:
        return None
    pairs: dict[int, pairing.Tensor] = {}
    if base is not None:
        pairs = pairing.pair(pairing.tensors_of(base.manifest, base.stream), base.stream, tensors, target.stream)
    finder = finder or encoder.BaseFinder(base.manifest if base is not None else Manifest(()), target.manifest)
    runs = encoder.runs(target.manifest, finder)
    spans = [(chunks[0][0], chunks[-1][0] + chunks[-1][1]) for changed, chunks in runs if changed]
    job = TensorJob(base, target, pool, changes)
    fitted = list(pool.map(job.fit, cutter.pieces(tensors, pairs, spans)))
    coding, shared, fitted = job.settle(fitted)
    costs = job.estimates([chunk for changed, chunks in runs if changed for chunk in chunks], fitted, coding)
    plan = _plan(runs, Framing(fitted, len(job.base_stream)), costs, aim)
    job.make_tensor_frames(plan, fitted, coding)
    survivors = _surviving(plan, fitted)
    if len(survivors) < len(fitted):
        # Tables that only lost frames wanted would still have to be carried.
        coding, shared, survivors = job.make_tables(survivors)
        job.make_tensor_frames(plan, survivors, coding)
    context = encoder.Context(target, base, finder if base is not None else None)
    for step in plan:
        if step.kind == "opaque":
            job.make_opaque_frames(step, context)
    return _assembled(plan, finder, shared)


@dataclass(slots=True)
class _Step:
    """A stretch of the target: "copy", "opaque" or "tensors", and the frames made for it so far."""

    kind: str
    chunks: list[Chunk]
    made: list[Made] = field(default_factory=list)


def _plan(
    runs: Sequence[tuple[bool, list[Chunk]]], frames: Framing, costs: dict[int, Estimate], aim: int
) -> list[_Step]:
    steps: list[_Step] = []
    for changed, chunks in runs:
        if not changed:
            steps.append(_Step("copy", chunks))
            continue
        steps += [_Step("tensors" if has else "opaque", part) for has, part in frames.plan(chunks, costs, aim)]
    return steps


class TensorJob:
    """One target on one base: fits pieces, counts symbols, encodes frames."""

    def __init__(
        self, base: Source | None, target: Source, pool: Executor, changes: Mapping[int, Change] | None = None
    ) -> None:
        self.base = base
        self.base_stream = base.stream if base is not None else memoryview(b"")
        self.target = target
        self.pool = pool
        self.changes = {at: (number, change) for number, (at, change) in enumerate(sorted((changes or {}).items()))}
        self.products = [product_writer.Parts.of(change) for _, change in self.changes.values()]

    def elements(self, piece: Piece) -> tuple[Unsigned, Unsigned | None]:
        """A piece's elements and their counterparts."""
        new = elements(self.target.stream, piece.offset, piece.count, piece.numeral)
        if piece.base_offset is None:
            return new, None
        return new, elements(self.base_stream, piece.base_offset, piece.count, piece.numeral)

    def fit(self, piece: Piece) -> Fitted:
        """Choose how a piece is carried."""
        new, old = self.elements(piece)
        if old is not None and piece.base_offset is not None and np.array_equal(new, old):
            return Fitted(piece, Same(piece.end - piece.offset, piece.base_offset))
        found = self.changes.get(piece.offset - piece.first * piece.numeral.width)
        if found is not None and old is not None:
            number, change = found
            columns, width = change.product.columns, piece.numeral.width
            place = Adapted(number, 0, change.product)
            assert piece.base_offset is not None
            begin, count = piece.base_offset - piece.first * width, change.product.count
            whole = Coded(Mode.DELTA, piece.numeral, 0, count, begin, columns, 0, change.level, factors=change.factors)
            segment = part(replace(whole, adapted=place), piece.first, piece.count)
            return Fitted(piece, segment)
        options = fitter.fits(piece, new, old)
        return Fitted(piece, options[0].segment, tuple(options))

    def refit(self, item: Fitted, coding: Coding, groups: dict[GroupKey, int]) -> Fitted:
        """Choose again, by what the options cost with these tables."""
        if len(item.options) < 2:
            return item
        costs = []
        for option in item.options:
            group = groups.get(_group_key(option.segment))
            if group is None:
                costs.append(float("inf"))
                continue
            found = self.symbols(item, option.segment)
            bits = np.minimum(coding.bits[coding.places(group, found)], _UNSEEN_BITS)
            costs.append(float(bits.sum(dtype=np.float64)) + int(found.counts.sum(dtype=np.int64)) + option.side_bits)
        return replace(item, segment=item.options[int(np.argmin(costs))].segment)

    def symbols(self, item: Fitted, segment: Coded) -> symbol_writer.Symbols:
        """Symbols of a whole piece, carried as `segment` says."""
        new, old = self.elements(item.piece)
        return symbol_writer.symbols_of(segment, new, None if segment.base_offset is None else old)

    def settle(self, fitted: list[Fitted]) -> tuple[Coding | None, bytes, list[Fitted]]:
        """Make tables, let each piece choose again by what they make of it, and make tables of that."""
        coding, shared, fitted = self.make_tables(fitted)
        if coding is not None:
            groups = {
                _group_key(item.segment): item.segment.group for item in fitted if isinstance(item.segment, Coded)
            }
            known = coding
            fitted = list(self.pool.map(lambda item: self.refit(item, known, groups), fitted))
            coding, shared, fitted = self.make_tables(fitted)
        return coding, shared, fitted

    def make_tables(
        self, fitted: list[Fitted], most: int = tables.MAX_TABLES
    ) -> tuple[Coding | None, bytes, list[Fitted]]:
        """Number the groups of alike segments, count their symbols and make their tables, at most `most`."""
        found = {_group_key(item.segment) for item in fitted if isinstance(item.segment, Coded)}
        if not found:
            return None, b"", fitted
        keys = sorted(found | {_FACTORS[parts.floats] for parts in self.products})
        numbers = {key: number for number, key in enumerate(keys)}
        fitted = [
            replace(item, segment=replace(item.segment, group=numbers[_group_key(item.segment)]))
            if isinstance(item.segment, Coded)
            else item
            for item in fitted
        ]
        counts = np.zeros((len(keys), tables.MAX_CONTEXTS, 256), np.int64)
        for group, cells in self.pool.map(self._count, fitted):
            counts[group] += cells
        products = [parts.in_group(numbers[_FACTORS[parts.floats]]) for parts in self.products]
        for parts in products:
            for symbols in parts.symbols():
                counts[numbers[_FACTORS[parts.floats]]] += _cells(symbols)
        models = [table_builder.build(cells, most // len(keys)) for cells in counts]
        coding = Coding.of(models)
        shared = tables.write([model.group for model in models])
        return coding, low_rank.write_tables(shared, [parts.stored(coding) for parts in products]), fitted

    def _count(self, item: Fitted) -> tuple[int, NDArray[np.int64] | int]:
        if not isinstance(item.segment, Coded):
            return 0, 0
        return item.segment.group, _cells(self.symbols(item, item.segment))

    def estimates(self, chunks: Sequence[Chunk], fitted: list[Fitted], coding: Coding | None) -> dict[int, Estimate]:
        """Per chunk (by offset) what its tensor elements will cost."""
        edges = np.array([chunk[0] for chunk in chunks], np.int64)
        result = {chunk[0]: Estimate() for chunk in chunks}
        for found in self.pool.map(lambda item: self._estimate(item, edges, coding), fitted):
            for offset, payload, covered in found:
                known = result[offset]
                result[offset] = Estimate(known.payload + payload, known.covered + covered)
        return result

    def _estimate(self, item: Fitted, edges: NDArray[np.int64], coding: Coding | None) -> list[tuple[int, float, int]]:
        piece, width = item.piece, item.piece.numeral.width
        first = int(np.searchsorted(edges, piece.offset, "right")) - 1
        last = int(np.searchsorted(edges, piece.end, "left"))
        inner = [-(-(int(edge) - piece.offset) // width) for edge in edges[first + 1 : last]]
        counts = np.diff([0, *inner, piece.count])
        offsets = [int(edge) for edge in edges[first:last]]
        if not isinstance(item.segment, Coded) or coding is None:
            return [(offset, 4.0, int(n) * width) for offset, n in zip(offsets, counts, strict=True)]
        found = self.symbols(item, item.segment)
        bits = coding.bits[coding.places(item.segment.group, found)] + found.counts
        sums = np.add.reduceat(bits, np.minimum([0, *inner], piece.count - 1), dtype=np.float64)
        side = _side_bytes(item.segment) / piece.count
        return [
            (offset, float(total) / 8 + side * int(n) + 12, int(n) * width)
            for offset, total, n in zip(offsets, sums, counts, strict=True)
        ]

    def make_tensor_frames(self, plan: Sequence[_Step], fitted: list[Fitted], coding: Coding | None) -> None:
        """Encode the steps with tensors, but those that have frames of other encodings by now."""
        frames = Framing(fitted, len(self.base_stream))
        wanted = [
            step
            for step in plan
            if step.kind == "tensors"
            and (not step.made or any(frame.encoding in _TENSOR_ENCODINGS for frame, _ in step.made))
        ]
        results = self.pool.map(lambda step: self._tensor_frame(step.chunks, frames, coding), wanted)
        for step, made in zip(wanted, results, strict=True):
            step.made = made

    def make_opaque_frames(self, step: _Step, context: encoder.Context) -> None:
        """Encode a stretch without tensors."""
        step.made = self.opaque_frames(step.chunks, context)

    def opaque_frames(self, chunks: list[Chunk], context: encoder.Context) -> list[Made]:
        """Frames of a stretch without tensors."""
        made = encoder.encode_units(encoder.cut_units(chunks), context, self.pool)
        positions = accumulate((frame.length for frame, _ in made), initial=chunks[0][0])
        jobs = [(frame, payload, at) for (frame, payload), at in zip(made, positions, strict=False)]
        return list(self.pool.map(lambda j: byte_candidates.best(j[0], j[1], j[2], self.base, self.target), jobs))

    def _tensor_frame(self, chunks: list[Chunk], frames: Framing, coding: Coding | None) -> list[Made]:
        begin, end = chunks[0][0], chunks[-1][0] + chunks[-1][1]
        segments = frames.segments(begin, end)
        if len(segments) > MAX_SEGMENTS and len(chunks) > 1:
            return self._halves(chunks, frames, coding)
        low, high = frames.base_range(segments, end - begin)
        base, data = bytes(self.base_stream[low:high]), bytes(self.target.stream[begin:end])
        parts = framer.placed(segments, low, high)
        payload = frame_writer.write(parts, data, base, b"", coding)
        if len(payload) > _MAX_PAYLOAD_BYTES and len(chunks) > 1:
            return self._halves(chunks, frames, coding)
        encoding = codecs.RANS_DELTA if base else codecs.RANS_NEW
        if any(isinstance(segment, Coded) and segment.adapted is not None for segment in parts):
            encoding, payload = codecs.LOW_RANK, low_rank.front(parts) + payload
        frame = Frame(end - begin, encoding, len(payload), low, len(base))
        return [self.smallest(frame, payload, data, base, begin)]

    def _halves(self, chunks: list[Chunk], frames: Framing, coding: Coding | None) -> list[Made]:
        middle = len(chunks) // 2
        parts = (chunks[:middle], chunks[middle:])
        return [made for part in parts for made in self._tensor_frame(part, frames, coding)]

    def smallest(self, frame: Frame, payload: bytes, data: bytes, base: bytes, begin: int) -> Made:
        """The frame, or one that knows nothing of tensors if that is smaller or the payload too large."""
        made: Made = frame, payload
        near = _NEAR_SMALL if len(data) <= _SMALL_BYTES else _NEAR
        bound = len(payload) * near + 64 if len(payload) <= caps.MAX_PAYLOAD_BYTES else float("inf")
        ways = [(codecs.ZSTD_PATCH, base)] if base else []
        quick = [(quick_size(data, dictionary), way, dictionary) for way, dictionary in [*ways, (codecs.ZSTD, b"")]]
        bound = min(bound, min(size for size, _, _ in quick) * _NEAR)
        for size, encoding, dictionary in quick:
            if size > bound:
                continue
            other = codecs.ENCODINGS[encoding].encode(data, dictionary, b"")
            offset = frame.base_offset if dictionary else 0
            plain = Frame(frame.length, encoding, len(other), offset, len(dictionary))
            smaller = byte_candidates.best(plain, other, begin, self.base, self.target)
            if len(smaller[1]) < len(made[1]):
                made = smaller
        return made[0], keep(made[1])


def _surviving(plan: Sequence[_Step], fitted: list[Fitted]) -> list[Fitted]:
    """Pieces that some tensor frame carries: not only opaque stretches, or frames which zstd won after all."""
    won = [
        (step.chunks[0][0], step.chunks[-1][0] + step.chunks[-1][1])
        for step in plan
        if any(frame.encoding in _TENSOR_ENCODINGS for frame, _ in step.made)
    ]
    starts = [begin for begin, _ in won]

    def survives(piece: Piece) -> bool:
        index = bisect_left(starts, piece.end) - 1
        return index >= 0 and won[index][1] > piece.offset

    return [item for item in fitted if survives(item.piece)]


def _assembled(plan: Sequence[_Step], finder: encoder.BaseFinder, shared: bytes) -> Encoded:
    operations: list[Op] = []
    payloads: list[Payload] = []
    for step in plan:
        if step.kind == "copy":
            encoder.append_copies(operations, step.chunks, finder)
        for frame, payload in step.made:
            operations.append(frame)
            payloads.append(payload)
    return Encoded(tuple(operations), tuple(payloads), shared)


def _cells(found: symbol_writer.Symbols) -> NDArray[np.int64]:
    places = found.contexts.astype(np.intp) * 256 + found.symbols
    return np.bincount(places, minlength=tables.MAX_CONTEXTS * 256).reshape(tables.MAX_CONTEXTS, 256)


def _group_key(segment: Coded) -> GroupKey:
    return segment.numeral.code, segment.mode, segment.base_offset is not None, segment.adapted is not None


def _side_bytes(segment: Coded) -> float:
    size = 8.0 + sum(len(values) for values in (segment.rows, segment.offsets) if values is not None) / 2
    return size + (3.0 * len(segment.factors.values) if segment.factors is not None else 0.0)
