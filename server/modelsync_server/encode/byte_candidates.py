"""Tries encodings 3 and 8 on frames that zstd encodes, and keeps what is smaller. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace

from modelsync_protocol import caps, codecs
from modelsync_protocol.codecs import alignment
from modelsync_protocol.codecs.quick_size import quick_size
from modelsync_protocol.codecs.subtract import Subtract
from modelsync_protocol.codecs.transpose import Transpose
from modelsync_protocol.codecs.zstd import PatchFrom
from modelsync_protocol.ops import Frame
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.scratch.spool import Payload, keep
from modelsync_server.tensors.effort import Effort

_SUBTRACT, _TRANSPOSE, _PATCH = Subtract(), Transpose(), PatchFrom()
MAX_SUBTRACT_BYTES = 8 * caps.MIB
"""Frame and base range together, up to which alignments are looked for."""

_SMALL_PAYLOAD_BYTES = 8 * caps.KIB
_SLACKS, _NARROWER = (64, 4096), 0.75
"""Patches so small are tried on so much of the base around what they repeat too, if that is much less."""

_HOPE = 0.95
"""A quick attempt at transposing must be this much smaller than a quick zstd to be worth a real one."""


_REACH = 1024
"""Frames that lean on nothing are held against no more bytes of base for each of theirs, unless effort is no object:
their encoder has looked around their counterpart in vain."""


def improved(
    encoded: Encoded, base: Source | None, target: Source, pool: Executor, effort: Effort = Effort.MAX
) -> Encoded:
    """Return `encoded` with frames of encodings 1 and 2 replaced where 3 or 8 is smaller."""
    jobs: list[tuple[Frame, Payload, int]] = []
    payloads = iter(encoded.payloads)
    position = 0
    for op in encoded.operations:
        if isinstance(op, Frame):
            jobs.append((op, next(payloads), position))
        position += op.length
    better = iter(list(pool.map(lambda job: best(job[0], job[1], job[2], base, target, effort), jobs)))
    results = [next(better) if isinstance(op, Frame) else (op, b"") for op in encoded.operations]
    return replace(
        encoded,
        operations=tuple(op for op, _ in results),
        payloads=tuple(payload for op, payload in results if isinstance(op, Frame)),
    )


def best(
    frame: Frame,
    payload: Payload,
    position: int,
    base: Source | None,
    target: Source,
    effort: Effort = Effort.MAX,
) -> tuple[Frame, Payload]:
    """The frame at `position` of the target's stream, or one of encodings 3 and 8 in its place if that is smaller."""
    if frame.encoding not in (codecs.ZSTD, codecs.ZSTD_PATCH):
        return frame, payload
    data = bytes(target.stream[position : position + frame.length])
    found = [(frame, payload)]
    if base is not None:
        offset, length = base_range(frame, position, base, target, effort)
        if length and length + frame.length <= MAX_SUBTRACT_BYTES:
            lean = bytes(base.stream[offset : offset + length])
            if len(payload) <= _SMALL_PAYLOAD_BYTES:
                found += _narrowed(frame, data, lean, offset)
            other = _SUBTRACT.encode_if(data, lean, quick_size(data, lean))
            if other is not None:
                found.append((Frame(frame.length, codecs.SUBTRACT, len(other), offset, length), other))
    if _transposable(data):
        records = _TRANSPOSE.encode(data, b"", b"")
        found.append((Frame(frame.length, codecs.TRANSPOSE, len(records)), records))
    smallest, made = min(found, key=lambda item: len(item[1]) + _lean_bytes(item[0]))
    return smallest, keep(made)


def _lean_bytes(frame: Frame) -> int:
    """About what an operation spends on saying what the frame leans on."""
    return 2 + (frame.base_length.bit_length() + 6) // 7 if frame.base_length else 0


def _narrowed(frame: Frame, data: bytes, lean: bytes, offset: int) -> Iterator[tuple[Frame, bytes]]:
    """Patches on no more of the base range than what the frame repeats: nearer bytes take fewer bits to name."""
    blocks = [block for block in alignment.plans(data, lean)[-1] if block.length]
    low = min((block.place for block in blocks), default=0)
    high = max((block.place + block.length for block in blocks), default=0)
    done: set[tuple[int, int]] = set()
    for slack in _SLACKS:
        begin, end = max(0, low - slack), min(len(lean), high + slack)
        if high > low and (begin, end) not in done and end - begin < _NARROWER * len(lean):
            done.add((begin, end))
            payload = _PATCH.encode(data, lean[begin:end], b"")
            yield Frame(frame.length, codecs.ZSTD_PATCH, len(payload), offset + begin, end - begin), payload


def base_range(
    frame: Frame, position: int, base: Source, target: Source, effort: Effort = Effort.MAX
) -> tuple[int, int]:
    """(offset, length) of the base that a frame at `position` leans on, or might."""
    if frame.base_length:
        return frame.base_offset, frame.base_length
    offset, length = _might_lean_on(frame, position, base, target)
    return (0, 0) if effort is not Effort.MAX and length > max(caps.MIB, _REACH * frame.length) else (offset, length)


def _might_lean_on(frame: Frame, position: int, base: Source, target: Source) -> tuple[int, int]:
    size = base.manifest.size
    if size + frame.length <= MAX_SUBTRACT_BYTES and size <= caps.MAX_BASE_BYTES:
        return 0, size
    begin = min(position * size // max(1, target.manifest.size), size)
    begin = max(0, begin - caps.MIB)
    return begin, min(size - begin, frame.length + 2 * caps.MIB, caps.MAX_BASE_BYTES)


def _transposable(data: bytes) -> bool:
    return _TRANSPOSE.estimate(data) < quick_size(data) * _HOPE
