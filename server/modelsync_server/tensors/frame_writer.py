"""Writes the payload of a tensor frame from its segments (`modelsync_protocol.codecs.tensor_frame` reads it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import segments, zstd
from modelsync_protocol.codecs.segments import Coded, Gap, Head, Segment
from modelsync_protocol.codecs.tensor_frame import skeleton
from modelsync_protocol.native.writer import ROWS
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

    steps: NDArray[np.uint32]
    """(row · 256 + symbol) → frequency, and first slot · 2^16; of ROWS rows."""

    bits: NDArray[np.float32]
    """(row · 256 + symbol) → what it costs; of as many."""

    @classmethod
    def of(cls, models: Sequence[Model]) -> Coding:
        """Join models."""
        counts = [len(model.bits) for model in models]
        rows = tuple(int(n) for n in np.cumsum([0, *counts])[:-1])
        steps, bits = np.zeros((ROWS, 256), np.uint32), np.full((ROWS, 256), np.inf, np.float32)
        for first, count, model in zip(rows, counts, models, strict=True):
            steps[first : first + count] = model.frequencies.astype(np.uint32) | model.starts << np.uint32(16)
            bits[first : first + count] = model.bits
        return cls(tuple(models), rows, steps.reshape(-1), bits.reshape(-1))

    def rows_of(self, group: int, contexts: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Each context's row."""
        chosen = self.models[group].choose + np.uint8(self.rows[group])
        return chosen.take(contexts, mode="clip")

    def costs(self, group: int, found: symbol_writer.Symbols, most: float = np.inf) -> NDArray[np.float32]:
        """Bits that each symbol takes, at most `most`, with the raw ones behind it."""
        prices = np.minimum(self.bits, np.float32(most)).reshape(ROWS, 256) + found.raw.astype(np.float32)
        return symbol_writer.costs(self.rows_of(group, found.contexts), found.symbols, prices.reshape(-1))


def write(parts: Sequence[Segment], target: bytes, base: bytes, prefix: bytes, coding: Coding | None) -> bytes:
    """Return the payload for `target`, tiled by `parts` (base offsets are into `base`)."""
    rows: list[NDArray[np.uint8]] = []
    symbols: list[NDArray[np.uint8]] = []
    fields = rans_writer.Fields(len(target))
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
            found = symbol_writer.symbols_of(segment, new, old, fields)
            rows.append(coding.rows_of(segment.group, found.contexts))
            symbols.append(found.symbols)
        position += segment.length
    if not rows or coding is None:
        return segments.write(Head(tuple(parts), 0, 0)) + _gaps(parts, gaps, base, prefix)
    chosen, joined, raw = np.concatenate(rows), np.concatenate(symbols), fields.packed()
    cells = symbol_writer.counted(chosen, joined).reshape(-1)
    used = np.flatnonzero(cells)
    bits = float((coding.bits[used] * cells[used]).sum(dtype=np.float64))
    lane_bits = _lane_bits(len(joined), bits / 8 + len(raw))
    reserve = 2 << lane_bits
    seeds = np.frombuffer(raw[:reserve].ljust(reserve, b"\0"), "<u2")
    states, words = rans_writer.encode_rows(chosen, joined, coding.steps, seeds)
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
