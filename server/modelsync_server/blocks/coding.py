"""Tables for a target's frames of blocks, made of what stands in them, and the frames' payloads. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.blocks import models, runs
from modelsync_protocol.blocks.layouts import LAYOUTS
from modelsync_protocol.codecs import tables
from modelsync_protocol.wire import write_varint
from modelsync_server.blocks import frames
from modelsync_server.blocks.frames import Contents, GroupKey, Layouted
from modelsync_server.encode.encoder import Source
from modelsync_server.tensors import frame_writer, rans_writer, table_builder
from modelsync_server.tensors.frame_writer import Coding
from modelsync_server.tensors.table_builder import Model

CELLS = tables.MAX_CONTEXTS * 256
_LANES, _MOST_LANES = 4, 256
_BYTES_PER_LANE = 512
"""A lane costs two bytes."""

_SYMBOLS_PER_LANE = 1 << 15

Counts = dict[GroupKey, NDArray[np.int64]]
"""Per kind of run, (group, context, symbol) flat."""


@dataclass(frozen=True, slots=True)
class BlockCoding:
    """All tables of a target: what encoding 4 needs, and those of quants."""

    coding: Coding
    shared: bytes
    first: Mapping[GroupKey, int]
    """The first group of each kind of run."""


def group_count(key: GroupKey) -> int:
    """Groups of tables that a kind of run needs."""
    return models.table_groups(LAYOUTS[key[0]], key[1])


def counted(layouted: Sequence[Layouted], base: memoryview, target: Source, pool: Executor) -> Counts:
    """What symbols stand in which contexts of all frames."""
    total: Counts = {}
    for found in pool.map(lambda frame: frame_counts(frame, Contents.of(frame, target.stream, base)), layouted):
        for key, counts in found.items():
            total[key] = total[key] + counts if key in total else counts.astype(np.int64)
    return total


def frame_counts(frame: Layouted, contents: Contents) -> Counts:
    """The same of one frame."""
    total: Counts = {}
    for part in frames.quants(frame, contents):
        size = group_count(part.key) * CELLS
        if part.key not in total:
            total[part.key] = np.zeros(size, np.int64)
        total[part.key] += np.bincount(frames.cells(part), minlength=size)
    return total


def with_tables(counts: Counts, others: Sequence[Model]) -> BlockCoding:
    """Tables for quants, beside those that scales and all else have."""
    first: dict[GroupKey, int] = {}
    cells: list[NDArray[np.int64]] = []
    for key in sorted(counts):
        first[key] = len(others) + len(cells)
        cells += list(counts[key].reshape(-1, tables.MAX_CONTEXTS, 256))
    for rows in cells:
        if not rows.any():
            rows[0, 0] = 1
    room = tables.MAX_TABLES - sum(len(model.bits) for model in others)
    limit = tables.MAX_CONTEXTS
    made = [table_builder.build(rows, limit) for rows in cells]
    while sum(len(model.bits) for model in made) > room:
        limit = min(limit * 3 // 4, max(len(model.bits) for model in made) - 1)
        made = [
            table_builder.build(rows, limit) if len(model.bits) > limit else model
            for rows, model in zip(cells, made, strict=True)
        ]
    everything = [*others, *made]
    return BlockCoding(Coding.of(everything), tables.write([model.group for model in everything]), first)


def payload(frame: Layouted, target: memoryview, base: memoryview, known: BlockCoding) -> bytes:
    """The payload of a frame whose symbols the tables were made from; without runs it is one of encoding 4."""
    contents = Contents.of(frame, target, base)
    inner = frame_writer.write(frame.segments, contents.rest, contents.rest_of_base, b"", known.coding)
    if not frame.runs:
        return inner
    found = [replace(placed.run, group=known.first[placed.key]) for placed in frame.runs]
    out = bytearray(runs.write(found))
    write_varint(out, len(inner))
    out += inner
    coding = known.coding
    places = np.concatenate([_places(part, known) for part in frames.quants(frame, contents)])
    lane_bits = _lane_bits(len(places), float(coding.bits[places].sum(dtype=np.float64)) / 8)
    seeds, steps = np.zeros(1 << lane_bits, np.uint16), coding.steps[places]
    states, words = rans_writer.encode_symbols(steps & np.uint32(0xFFFF), steps >> np.uint32(16), seeds)
    write_varint(out, lane_bits)
    write_varint(out, len(words) // 2)
    return bytes(out) + states + words


def _places(part: frames.Quants, known: BlockCoding) -> NDArray[np.int32]:
    """Index into the flat tables for each quant."""
    coding, first = known.coding, known.first[part.key]
    count = group_count(part.key)
    choose = np.stack([coding.models[first + n].choose.astype(np.int32) + coding.rows[first + n] for n in range(count)])
    result: NDArray[np.int32] = choose[part.groups, part.contexts] * np.int32(256) + part.symbols
    return result


def _lane_bits(count: int, size: float) -> int:
    lanes = _MOST_LANES
    while lanes > _LANES and lanes * _BYTES_PER_LANE > size:
        lanes //= 2
    while count > lanes * _SYMBOLS_PER_LANE:
        lanes *= 2
    return lanes.bit_length() - 1


def bits_of(counts: NDArray[np.int64]) -> float:
    """What counted symbols cost with tables of their own, bits."""
    return table_builder.entropy_bits(counts.reshape(-1, 256)) + 4.5 * int((counts > 0).sum())
