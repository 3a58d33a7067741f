"""Writes the payload of a tensor frame from its segments (`modelsync_protocol.codecs.tensor_frame` reads it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import segments, zstd
from modelsync_protocol.codecs.segments import Coded, Gap, Head, Segment
from modelsync_protocol.codecs.tensor_frame import skeleton
from modelsync_protocol.wire import write_varint
from modelsync_server.tensors import rans_writer, symbol_writer
from modelsync_server.tensors.table_builder import Model

_FEW, _MANY = 64, 256
_MANY_FROM = 64 * 1024
"""Payloads (bytes, estimated) from here on get many lanes: each costs two bytes."""


@dataclass(frozen=True, slots=True)
class Coding:
    """All groups' tables, as rows of one array."""

    models: tuple[Model, ...]
    rows: tuple[int, ...]
    """Per group: its first row."""

    frequencies: NDArray[np.uint32]
    starts: NDArray[np.uint32]
    bits: NDArray[np.float32]
    """(row · 256 + symbol) → each."""

    @classmethod
    def of(cls, models: Sequence[Model]) -> Coding:
        """Join models."""
        counts = [len(model.bits) for model in models]
        rows = tuple(int(n) for n in np.cumsum([0, *counts])[:-1])
        return cls(
            tuple(models),
            rows,
            np.concatenate([m.frequencies for m in models]).astype(np.uint32).reshape(-1),
            np.concatenate([m.starts for m in models]).reshape(-1),
            np.concatenate([m.bits for m in models]).reshape(-1),
        )

    def places(self, group: int, found: symbol_writer.Symbols) -> NDArray[np.int32]:
        """Index into the flat arrays for each symbol."""
        rows = self.models[group].choose[found.contexts].astype(np.int32) + np.int32(self.rows[group])
        return rows * np.int32(256) + found.symbols


def write(parts: Sequence[Segment], target: bytes, base: bytes, prefix: bytes, coding: Coding | None) -> bytes:
    """Return the payload for `target`, tiled by `parts` (base offsets are into `base`)."""
    places: list[NDArray[np.int32]] = []
    counts: list[NDArray[np.uint8]] = []
    fields: list[NDArray[np.uint64]] = []
    gaps: list[bytes] = []
    position = 0
    for segment in parts:
        if isinstance(segment, Gap):
            gaps.append(target[position : position + segment.length])
        elif isinstance(segment, Coded):
            assert coding is not None
            dtype = segment.numeral.unsigned_dtype
            new = np.frombuffer(target, dtype, segment.count, position)
            at = segment.base_offset
            old = None if at is None else np.frombuffer(base, dtype, segment.count, at)
            found = symbol_writer.symbols_of(segment, new, old)
            places.append(coding.places(segment.group, found))
            counts.append(found.counts)
            fields.append(found.fields)
        position += segment.length
    if not places or coding is None:
        return segments.write(Head(tuple(parts), 0, 0)) + _gaps(parts, gaps, base, prefix)
    joined = np.concatenate(places)
    raw = rans_writer.pack_bits(np.concatenate(fields), np.concatenate(counts))
    lane_bits = _lane_bits(len(joined), float(coding.bits[joined].sum(dtype=np.float64)) / 8 + len(raw))
    reserve = 2 << lane_bits
    seeds = np.frombuffer(raw[:reserve].ljust(reserve, b"\0"), "<u2")
    states, words = rans_writer.encode_symbols(coding.frequencies[joined], coding.starts[joined], seeds)
    head = segments.write(Head(tuple(parts), lane_bits, len(words) // 2))
    return head + _gaps(parts, gaps, base, prefix) + states + words + raw[reserve:]


def _gaps(parts: Sequence[Segment], gaps: list[bytes], base: bytes, prefix: bytes) -> bytes:
    if not gaps:
        return b""
    packed = zstd.compress(b"".join(gaps), skeleton(tuple(parts), base) + prefix)
    out = bytearray()
    write_varint(out, len(packed))
    return bytes(out) + packed


def _lane_bits(count: int, payload: float) -> int:
    lanes = _MANY if payload >= _MANY_FROM else _FEW
    while lanes > 1 and (lanes * 64 > count or lanes * 100 > payload):
        lanes //= 2
    while count > lanes * (1 << 14):
        lanes *= 2
    return lanes.bit_length() - 1
