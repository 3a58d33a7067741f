"""Makes frames of plain bytes smaller that version 1 of the format can't: encodings 10 and 11, and cuts at every byte.

A frame of an update of version 1 begins and ends where chunks do, so two edits of a few bytes cost the bytes between
them once more. Here such a frame becomes copies with small frames between. No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from modelsync_protocol import caps, codecs, ops
from modelsync_protocol.codecs import alignment, records, zstd
from modelsync_protocol.codecs.quick_size import quick_size
from modelsync_protocol.ops import Copy, Frame, Op
from modelsync_protocol.plain.section import Views
from modelsync_server.encode import byte_candidates
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.refine import record_finder
from modelsync_server.scratch.spool import Payload, keep
from modelsync_server.tensors.effort import Effort

_PLAIN = frozenset({codecs.ZSTD, codecs.ZSTD_PATCH, codecs.SUBTRACT, codecs.TRANSPOSE})
_LEAST_EQUAL_BYTES = (16, 48, 192, 1024, 8192)
"""Equal bytes that become a copy: each of these is tried, as what a cut spares depends on what is around it."""

_MOST_CUTS = 2048
_SPARSE = 0.25
"""A frame whose payload is a larger share of its bytes has too few equal ones to be cut."""

_NOISE = 0.99
"""What is not shortened more than that has neither equal bytes nor a stride."""

_LEAST_OWN_BYTES = 6
"""Stored bytes that were stored before are a copy, from so many on."""

_COPY_BYTES = 3
"""What such a copy costs beyond the stored frame's operation, or less."""

_AROUND_BYTES = 256
"""So much of the base around a small frame's counterpart is offered to it."""

_BIASES = (1.0, 1.35)
_WHICH = range(len(_BIASES))
_WORTH_BYTES = 8
"""A frame is replaced for so many bytes: the version of the format costs one or two itself."""

Made = list[tuple[Op, Payload]]
"""Operations with their payloads (of copies: none)."""


@dataclass(frozen=True, slots=True)
class _Job:
    op: Op
    payload: Payload
    position: int


def refined(
    base: Source, target: Source, encoded: Encoded, pool: Executor, effort: Effort = Effort.MAX
) -> Encoded | None:
    """The same update with smaller frames, between the same views; None if there are none. It takes format 2."""
    payloads = iter(encoded.payloads)
    starts = accumulate((op.length for op in encoded.operations), initial=0)
    jobs = [
        _Job(op, next(payloads) if isinstance(op, Frame) else b"", at)
        for op, at in zip(encoded.operations, starts, strict=False)
    ]
    ways = list(pool.map(lambda job: _chosen_ways(job, base, target, effort), jobs))
    if not any(ways):
        return None
    streams = Views.streams(base.manifest.size, target.manifest.size)
    kept: list[Made] = [[(job.op, job.payload)] for job in jobs]
    by_bias = ([found[which] if found else old for found, old in zip(ways, kept, strict=True)] for which in _WHICH)
    return min((_assembled(encoded, parts, streams) for parts in by_bias), key=_total)


def _chosen_ways(job: _Job, base: Source, target: Source, effort: Effort) -> list[Made]:
    """For each bias what stands in for the operation; empty if nothing can. What loses is forgotten here."""
    ways = _ways(job, base, target, effort)
    if len(ways) == 1:
        return []
    chosen = [_chosen(ways, bias) for bias in _BIASES]
    return [[(op, keep(payload)) for op, payload in made] for made in chosen]


def _chosen(ways: list[Made], bias: float) -> Made:
    """The cheapest way, if it spares enough; `bias` favours cuts, as what is stored may be copied from other frames."""
    costs = [_cost(made) for made in ways]
    best = min(range(len(ways)), key=lambda which: costs[which] * (1 if which else bias))
    return ways[best] if costs[best] + _WORTH_BYTES <= costs[0] * bias else ways[0]


def _assembled(encoded: Encoded, parts: Sequence[Made], streams: Views) -> Encoded:
    """One update of these operations, copies joined, and what is stored twice copied."""
    made: Made = []
    stored: dict[Payload, int] = {}
    position = 0
    for op, payload in (item for part in parts for item in part):
        last = made[-1][0] if made else None
        at, position = position, position + op.length
        if isinstance(op, Copy) and isinstance(last, Copy) and _goes_on(last, op):
            made[-1] = Copy(last.length + op.length, last.offset), b""
            continue
        if isinstance(op, Frame) and op.encoding == codecs.STORED and op.length >= _LEAST_OWN_BYTES:
            if payload in stored:
                made.append((Copy(op.length, stored[payload], own=True), b""))
                continue
            stored[payload] = at
        made.append((op, payload))
    cut = any(len(part) > 1 for part in parts)
    return replace(
        encoded,
        operations=tuple(op for op, _ in made),
        payloads=tuple(payload for op, payload in made if isinstance(op, Frame)),
        views=streams if cut and encoded.views is None else encoded.views,
    )


def _goes_on(last: Copy, op: Copy) -> bool:
    """Whether a copy reads on in the base where the last one ended."""
    return not last.own and not op.own and last.offset + last.length == op.offset


