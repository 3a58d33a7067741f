"""The head of a tensor frame's payload: the segments that tile the frame, and their side data. No I/O here.

FORMAT.md §tensor-frames. Everything that a count here leads to is bounded by the frame's decoded length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.codecs import numerals, zstd
from modelsync_protocol.codecs.adapted import Adapted
from modelsync_protocol.codecs.numerals import Numeral
from modelsync_protocol.codecs.symbols import VALUE_TOP_BITS
from modelsync_protocol.codecs.tables import MAX_GROUPS
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_signed, write_varint

MAX_HEAD_BYTES = caps.MIB
"""Descriptors and side data of one frame, decoded, bytes."""

MAX_SEGMENTS = 1 << 14
"""Segments of one frame: bounds the decoder's time, as each costs some whatever its size."""

_MAX_LEVEL = 1 << 14
_MAX_PRECISION = 40
_HAS_ROWS, _HAS_COLUMNS, _PREDICTOR_SHIFT, _HAS_BASE, _DROPS = 4, 8, 4, 0x40, 0x80
_HAS_SIDE = _HAS_ROWS | _HAS_COLUMNS | 3 << _PREDICTOR_SHIFT


class Mode(IntEnum):
    """How a segment's bytes travel."""

    GAP = 0
    SAME = 1
    DELTA = 2
    VALUE = 3


class Predictor(IntEnum):
    """What a base's elements are multiplied with (8-bit integers: mapped by)."""

    IDENTITY = 0
    GLOBAL = 1
    ROW = 2
    COLUMN = 3


_MODES, _PREDICTORS = tuple(Mode), tuple(Predictor)


@dataclass(frozen=True, slots=True)
class Gap:
    """`length` bytes from the frame's zstd part."""

    length: int


@dataclass(frozen=True, slots=True)
class Same:
    """`length` bytes as they are at `base_offset` of the frame's base range."""

    length: int
    base_offset: int


@dataclass(frozen=True, slots=True)
class Factors:
    """A predictor's parameters: integers, to be divided by 2^precision; for 8-bit integers a second set (shifts)."""

    predictor: Predictor
    precision: int
    values: NDArray[np.int32]
    shift_precision: int = 0
    shifts: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Coded:
    """`count` elements of a tensor in rANS symbols: Mode.DELTA against the base (or zero), or Mode.VALUE.

    `columns` is the row length in elements, `column` where in a row the first element stands. `rows` and `offsets`
    are levels (half octaves) per row and per column, the latter beginning at the first element's column. The lowest
    `drop` bits of all elements are zero and do not travel. `adapted`: the base is changed first (encoding 6 alone).
    """

    mode: Mode
    numeral: Numeral
    group: int
    count: int
    base_offset: int | None
    columns: int
    column: int
    level: int
    rows: NDArray[np.uint8] | None = None
    offsets: NDArray[np.uint8] | None = None
    factors: Factors | None = None
    drop: int = 0
    adapted: Adapted | None = None

    @property
    def length(self) -> int:
        """Bytes."""
        return self.count * self.numeral.width

    @property
    def row_count(self) -> int:
        """Rows that the segment touches."""
        return row_count(self.count, self.columns, self.column)


Segment = Gap | Same | Coded


@dataclass(frozen=True, slots=True)
class Head:
    """The segments, the number of lanes (a power of two, as its exponent), and of refill words."""

    segments: tuple[Segment, ...]
    lane_bits: int
    words: int


