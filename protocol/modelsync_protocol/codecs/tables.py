"""The frequency tables of an object's header: groups of contexts, each context with one static 12-bit table. No I/O.

FORMAT.md §tables. Frequencies travel as one-byte floats (three bits under the leading one); what their sum lacks of
4,096 or has too much goes to the most frequent symbol.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.native.core import packed_slots
from modelsync_protocol.wire import Reader, write_varint

PROBABILITY_BITS = 12
TOTAL = 1 << PROBABILITY_BITS
MAX_CONTEXTS = 120
MAX_GROUPS = 32
MAX_TABLES = 255
"""All groups together: bounds the decoder's tables to 5 MiB."""

EXTENDED = b"\0"
"""First byte of tables that more follows than frequencies (FORMAT.md §7): those begin with the number of groups."""

_MINOR_BITS = 3
CODE_VALUES: tuple[int, ...] = (
    0,
    *range(1, 8),
    *((8 + minor) << shift for shift in range(10) for minor in range(8)),
)[: 1 + 7 + 73]
"""The frequency that each code stands for: 0 to 7 exactly, then eight steps an octave up to 4,096."""


_VALUES = np.array(CODE_VALUES, np.int32)


@dataclass(frozen=True, slots=True)
class Tables:
    """Decoding tables of all groups."""

    contexts: tuple[NDArray[np.uint8], ...]
    """Per group: context (0 to 119) → table."""

    rows: NDArray[np.int32]
    """Per table 256 frequencies, sum 4,096."""

    _slots: list[tuple[NDArray[np.uint8], NDArray[np.uint32]]] = field(default_factory=list, compare=False)
    _packed: list[NDArray[np.uint32]] = field(default_factory=list, compare=False)

    def slots(self) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """table · 4096 + slot → symbol; → frequency, and from bit 13 on the slot's distance from the symbol's first.

        Megabytes, so made when they are asked for, and kept.
        """
        if not self._slots:
            symbols = np.empty((len(self.rows), TOTAL), np.uint8)
            steps = np.empty((len(self.rows), TOTAL), np.uint32)
            for index, row in enumerate(self.rows):
                symbols[index], distances, repeated = _laid_out(row)
                steps[index] = repeated | (distances << np.uint32(13))
            self._slots.append((symbols.reshape(-1), steps.reshape(-1)))
        return self._slots[0]

    def packed(self) -> NDArray[np.uint32]:
        """The same in one word a slot, as native.core.Core.rans_decode takes it."""
        if not self._packed:
            words = np.empty((len(self.rows), TOTAL), np.uint32)
            for index, row in enumerate(self.rows):
                words[index] = packed_slots(*_laid_out(row))
            self._packed.append(words.reshape(-1))
        return self._packed[0]


@dataclass(frozen=True, slots=True)
class Group:
    """Tables for one kind of segments: where each table's contexts begin, and its codes (n × 256, 0: no symbol)."""

    starts: tuple[int, ...]
    codes: NDArray[np.uint8]


def frequencies(codes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The 256 frequencies, sum 4,096, that 256 codes stand for; FormatError if they can't."""
    row = _VALUES[codes]
    main = int(np.argmax(row))
    row[main] += TOTAL - int(row.sum())
    if row[main] < 1:
        raise FormatError("the header's tables hold frequencies that do not add up.")
    return row


def write(groups: list[Group]) -> bytes:
    """Encode groups; no groups make no bytes."""
    if not groups:
        return b""
    out = bytearray()
    write_varint(out, len(groups))
    for group in groups:
        write_varint(out, len(group.starts))
        for before, start in pairwise(group.starts):
            write_varint(out, start - before)
        for row in group.codes:
            present = np.flatnonzero(row)
            low, high = int(present[0]), int(present[-1])
            out += bytes((low, high)) + row[low : high + 1].tobytes()
    return bytes(out)


def quantised(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Codes (256) whose frequencies cost the counted symbols (not all zero) about the fewest bits."""
    values = _VALUES.astype(np.float64)
    present = counts > 0
    low, high = 0.0, 4.0
    best, least = present.astype(np.uint8), float("inf")
    # The scale whose rounded frequencies sum to 4,096 as nearly as can be.
    for _ in range(24):
        scale = (low + high) / 2
        wanted = np.maximum(counts * (TOTAL * scale / float(counts.sum())), 1.0)
        upper = np.searchsorted(values, wanted).clip(1, len(values) - 1)
        nearer = np.where(wanted - values[upper - 1] < values[upper] - wanted, upper - 1, upper)
        codes = np.where(present, np.maximum(nearer, 1), 0).astype(np.uint8)
        spare = TOTAL - int(_VALUES[codes].sum())
        if int(_VALUES[codes].max()) + spare >= 1:
            bits = -float((counts[present] * np.log2(frequencies(codes)[present])).sum())
            if bits < least:
                best, least = codes, bits
        if spare == 0:
            break
        low, high = (scale, high) if spare > 0 else (low, scale)
    return best


@lru_cache(maxsize=1)
def read(data: bytes) -> Tables:
    """Decode tables; FormatError for anything malformed. The last result is kept: all frames of an object share it."""
    groups, rows = _read_rows(data)
    return Tables(tuple(groups), np.array(rows, np.int32).reshape(-1, 256))


def _laid_out(row: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint32]]:
    """Of each slot of a table: symbol, distance from the symbol's first slot, frequency."""
    starts = (np.cumsum(row) - row).astype(np.uint32)
    distances = np.arange(TOTAL, dtype=np.uint32) - np.repeat(starts, row)
    return np.repeat(np.arange(256, dtype=np.uint8), row), distances, np.repeat(row.astype(np.uint32), row)


def split(data: bytes) -> tuple[bytes, Reader]:
    """The frequency tables alone, and a reader of what follows them."""
    reader = Reader(data, "the header's tables")
    if not data.startswith(EXTENDED):
        return data, Reader(b"", "the header's tables")
    reader.take(len(EXTENDED))
    return bytes(reader.take(reader.varint(len(data)))), reader


def _read_rows(shared: bytes) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.int32]]]:
    data, _ = split(shared)
    reader = Reader(data, "the header's tables")
    groups: list[NDArray[np.uint8]] = []
    rows: list[NDArray[np.int32]] = []
    for _ in range(reader.varint(MAX_GROUPS) if data else 0):
        count = reader.varint(MAX_CONTEXTS)
        widths = [reader.varint(MAX_CONTEXTS) for _ in range(count - 1)]
        if count == 0 or len(rows) + count > MAX_TABLES or sum(widths) >= MAX_CONTEXTS or 0 in widths:
            raise FormatError("the header's tables have contexts that do not add up.")
        widths.append(MAX_CONTEXTS - sum(widths))
        groups.append(np.repeat(np.arange(len(rows), len(rows) + count, dtype=np.uint8), widths))
        for _ in range(count):
            low, high = reader.take(2)
            codes = np.frombuffer(reader.take(max(0, high + 1 - low)), np.uint8)
            if not len(codes) or int(codes.max()) >= len(_VALUES):
                raise FormatError("the header's tables hold a frequency that does not exist.")
            row = np.zeros(256, np.uint8)
            row[low : high + 1] = codes
            rows.append(frequencies(row))
    reader.end()
    return groups, rows
