"""Encodes a target whose tensors are known: frames of encodings 4 and 5, others where they are smaller. No I/O here.

Two passes: fit every changed piece of a tensor and count its symbols; then, with tables made from the counts, encode
frame by frame. The result depends on the inputs alone, not on the number of threads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import accumulate

from modelsync_protocol import caps, codecs
from modelsync_protocol.codecs import low_rank
from modelsync_protocol.codecs.quick_size import quick_size
from modelsync_protocol.codecs.segments import MAX_SEGMENTS, Coded
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Frame, Op
from modelsync_server.encode import byte_candidates, encoder
from modelsync_server.encode.base_finder import BaseFinder
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.encode.tensor_statistics import TensorStatistics
from modelsync_server.low_rank.finder import Change
from modelsync_server.scratch.spool import Payload, keep
from modelsync_server.tensors import (
    cutter,
    frame_writer,
    framer,
)
from modelsync_server.tensors import pairs as pairing
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.frame_writer import Coding
from modelsync_server.tensors.framer import Estimate, Fitted, Framing
from modelsync_server.tensors.pieces import Chunk, Piece

_AIM_BYTES = 255 * caps.KIB
_MAX_PAYLOAD_BYTES = 256 * caps.KIB
_NEAR, _NEAR_SMALL, _SMALL_BYTES = 1.06, 1.3, 64 * caps.KIB
"""A quick zstd within this factor of a tensor frame is followed by a real attempt: short frames are cheap to try."""

_SAMPLED_BYTES, _STRETCHES, _STRETCH_BYTES = 512 * caps.KIB, 4, 16 * caps.KIB
_FAR = 1.3
"""Of larger frames some stretches are shown to a quick zstd first; the whole only if these come out within a factor."""

_SMALL_ELEMENTS = 1 << 21
"""Targets with fewer changed elements are always looked at whole: it takes no time."""

_LOST = 0.05
"""Tables are not made again for so small a share of elements that no frame carries after all."""

_TENSOR_ENCODINGS = (codecs.RANS_DELTA, codecs.RANS_NEW, codecs.LOW_RANK)

Made = tuple[Frame, Payload]


def encode_tensors(
    base: Source | None,
    target: Source,
    pool: Executor,
    *,
    aim: int = _AIM_BYTES,
    finder: BaseFinder | None = None,
    changes: Mapping[int, Change] | None = None,
    effort: Effort = Effort.MAX,
) -> Encoded | None:
    """Encode `target` on `base` (None: on nothing); None if nothing that changed is
    of a file that holds tensors whose element type is known.

    `aim` is the size (bytes) that payloads come near to where there is more; what `finder` finds is copied.
    `changes`: by a tensor's offset, the change of low rank that moved it, for encoding 6.
    """
    finder = finder or BaseFinder(base.manifest if base is not None else Manifest(()), target.manifest)
    runs = encoder.runs(target.manifest, finder)
    spans = [(chunks[0][0], chunks[-1][0] + chunks[-1][1]) for changed, chunks in runs if changed]
    pairs: dict[int, pairing.Tensor] = {}
    if base is None:
        tensors = pairing.tensors_of(target.manifest, target.stream, within=spans)
    else:
        sources = (base.manifest, base.stream), (target.manifest, target.stream)
        tensors, pairs = pairing.continued(*sources, spans)
    if not tensors:
        return None
    pieces = cutter.pieces(tensors, pairs, spans)
    small = sum(piece.count for piece in pieces) <= _SMALL_ELEMENTS
    job = TensorJob(base, target, pool, changes, Effort.MAX if small else effort)
    fitted = list(pool.map(job.fit, pieces))
    touched = [chunk for changed, chunks in runs if changed for chunk in chunks]
    coding, shared, fitted, costs = job.settle_run(fitted, touched)
    plan = _plan(runs, Framing(fitted, len(job.base_stream)), costs, aim)
    job.make_tensor_frames(plan, fitted, coding)
    survivors = _surviving(plan, fitted)
    if len(survivors) < len(fitted) and job.worth_again(survivors, fitted):
        # Tables that only lost frames wanted would still have to be carried.
        coding, shared, survivors = job.make_tables(survivors)
        job.make_tensor_frames(plan, survivors, coding)
    context = encoder.Context(target, base, finder if base is not None else None, effort=job.effort)
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


class TensorJob(TensorStatistics):
    """One target on one base: fits pieces, counts symbols, encodes frames."""

    def worth_again(self, survivors: Sequence[Fitted], fitted: Sequence[Fitted]) -> bool:
        """Whether tables of the survivors alone would be so much better that everything is encoded again."""
        if self.effort is Effort.MAX:
            return True
        lost = sum(item.piece.count for item in fitted) - sum(item.piece.count for item in survivors)
        return lost > _LOST * sum(item.piece.count for item in fitted)

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
        return list(
            self.pool.map(lambda j: byte_candidates.best(j[0], j[1], j[2], self.base, self.target, self.effort), jobs)
        )

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
        if self.effort is not Effort.MAX and _hopeless(len(payload), data, base):
            return frame, keep(payload)
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


def _hopeless(size: int, data: bytes, base: bytes) -> bool:
    """Whether a sample says that zstd makes much more than `size` of a frame, on its base and on nothing."""
    if len(data) < _SAMPLED_BYTES:
        return False
    starts = [part * (len(data) - _STRETCH_BYTES) // (_STRETCHES - 1) for part in range(_STRETCHES)]
    sample = b"".join(data[at : at + _STRETCH_BYTES] for at in starts)
    lean = b""
    if base:
        near = [max(0, at * len(base) // len(data) - _STRETCH_BYTES // 2) for at in starts]
        lean = b"".join(base[at : at + 2 * _STRETCH_BYTES] for at in near)
    least = min(quick_size(sample), quick_size(sample, lean) if lean else len(sample))
    return least * len(data) > _FAR * size * len(sample)


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


def _assembled(plan: Sequence[_Step], finder: BaseFinder, shared: bytes) -> Encoded:
    operations: list[Op] = []
    payloads: list[Payload] = []
    for step in plan:
        if step.kind == "copy":
            encoder.append_copies(operations, step.chunks, finder)
        for frame, payload in step.made:
            operations.append(frame)
            payloads.append(payload)
    return Encoded(tuple(operations), tuple(payloads), shared)
