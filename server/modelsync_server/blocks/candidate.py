"""Encodes a target with block-quantised tensors, on a base or on nothing; None where there are none. No I/O here.

Contexts depend on where a run begins, so frames are cut first, by estimates, and tables are made of what stands in
them; where a payload comes out too large its frame is halved, and tables are made again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from operator import itemgetter

import numpy as np

from modelsync_protocol import caps, codecs
from modelsync_protocol.blocks.runs import Run
from modelsync_protocol.codecs import tables
from modelsync_protocol.codecs.segments import Coded
from modelsync_protocol.ops import Frame, Op
from modelsync_server.blocks import block_tensors, coding, planner
from modelsync_server.blocks.block_tensors import BlockTensor
from modelsync_server.blocks.coding import BlockCoding
from modelsync_server.blocks.frames import Contents, Layouted, Layouter, Placed
from modelsync_server.blocks.planes import BlockJob, Planes, paired
from modelsync_server.blocks.planner import Step
from modelsync_server.encode import encoder
from modelsync_server.encode.base_finder import BaseFinder
from modelsync_server.encode.changed import spans as spans_of
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.encode.tensor_encoder import Made
from modelsync_server.scratch.spool import Payload
from modelsync_server.tensors import cutter, pairs
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.framer import Fitted, Framing
from modelsync_server.tensors.pieces import Chunk

_MAX_PAYLOAD_BYTES = 256 * caps.KIB
_ROUNDS = 8
_SAMPLE_QUANTS = 1 << 17
_TABLES_OF_QUANTS = 6
"""Tables that each group of quants has at least, if it needs as many."""

_MOST_GROUPS = 22
"""Groups of tables for quants; the rest is for scales and what lies between."""

_KNOWING = (codecs.RANS_DELTA, codecs.RANS_NEW, codecs.BLOCKS)

Changed = Sequence[tuple[bool, list[Chunk]]]


def encode_blocks(
    base: Source, target: Source, oldest: Encoded | None, pool: Executor, effort: Effort = Effort.MAX
) -> Encoded | None:
    """Encode `target` for a device that holds `base` (maybe the empty manifest); only files that `oldest` has frames of
    are read, or all if it is None."""
    within = None if oldest is None else spans_of(oldest)
    tensors = block_tensors.find(target.manifest, target.stream, within)
    if not tensors:
        return None
    finder = BaseFinder(base.manifest, target.manifest)
    changed = encoder.runs(target.manifest, finder)
    spans = [(chunks[0][0], chunks[-1][0] + chunks[-1][1]) for is_changed, chunks in changed if is_changed]
    touched = [tensor for tensor in tensors if _overlapping(spans, tensor.offset, tensor.end)]
    encoding = _Encoding(base, target, pool)
    matches = encoding.worthy(touched)
    touched = _few_groups(touched, matches)
    return encoding.encode(touched, matches, changed, spans, finder) if touched else None


def _overlapping(spans: Sequence[tuple[int, int]], begin: int, end: int) -> Sequence[tuple[int, int]]:
    """Those of ascending, disjoint spans that share bytes with [begin, end)."""
    first = bisect_right(spans, begin, key=itemgetter(1))
    return spans[first : bisect_left(spans, end, first, key=itemgetter(0))]


def _few_groups(tensors: Sequence[BlockTensor], matches: Mapping[int, BlockTensor]) -> list[BlockTensor]:
    """The tensors of those kinds that tables are enough for, the heaviest kinds first."""
    weight: dict[tuple[int, bool], int] = {}
    for tensor in tensors:
        key = tensor.layout.code, tensor.offset in matches
        weight[key] = weight.get(key, 0) + tensor.length
    kept, groups = set(), 0
    for key in sorted(weight, key=lambda key: -weight[key]):
        if groups + coding.group_count(key) <= _MOST_GROUPS:
            kept.add(key)
            groups += coding.group_count(key)
    return [tensor for tensor in tensors if (tensor.layout.code, tensor.offset in matches) in kept]


class _Encoding:
    """One target on one base."""

    def __init__(self, base: Source, target: Source, pool: Executor) -> None:
        self._base, self._target, self._pool = base, target, pool

    def worthy(self, tensors: Sequence[BlockTensor]) -> dict[int, BlockTensor]:
        """Counterparts that quants come out smaller on than alone, by the offset of the new tensor."""
        found = block_tensors.pair(block_tensors.find(self._base.manifest, self._base.stream), tensors)
        wanted = [tensor for tensor in tensors if tensor.offset in found]
        better = self._pool.map(lambda tensor: self._related(tensor, found[tensor.offset]), wanted)
        return {tensor.offset: found[tensor.offset] for tensor, yes in zip(wanted, better, strict=True) if yes}

    def _related(self, new: BlockTensor, old: BlockTensor) -> bool:
        """Whether a sample of a tensor costs less on its counterpart."""
        layout = new.layout
        shared = min(new.count, old.count)
        count = min(shared, _SAMPLE_QUANTS // layout.elements)
        first = (shared - count) // 2
        bits = []
        for base in (old.offset + first * layout.bytes, None):
            low, high = (base, base + count * layout.bytes) if base is not None else (0, 0)
            run = Run(layout, 0, count, None if base is None else 0, 0)
            begin = new.offset + first * layout.bytes
            frame = Layouted(begin, begin + run.length, (Placed(run, new, first, base),), (), low, high)
            counts = coding.frame_counts(frame, Contents.of(frame, self._target.stream, self._base.stream))
            bits.append(sum(map(coding.bits_of, counts.values())))
        return bits[0] < bits[1]

    def encode(
        self,
        tensors: Sequence[BlockTensor],
        matches: Mapping[int, BlockTensor],
        changed: Changed,
        spans: Sequence[tuple[int, int]],
        finder: BaseFinder,
    ) -> Encoded | None:
        """Operations over the whole target; None if no frame of blocks is worth its bytes."""
        leaned = sorted({match.offset: match for match in matches.values()}.values(), key=lambda match: match.offset)
        planes = Planes(self._base.stream, leaned), Planes(self._target.stream, tensors)
        self._job = BlockJob(self._base, self._target, self._pool, *planes)
        self._layouter = Layouter(tensors, matches, planes, len(self._base.stream))
        fitted = self._fitted(tensors, matches, planes, spans)
        steps, fitted = self._planned(changed, fitted)
        shared = self._written(steps, fitted)
        if not any(frame.encoding == codecs.BLOCKS for step in steps for frame, _ in step.made):
            return None
        context = encoder.Context(self._target, self._base, finder)
        operations: list[Op] = []
        payloads: list[Payload] = []
        for step in steps:
            if step.copied:
                encoder.append_copies(operations, step.chunks, finder)
            made = step.made if step.layouted is not None or step.copied else self._opaque(step, context)
            operations += [frame for frame, _ in made]
            payloads += [payload for _, payload in made]
        return Encoded(tuple(operations), tuple(payloads), shared)

    def _opaque(self, step: Step, context: encoder.Context) -> list[Made]:
        return self._job.opaque_frames(step.chunks, context)

    def _fitted(
        self,
        tensors: Sequence[BlockTensor],
        matches: Mapping[int, BlockTensor],
        planes: tuple[Planes, Planes],
        spans: Sequence[tuple[int, int]],
    ) -> list[Fitted]:
        """How scales, and the tensors of single elements, are carried."""
        base, target = self._base, self._target
        floats = pairs.tensors_of(target.manifest, target.stream, guess=False)
        blocks = [(tensor.offset, tensor.end) for tensor in tensors]
        floats = [one for one in floats if not _overlapping(blocks, one.offset, one.offset + one.length)]
        old_floats = pairs.tensors_of(base.manifest, base.stream, guess=False)
        matched = pairs.pair(old_floats, base.stream, floats, target.stream)
        pieces = cutter.pieces(floats, matched, spans)
        scales = [plane for tensor in tensors for plane in planes[1].as_tensors(tensor)]
        inside = []
        for tensor in tensors:
            for number, one in enumerate(tensor.layout.fields):
                start = planes[1].start(tensor, number)
                for begin, end in _overlapping(spans, tensor.offset, tensor.end):
                    first, last = tensor.inside(begin, end)
                    if first < last:
                        inside.append((start + first * one.width, start + last * one.width))
        pieces += cutter.pieces(scales, paired(*planes, tensors, matches), inside)
        return list(self._pool.map(self._job.fit, pieces))

    def _planned(self, changed: Changed, fitted: list[Fitted]) -> tuple[list[Step], list[Fitted]]:
        """Steps over the whole target, and the pieces as they are carried."""
        known, _, fitted = self._job.settle(fitted)
        size = len(self._target.stream)
        outer = [item for item in fitted if item.piece.offset < size]
        inner = [item for item in fitted if item.piece.offset >= size]
        chunks = [chunk for is_changed, part in changed if is_changed for chunk in part]
        scale_bits = 0.0
        for item in inner:
            if isinstance(item.segment, Coded) and known is not None:
                found = self._job.symbols(item, item.segment)
                scale_bits += float(known.costs(item.segment.group, found).sum(dtype=np.float64))
        ratio = scale_bits / 8 / max(1, sum(item.piece.end - item.piece.offset for item in inner))
        framing = Framing(fitted, len(self._base.stream))
        estimates = self._job.estimates(chunks, outer, known)
        streams = self._target, self._base.stream
        costs = planner.costs(chunks, self._layouter, framing, estimates, ratio, streams, self._pool)
        by_offset = {chunk[0]: cost for chunk, cost in zip(chunks, costs, strict=True)}
        steps: list[Step] = []
        for is_changed, part in changed:
            if is_changed:
                steps += planner.plan(part, by_offset, self._layouter, framing)
            else:
                steps.append(Step(list(part), copied=True))
        return steps, fitted

    def _written(self, steps: list[Step], fitted: list[Fitted]) -> bytes:
        """Make the frames of `steps`, which grows where one is halved; return the tables."""
        for _ in range(_ROUNDS):
            live = [step for step in steps if step.layouted is not None and (not step.made or _knows(step))]
            if not live:
                return b""
            round_ = self._made(live, fitted)
            if round_ is None:
                break
            known, results = round_
            settled = True
            for step, made in zip(live, results, strict=True):
                if made is not None:
                    step.made = [made]
                    settled = settled and _knows(step)
                    continue
                settled = False
                middle = len(step.chunks) // 2
                halves = [Step(step.chunks[:middle]), Step(step.chunks[middle:])]
                for half in halves:
                    half.layouted = self._layouter.layout(half.begin, half.end, self._framing)
                place = next(number for number, one in enumerate(steps) if one is step)
                steps[place : place + 1] = halves
            if settled:
                return known.shared
        # A frame that is still too large, or without tables, has no payload: the caller goes without.
        for step in steps:
            step.made = []
        return b""

    def _made(self, live: Sequence[Step], fitted: list[Fitted]) -> tuple[BlockCoding, list[Made | None]] | None:
        known = self._coding(live, fitted)
        if known is None:
            return None
        return known, list(self._pool.map(lambda step: self._frame(step, known), live))

    def _coding(self, live: Sequence[Step], fitted: list[Fitted]) -> BlockCoding | None:
        """Tables of what stands in these frames, whose layouts get their numbers; None if there are too many kinds."""
        ranges = [(step.begin, step.end) for step in live]
        wanted = [item for item in fitted if self._stands_in(item, ranges)]
        counted = coding.counted(
            [step.layouted for step in live if step.layouted], self._base.stream, self._target, self._pool
        )
        most = tables.MAX_TABLES - _TABLES_OF_QUANTS * sum(map(coding.group_count, counted))
        others, _, numbered = self._job.make_tables(wanted, most)
        self._framing = Framing(numbered, len(self._base.stream))
        for step in live:
            step.layouted = self._layouter.layout(step.begin, step.end, self._framing)
        models = others.models if others is not None else ()
        if len(models) + sum(map(coding.group_count, counted)) > tables.MAX_GROUPS:
            return None
        return coding.with_tables(counted, models)

    def _stands_in(self, item: Fitted, ranges: Sequence[tuple[int, int]]) -> bool:
        piece = item.piece
        return piece.offset >= len(self._target.stream) or bool(_overlapping(ranges, piece.offset, piece.end))

    def _frame(self, step: Step, known: BlockCoding) -> Made | None:
        """A step's frame, or what knows nothing of blocks if that is smaller; None if too large for one frame."""
        frame = step.layouted
        assert frame is not None
        payload = coding.payload(frame, self._target.stream, self._base.stream, known)
        if len(payload) > _MAX_PAYLOAD_BYTES and len(step.chunks) > 1:
            return None
        leans = codecs.RANS_DELTA if frame.low < frame.high else codecs.RANS_NEW
        encoding = codecs.BLOCKS if frame.runs else leans
        made = Frame(frame.end - frame.begin, encoding, len(payload), frame.low, frame.high - frame.low)
        data = bytes(self._target.stream[frame.begin : frame.end])
        lean = bytes(self._base.stream[frame.low : frame.high])
        return self._job.smallest(made, payload, data, lean, frame.begin)


def _knows(step: Step) -> bool:
    return any(frame.encoding in _KNOWING for frame, _ in step.made)