def _total(encoded: Encoded) -> int:
    """Bytes of payloads, and of operations as the header has them."""
    out = bytearray()
    ops.write_ops(out, encoded.operations)
    return sum(map(len, encoded.payloads)) + min(len(out), quick_size(bytes(out)))


def _ways(job: _Job, base: Source, target: Source, effort: Effort) -> list[Made]:
    """What may stand in for the operation, itself first."""
    frame = job.op
    if not isinstance(frame, Frame) or frame.encoding not in _PLAIN:
        return [[(frame, job.payload)]]
    data = bytes(target.stream[job.position : job.position + frame.length])
    found: list[Made] = [[(frame, job.payload)]]
    if len(job.payload) >= len(data) and len(data) <= caps.MAX_PAYLOAD_BYTES:
        found.append([(Frame(len(data), codecs.STORED, len(data)), data)])
    if len(job.payload) > _NOISE * len(data):
        return found
    offset, length = byte_candidates.base_range(frame, job.position, base, target, effort)
    lean = bytes(base.stream[offset : offset + length])
    if len(data) + len(lean) <= byte_candidates.MAX_SUBTRACT_BYTES:
        found += _as_records(frame, job.payload, data, lean, offset)
        if len(job.payload) <= _SPARSE * len(data):
            found += _cut_up(data, lean, offset)
    return found


def _cost(made: Made) -> int:
    """Bytes of operations and payloads; what is stored again is a copy by then."""
    out = bytearray()
    ops.write_ops(out, [op for op, _ in made])
    again: set[Payload] = set()
    spared = 0
    for op, payload in made:
        if isinstance(op, Frame) and op.encoding == codecs.STORED and len(payload) >= _LEAST_OWN_BYTES:
            spared += len(payload) - _COPY_BYTES if payload in again else 0
            again.add(payload)
    return min(len(out), quick_size(bytes(out)) - 6) + sum(len(payload) for _, payload in made) - spared


def _as_records(frame: Frame, payload: Payload, data: bytes, lean: bytes, offset: int) -> Iterator[Made]:
    """The frame as runs of records, on all of its base range."""
    for runs in record_finder.plans(data, lean):
        made = records.write(runs, data, lean, b"")
        if len(made) < len(payload) and len(made) <= caps.MAX_PAYLOAD_BYTES:
            yield [(Frame(frame.length, codecs.RECORDS, len(made), offset, len(lean)), made)]


def _cut_up(data: bytes, lean: bytes, offset: int) -> Iterator[Made]:
    """The frame as copies and what is between them, for each length from which on equal bytes are copied."""
    equal = list(_equal_runs(data, lean))
    known: dict[tuple[int, int], tuple[Op, bytes]] = {}
    done: set[int] = set()
    for least in _LEAST_EQUAL_BYTES:
        copies = [run for run in equal if run.length >= least]
        if not copies or len(copies) > _MOST_CUTS or len(copies) in done:
            continue
        done.add(len(copies))
        made: Made = []
        position = 0
        for run in [*copies, alignment.Block(len(data), 0, len(lean))]:
            if run.begin > position:
                if (position, run.begin) not in known:
                    near = run.place - (run.begin - position)
                    known[position, run.begin] = _small(data, position, run.begin, lean, near, offset)
                made.append(known[position, run.begin])
            if run.length:
                made.append((Copy(run.length, offset + run.place), b""))
            position = run.begin + run.length
        if all(len(payload) <= caps.MAX_PAYLOAD_BYTES for _, payload in made):
            yield made


def _equal_runs(data: bytes, lean: bytes) -> Iterator[alignment.Block]:
    """Stretches of the frame that stand in the base range, ascending and disjoint."""
    if not lean:
        return
    new, old = np.frombuffer(data, np.uint8), np.frombuffer(lean, np.uint8)
    plans = alignment.plans(data, lean)
    for block in plans[1] if len(plans) > 1 else plans[0]:
        part = slice(block.begin, block.begin + block.length)
        differs = np.flatnonzero(new[part] != old[block.place : block.place + block.length])
        edges = np.concatenate([[-1], differs, [block.length]])
        lengths = np.diff(edges) - 1
        for which in np.flatnonzero(lengths >= _LEAST_EQUAL_BYTES[0]).tolist():
            begin = int(edges[which]) + 1
            yield alignment.Block(block.begin + begin, int(lengths[which]), block.place + begin)


def _small(data: bytes, begin: int, end: int, lean: bytes, near: int, offset: int) -> tuple[Frame, bytes]:
    """A frame for these bytes, on what lies around place `near` of the base range, or on nothing."""
    part = data[begin:end]
    low = max(0, near - _AROUND_BYTES)
    around = lean[low : max(low, near + len(part) + _AROUND_BYTES)][: caps.MAX_BASE_BYTES]
    patch = codecs.ENCODINGS[codecs.ZSTD_PATCH].encode(part, around, b"") if around else b""
    packed = zstd.compress(part, b"")
    found: Sequence[tuple[Frame, bytes]] = [
        (Frame(len(part), codecs.STORED, len(part)), part),
        (Frame(len(part), codecs.ZSTD, len(packed)), packed),
    ]
    if patch:
        found = [*found, (Frame(len(part), codecs.ZSTD_PATCH, len(patch), offset + low, len(around)), patch)]
    return min(found, key=lambda made: len(made[1]) + (3 if made[0].base_length else 0))
