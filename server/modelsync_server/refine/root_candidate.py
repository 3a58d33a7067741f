"""Encodes tensors that are square roots of earlier ones as that: a scaler's deviations of its variances. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np

from modelsync_protocol import caps, codecs
from modelsync_protocol.codecs import records
from modelsync_protocol.codecs.records import FROM_ROOT, Field, Run
from modelsync_protocol.ops import Copy, Frame, Op
from modelsync_protocol.plain.section import Views
from modelsync_server.encode import choice
from modelsync_server.encode.changed import Stretch, overlapping, stretches
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.encode.repeat_candidate import RepeatFinder, merged, recut
from modelsync_server.encode.repeat_finder import Repeat
from modelsync_server.scratch.spool import Payload
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.pairs import Tensor, tensors_of

_LEAST_ELEMENTS = 16
_EQUAL = 0.9
"""Share of elements that must be the very root: of features that never vary the deviation is put at 1."""

_BEFORE = 8
"""So many tensors before one are looked at."""

_MARK = 1 << 40
"""Copies from beyond any base stand for roots until everything else is encoded."""


def encode_roots(
    base: Source, target: Source, oldest: Encoded, pool: Executor, effort: Effort = Effort.MAX
) -> Encoded | None:
    """Encode `target` for a device that holds `base`; None if no tensor is the root of another."""
    found = list(_roots(target, stretches(oldest)))
    if not found:
        return None
    roots = [Repeat(root.offset, root.length, _MARK * (n + 1), False) for n, (root, _) in enumerate(found)]
    known = merged(roots, oldest)  # what is copied stays copied
    cut = Source(recut(target, known), target.stream)
    made = choice.smallest_update(base, cut, pool, RepeatFinder(base.manifest, cut.manifest, known), effort)
    operations: list[Op] = []
    payloads: list[Payload] = []
    rest = iter(made.payloads)
    for op in made.operations:
        if isinstance(op, Copy) and not op.own and op.offset >= _MARK:
            root, square = found[op.offset // _MARK - 1]
            distance = root.offset - square.offset
            data = bytes(target.stream[root.offset : root.offset + root.length])
            run = Run(0, root.count, distance, (Field(root.numeral.width, FROM_ROOT),))
            payload = records.write([run], data, b"", bytes(target.stream[square.offset : root.offset]))
            operations.append(Frame(root.length, codecs.RECORDS, len(payload), prefix=distance))
            payloads.append(payload)
            continue
        operations.append(op)
        if isinstance(op, Frame):
            payloads.append(next(rest))
    views = Views.streams(base.manifest.size, target.manifest.size)
    return replace(made, operations=tuple(operations), payloads=tuple(payloads), views=views)


def _roots(target: Source, changed: Sequence[Stretch]) -> Iterator[tuple[Tensor, Tensor]]:
    """(root, square), the roots ascending; of those that the stretches carry, whole or in part."""
    within = [(stretch.begin, stretch.end) for stretch in changed]
    floats = [
        tensor
        for tensor in tensors_of(target.manifest, target.stream, guess=False, within=within)
        if tensor.numeral.name in ("f32", "f64") and tensor.count >= _LEAST_ELEMENTS
    ]
    for place, root in enumerate(floats):
        if not overlapping(changed, root.offset, root.offset + root.length):
            continue
        for square in floats[max(0, place - _BEFORE) : place]:
            alike = square.count == root.count and square.numeral == root.numeral and root.length <= caps.MIB
            if alike and root.offset - square.offset <= caps.MAX_PREFIX_BYTES and _is_root(root, square, target):
                yield root, square
                break


def _is_root(root: Tensor, square: Tensor, target: Source) -> bool:
    made = records.roots(bytes(target.stream[square.offset : square.offset + square.length]), square.numeral.width)
    there = np.frombuffer(target.stream, root.numeral.unsigned_dtype, root.count, root.offset)
    # Zeros and ones are their own roots and tell nothing.
    equal = (made == there) & (made != np.frombuffer(target.stream, made.dtype, square.count, square.offset))
    return bool(equal.mean() >= _EQUAL)