def row_count(count: int, columns: int, column: int) -> int:
    """Rows touched by `count` elements from `column` of a row of `columns` on."""
    return -(-(column + count) // columns)


def factor_count(predictor: Predictor, count: int, columns: int, column: int) -> int:
    """How many factors a segment has."""
    if predictor is Predictor.ROW:
        return row_count(count, columns, column)
    return min(count, columns) if predictor is Predictor.COLUMN else int(predictor is Predictor.GLOBAL)


def write(head: Head) -> bytes:
    """Encode; the result is what `read` reads."""
    out = bytearray()
    side = bytearray()
    write_varint(out, head.lane_bits)
    write_varint(out, head.words)
    write_varint(out, len(head.segments))
    cursor = 0
    for segment in head.segments:
        if isinstance(segment, Coded):
            cursor = _write_coded(out, side, segment, cursor)
            continue
        out.append(Mode.GAP if isinstance(segment, Gap) else Mode.SAME)
        write_varint(out, segment.length)
        if isinstance(segment, Same):
            write_signed(out, segment.base_offset - cursor)
            cursor = segment.base_offset
        cursor += segment.length
    body = bytes(out + side)
    packed = zstd.compress(body, b"")
    stored = packed if len(packed) < len(body) else body
    front = bytearray()
    write_varint(front, len(body))
    write_varint(front, len(stored))
    return bytes(front) + stored


def _write_coded(out: bytearray, side: bytearray, segment: Coded, cursor: int) -> int:
    factors = segment.factors
    flags = segment.mode | (segment.rows is not None and _HAS_ROWS) | (segment.offsets is not None and _HAS_COLUMNS)
    flags |= (factors.predictor if factors else 0) << _PREDICTOR_SHIFT
    out.append(flags | (segment.base_offset is not None and _HAS_BASE) | (segment.drop and _DROPS))
    out.append(segment.numeral.code)
    out.append(segment.group)
    write_varint(out, segment.count)
    if segment.base_offset is not None:
        write_signed(out, segment.base_offset - cursor)
        cursor = segment.base_offset
    write_varint(out, segment.columns)
    write_varint(out, segment.column)
    write_signed(out, segment.level)
    if segment.drop:
        write_varint(out, segment.drop)
    if segment.rows is not None:
        side += segment.rows.tobytes()
    if segment.offsets is not None:
        side += segment.offsets.tobytes()
    if factors is not None:
        _write_integers(out, side, factors.precision, factors.values)
        if factors.shifts is not None:
            _write_integers(out, side, factors.shift_precision, factors.shifts)
    return cursor + segment.length


def _write_integers(out: bytearray, side: bytearray, precision: int, values: NDArray[np.int32]) -> None:
    lowest = int(values.min())
    spread = (values.astype(np.int64) - lowest).astype("<u4")
    width = max(1, -(-int(spread.max()).bit_length() // 8))
    write_varint(out, precision)
    write_signed(out, lowest)
    write_varint(out, width)
    side += spread.view(np.uint8).reshape(-1, 4)[:, :width].T.tobytes()


def read(reader: Reader, length: int, base_length: int) -> Head:
    """Read the head of a payload for a frame of `length` decoded bytes that leans on `base_length` bytes.

    Raises FormatError if segments don't tile the frame, reach beyond the base, or are inconsistent.
    """
    size = reader.varint(MAX_HEAD_BYTES)
    stored = bytes(reader.take(reader.varint(size)))
    inner = Reader(stored if len(stored) == size else zstd.decompress(stored, size, b""), "a frame's head")
    lane_bits, words = inner.varint(12), inner.varint(caps.MAX_PAYLOAD_BYTES // 2)
    unfinished: list[tuple[Segment, Sequence[tuple[Predictor, int, int, int]], int]] = []
    position = cursor = 0
    for _ in range(inner.varint(MAX_SEGMENTS)):
        segment, plan, flags = _read_descriptor(inner, length - position, base_length, cursor)
        unfinished.append((segment, plan, flags))
        position += segment.length
        if not isinstance(segment, Gap):
            cursor = cursor if (offset := segment.base_offset) is None else offset
        cursor += segment.length
        _check(segment.length > 0 and position <= length, "its segments do not fit")
    _check(position == length, "its segments do not fill it")
    segments = tuple(_read_side(inner, segment, plan, flags) for segment, plan, flags in unfinished)
    inner.end()
    return Head(segments, lane_bits, words)


def _read_descriptor(
    reader: Reader, room: int, base_length: int, cursor: int
) -> tuple[Segment, Sequence[tuple[Predictor, int, int, int]], int]:
    flags = reader.take(1)[0]
    mode = _MODES[flags & 3]
    if mode is Mode.GAP:
        return Gap(reader.varint(room)), (), flags
    if mode is Mode.SAME:
        size = reader.varint(room)
        return Same(size, _base_offset(reader, cursor, size, base_length)), (), flags
    kind = numerals.numeral(reader.take(1)[0])
    group = reader.take(1)[0]
    _check(group < MAX_GROUPS, "it names tables that are not there")
    count = reader.varint(room // kind.width)
    base = _base_offset(reader, cursor, count * kind.width, base_length) if flags & _HAS_BASE else None
    columns = reader.varint(caps.MAX_ARTIFACT_BYTES)
    _check(count > 0 and columns > 0, "a segment is empty")
    column = reader.varint(columns - 1)
    level = reader.signed(_MAX_LEVEL)
    drop = _read_drop(reader, kind, mode) if flags & _DROPS else 0
    predictor = _PREDICTORS[(flags >> _PREDICTOR_SHIFT) & 3]
    plans = []
    if predictor is not Predictor.IDENTITY:
        _check(base is not None and mode is Mode.DELTA, "a segment scales a base that it lacks")
        _check(kind.mantissa > 0 or kind.width == 1, "a segment scales wide integers")
        for _ in range(1 if kind.mantissa else 2):
            precision, lowest = reader.varint(_MAX_PRECISION), reader.signed(1 << 31)
            width = reader.varint(4)
            _check(width > 0, "a segment has factors without width")
            plans.append((predictor, precision, lowest, width))
    return Coded(mode, kind, group, count, base, columns, column, level, drop=drop), plans, flags


def _read_drop(reader: Reader, kind: Numeral, mode: Mode) -> int:
    drop = reader.varint(8 * kind.width - 1)
    most = kind.mantissa - VALUE_TOP_BITS if mode is Mode.VALUE else 8 * kind.width - 1
    _check(0 < drop <= most, "a segment drops more bits than it has")
    return drop


def _base_offset(reader: Reader, cursor: int, size: int, base_length: int) -> int:
    offset = cursor + reader.signed(caps.MAX_BASE_BYTES + caps.MAX_FRAME_BYTES)
    _check(0 <= offset <= base_length - size, "a segment reaches beyond the base range")
    return offset


def _read_side(
    reader: Reader, segment: Segment, plans: Sequence[tuple[Predictor, int, int, int]], flags: int
) -> Segment:
    if not isinstance(segment, Coded) or not flags & _HAS_SIDE:
        return segment
    rows = offsets = factors = None
    if flags & _HAS_ROWS:
        rows = np.frombuffer(reader.take(segment.row_count), np.uint8)
    if flags & _HAS_COLUMNS:
        offsets = np.frombuffer(reader.take(min(segment.count, segment.columns)), np.uint8)
    if plans:
        sets = []
        for predictor, precision, lowest, width in plans:
            size = factor_count(predictor, segment.count, segment.columns, segment.column)
            planes = np.frombuffer(reader.take(size * width), np.uint8).reshape(width, size)
            spread = np.zeros((size, 8), np.uint8)
            spread[:, :width] = planes.T
            values = spread.view("<i8").reshape(-1) + np.int64(lowest)
            _check(int(np.abs(values).max()) < 1 << 31, "a factor is out of range")
            sets.append((precision, values.astype(np.int32)))
        factors = Factors(plans[0][0], *sets[0], *(sets[1] if len(sets) > 1 else ()))
    s = segment  # not by `replace`, which looks at all fields anew each time
    return Coded(
        s.mode, s.numeral, s.group, s.count, s.base_offset, s.columns, s.column, s.level, rows, offsets, factors, s.drop
    )


def _check(condition: bool, complaint: str) -> None:
    if not condition:
        raise FormatError(f"a tensor frame is malformed: {complaint}.")
