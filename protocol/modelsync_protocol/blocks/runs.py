"""The head of an encoding-9 payload: the runs of blocks in a frame, and what is left of it without their quants.

No I/O here. FORMAT.md §blocks. The rest of a frame: its bytes outside of runs, then, run by run, the fields of scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.blocks import models
from modelsync_protocol.blocks.layouts import LAYOUTS, Bytes, Layout, Planes
from modelsync_protocol.codecs.tables import MAX_GROUPS
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_signed, write_varint

MAX_RUNS = 1 << 12
MAX_QUANTS = 1 << 20
"""Quants of one frame: each takes a byte of the decoder's memory."""

_HAS_BASE = 1


@dataclass(frozen=True, slots=True)
class Run:
    """`count` blocks from byte `offset` of the frame on; `base_offset`: where in the base range the old ones begin."""

    layout: Layout
    offset: int
    count: int
    base_offset: int | None
    group: int
    """The first of its groups of tables."""

    @property
    def length(self) -> int:
        """Bytes."""
        return self.count * self.layout.bytes

    @property
    def quants(self) -> int:
        """How many."""
        return self.count * self.layout.elements

    def slabs(self) -> Iterator[tuple[int, int]]:
        """(first, last) block of each."""
        return models.slabs(self.layout, self.count)


def write(runs: Sequence[Run]) -> bytes:
    """Encode; the result is what `read` reads."""
    out = bytearray()
    write_varint(out, len(runs))
    position = cursor = 0
    for run in runs:
        out += bytes((run.layout.code, _HAS_BASE if run.base_offset is not None else 0, run.group))
        write_varint(out, run.offset - position)
        write_varint(out, run.count)
        if run.base_offset is not None:
            write_signed(out, run.base_offset - cursor)
            cursor = run.base_offset + run.length
        position = run.offset + run.length
    return bytes(out)


def read(reader: Reader, length: int, base_length: int) -> list[Run]:
    """Read the runs of a frame of `length` decoded bytes that leans on `base_length`; FormatError if any is off."""
    runs: list[Run] = []
    position = cursor = quants = 0
    for _ in range(reader.varint(MAX_RUNS)):
        code, flags, group = reader.take(3)
        layout = LAYOUTS.get(code)
        if layout is None or flags > _HAS_BASE:
            raise FormatError(f"blocks of type {code} (flags {flags}) are not known here; update this program.")
        _check(group + models.table_groups(layout, flags > 0) <= MAX_GROUPS, "it names tables that are not there")
        position += reader.varint(length - position)
        count = reader.varint((length - position) // layout.bytes)
        _check(count > 0, "a run is empty")
        offset = None
        if flags:
            offset = cursor + reader.signed(caps.MAX_BASE_BYTES + caps.MAX_FRAME_BYTES)
            _check(0 <= offset <= base_length - count * layout.bytes, "a run reaches beyond the base range")
            cursor = offset + count * layout.bytes
        runs.append(Run(layout, position, count, offset, group))
        position += count * layout.bytes
        quants += count * layout.elements
    _check(quants <= MAX_QUANTS, "it holds too many quants")
    return runs


def rest_length(runs: Iterable[Run], length: int) -> int:
    """Bytes of a frame's rest."""
    return length - sum(run.count * (run.layout.bytes - run.layout.plane_bytes) for run in runs)


def rest(data: bytes, spans: Sequence[tuple[int, Run]]) -> bytes:
    """The rest of `data`, given (offset, run) of blocks in it: bytes outside of them, then each run's scales."""
    parts: list[bytes] = []
    position = 0
    for begin, end in sorted((offset, offset + run.length) for offset, run in spans):
        parts.append(data[position:begin])
        position = max(position, end)
    parts.append(data[position:])
    for offset, run in spans:
        slabs = [planes(run, data, offset, first, last) for first, last in run.slabs()]
        for field in zip(*slabs, strict=True):
            parts += [plane.tobytes() for plane in field]
    return b"".join(parts)


def rest_of_base(base: bytes, runs: Sequence[Run]) -> bytes:
    """The rest of the base range, given the runs of a frame."""
    return rest(base, [(run.base_offset, run) for run in runs if run.base_offset is not None])


def raw(run: Run, data: bytes, offset: int, first: int, last: int) -> Bytes:
    """Blocks [first, last) of a run that lies at `offset` of `data`, (blocks, bytes)."""
    size = run.layout.bytes
    found: NDArray[np.uint8] = np.frombuffer(data, np.uint8, (last - first) * size, offset + first * size)
    return found.reshape(-1, size)


def planes(run: Run, data: bytes, offset: int, first: int, last: int) -> Planes:
    """The fields of scales of blocks [first, last) of a run that lies at `offset` of `data`."""
    return run.layout.split(raw(run, data, offset, first, last))[0]


def planes_of_rest(run: Run, data: bytes, offset: int, first: int, last: int) -> Planes:
    """The same from a rest, where the run's fields begin at `offset`."""
    found = []
    for field in run.layout.fields:
        values = np.frombuffer(data, np.uint8, (last - first) * field.width, offset + first * field.width)
        _check(field.bits >= 8 or not (values >> np.uint8(field.bits)).any(), "a scale has more bits than it may")
        found.append(values.reshape(-1, field.width))
        offset += run.count * field.width
    return found


def _check(condition: bool, complaint: str) -> None:
    if not condition:
        raise FormatError(f"a frame of blocks is malformed: {complaint}.")
