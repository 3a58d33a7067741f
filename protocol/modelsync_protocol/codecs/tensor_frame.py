"""Decodes the payloads of encodings 4 and 5: segments of tensors in rANS symbols and raw bits. No I/O here.

FORMAT.md §tensor-frames. The output buffer holds the predictions first and is then corrected in place, block by
block; symbols replace their tables' numbers: beside output and base a decoder needs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.codecs import models, numerals, rans, segments, tables, zstd
from modelsync_protocol.codecs.numerals import Unsigned
from modelsync_protocol.codecs.segments import Coded, Gap, Head, Mode, Predictor, Same
from modelsync_protocol.codecs.symbols import DELTA, VALUE_ESCAPE, VALUE_TOP_BITS, VALUE_ZERO
from modelsync_protocol.errors import FormatError
from modelsync_protocol.native.core import Letters, Segments, core, letters
from modelsync_protocol.native.room import ROOM
from modelsync_protocol.wire import Reader

_BLOCK = 1 << 14
"""Elements worked on at a time."""

MAX_SKELETON_BYTES = caps.MIB
"""How much of the base between the tensors is dictionary for the frame's bytes between tensors."""


def decode(
    payload: bytes | memoryview,
    length: int,
    base: bytes | bytearray,
    prefix: bytes,
    shared: bytes,
    adapt: Callable[[Head], Head] | None = None,
) -> bytes | bytearray:
    """See codecs.port.Encoding.decode; `shared` are the header's tables, `adapt` says what else segments lean on.

    A bytearray for a base is given away: a frame that lies over its base is built in the base's own memory.
    """
    if length > caps.MAX_FRAME_BYTES:
        raise FormatError(f"a frame of {length} decoded bytes is larger than any allowed.")
    reader = Reader(payload, "a tensor frame")
    head = segments.read(reader, length, len(base))
    head = head if adapt is None else adapt(head)
    gaps = _gaps(reader, head, base, prefix)
    in_place = isinstance(base, bytearray) and _tile_alike(head, length, len(base))
    out = base if in_place and isinstance(base, bytearray) else bytearray(length)
    coded = list(_coded(head))
    if coded:
        groups = tables.read(shared)
        selectors = ROOM.symbols(sum(segment.count for _, segment in coded))
        as_core = _predict(coded, base, out, selectors, groups)
        lanes = 1 << head.lane_bits
        states = np.frombuffer(reader.take(4 * lanes), "<u4")
        words = np.frombuffer(reader.take(2 * head.words), "<u2")
        left = rans.decode_symbols(groups, selectors, states, words)
        rest = reader.take(len(payload) - reader.offset)
        raw = rans.RawBits(left.astype("<u2").tobytes(), rest, room=ROOM)
        _correct(coded, out, selectors, raw, groups, as_core)
        raw.end(7 if rest else 16 * lanes + 7)
    reader.end()
    _fill(head, base, gaps, out)
    return out  # a copy would be a frame more in memory


def _tile_alike(head: Head, length: int, base_length: int) -> bool:
    """Whether no element leans on another place of the base than its own in the frame, or on zero."""
    if length != base_length:
        return False
    position = 0
    for segment in head.segments:
        if not isinstance(segment, Gap):
            anew = isinstance(segment, Coded) and segment.mode is Mode.VALUE and segment.base_offset is None
            if not anew and segment.base_offset != position:
                return False
        position += segment.length
    return True


def skeleton(head_segments: tuple[segments.Segment, ...], base: bytes | bytearray) -> bytes:
    """The bytes of `base` that no segment leans on, at most MAX_SKELETON_BYTES of them."""
    taken = sorted(
        (s.base_offset, s.base_offset + s.length)
        for s in head_segments
        if not isinstance(s, Gap) and s.base_offset is not None
    )
    parts: list[bytes] = []
    room, position = MAX_SKELETON_BYTES, 0
    for begin, end in [*taken, (len(base), len(base))]:
        part = bytes(base[position : min(begin, position + room)]) if begin > position else b""
        parts.append(part)
        room -= len(part)
        position = max(position, end)
    return b"".join(parts)


def _gaps(reader: Reader, head: Head, base: bytes | bytearray, prefix: bytes) -> bytes:
    total = sum(s.length for s in head.segments if isinstance(s, Gap))
    if not total:
        return b""
    packed = bytes(reader.take(reader.varint(caps.MAX_PAYLOAD_BYTES)))
    return zstd.decompress(packed, total, skeleton(head.segments, base) + prefix)


def _coded(head: Head) -> Iterator[tuple[int, Coded]]:
    position = 0
    for segment in head.segments:
        if isinstance(segment, Coded):
            yield position, segment
        position += segment.length


def _blocks(segment: Coded) -> Iterator[tuple[int, int]]:
    for begin in range(0, segment.count, _BLOCK):
        yield begin, min(_BLOCK, segment.count - begin)


def _view(buffer: bytes | bytearray, segment: Coded, offset: int, begin: int, count: int) -> Unsigned:
    dtype = segment.numeral.unsigned_dtype
    return np.frombuffer(buffer, dtype, count, offset + begin * dtype.itemsize)


def _predict(
    coded: list[tuple[int, Coded]],
    base: bytes | bytearray,
    out: bytearray,
    selectors: NDArray[np.uint8],
    shared: tables.Tables,
) -> Segments | None:
    """Fill `selectors`, and `out` where there is a base; return what the core, if it did it, was given."""
    if any(segment.group >= len(shared.contexts) for _, segment in coded):
        raise FormatError("a tensor frame names tables that the header lacks.")
    compiled = core()
    if compiled is not None:
        as_core = _as_core(coded, shared)
        compiled.predict(as_core, base, out, selectors)
        return as_core
    done = 0
    for position, segment in coded:
        choose = shared.contexts[segment.group]
        for begin, count in _blocks(segment):
            source = None
            if segment.base_offset is not None:
                source = _view(base, segment, segment.base_offset, begin, count)
            prediction, context = models.modelled(segment, source, begin, count)
            if prediction is not None:
                _view(out, segment, position, begin, count)[:] = prediction
            choose.take(context, out=selectors[done : done + count], mode="clip")
            done += count
    return None


def _as_core(coded: list[tuple[int, Coded]], shared: tables.Tables) -> Segments:
    """The segments as the compiled core reads them. FormatError for factors out of bounds."""
    result = Segments()
    for position, segment in coded:
        add_as_core(result, segment, shared.contexts[segment.group], position, segment.base_offset)
    return result


def add_as_core(to: Segments, segment: Coded, choose: NDArray[np.uint8], place: int, base: int | None) -> None:
    """Add a segment at `place` that leans on what lies at `base` (None: on nothing); `choose`: tables by context.

    FormatError for factors out of bounds.
    """
    kind, factors, adapted = segment.numeral, segment.factors, segment.adapted
    exact = integers = product = None
    if factors is not None and kind.mantissa:
        exact = factors.values.astype(np.float64) * 2.0**-factors.precision
    elif factors is not None:
        integers = models.integer_map(factors)
    if adapted is not None and base is not None:
        product = (*adapted.product.parts(), adapted.first)
    to.add(
        (kind.width, kind.mantissa, kind.signed, segment.drop),
        kind.exponent_mask if kind.mantissa else 0,
        segment.mode,
        segment.level,
        (segment.count, segment.columns, segment.column),
        choose,
        segment.rows,
        segment.offsets,
        place,
        base,
        factors.predictor if factors is not None else Predictor.IDENTITY,
        exact,
        integers,
        product,
    )


def _correct(
    coded: list[tuple[int, Coded]],
    out: bytearray,
    symbols: NDArray[np.uint8],
    raw: rans.RawBits,
    shared: tables.Tables,
    as_core: Segments | None = None,
) -> None:
    compiled = core()
    if compiled is not None:
        as_core = as_core or _as_core(coded, shared)
        return raw.advance(compiled.correct(as_core, _delta(), symbols, out, raw.borrow()))
    done = 0
    for position, segment in coded:
        for begin, count in _blocks(segment):
            part = _view(out, segment, position, begin, count)
            chosen = symbols[done : done + count]
            if segment.mode is Mode.DELTA:
                part[:] = _apply_delta(segment, part, chosen, raw)
            elif segment.numeral.mantissa:
                level, _ = models.levels(segment, begin, count)
                part[:] = _float_values(segment, level, chosen, raw)
            else:
                part[:] = chosen
            done += count


@cache
def _delta() -> Letters:
    return letters(DELTA.lead, DELTA.raw, DELTA.negative, DELTA.sign_raw)


def _apply_delta(segment: Coded, prediction: Unsigned, symbols: NDArray[np.uint8], raw: rans.RawBits) -> Unsigned:
    kind = segment.numeral
    fields = raw.take(DELTA.raw[symbols])
    sign_raw = DELTA.sign_raw[symbols]
    negative = DELTA.negative[symbols] | (sign_raw & (fields & np.uint64(1)).astype(bool))
    fields >>= sign_raw.astype(np.uint64)
    fields |= DELTA.lead[symbols]
    magnitude = fields.astype(kind.unsigned_dtype)
    if kind.mantissa:
        negative ^= (prediction >> kind.unsigned_dtype.type(8 * kind.width - 1)).astype(bool)
    np.subtract(kind.unsigned_dtype.type(0), magnitude, out=magnitude, where=negative)
    magnitude += numerals.shortened(kind, prediction, segment.drop)
    return numerals.lengthened(kind, magnitude, segment.drop)


def _float_values(segment: Coded, level: NDArray[np.int32], symbols: NDArray[np.uint8], raw: rans.RawBits) -> Unsigned:
    kind = segment.numeral
    bits = 8 * kind.width
    below = kind.mantissa - VALUE_TOP_BITS
    counts = np.full(256, 1 + below - segment.drop, np.uint8)
    counts[VALUE_ZERO], counts[VALUE_ESCAPE] = 1, bits
    fields = raw.take(counts[symbols])
    sign = (fields & np.uint64(1)) << np.uint64(bits - 1)
    top = (level * np.int32(4) - symbols.astype(np.int32) + np.int32(1)).astype(np.int64).view(np.uint64)
    magnitude = ((top << np.uint64(below)) | (fields >> np.uint64(1) << np.uint64(segment.drop))) & np.uint64(
        (1 << (bits - 1)) - 1
    )
    magnitude[symbols == VALUE_ZERO] = 0
    magnitude |= sign
    np.copyto(magnitude, fields, where=symbols == VALUE_ESCAPE)
    return magnitude.astype(kind.unsigned_dtype)


def _fill(head: Head, base: bytes | bytearray, gaps: bytes, out: bytearray) -> None:
    position = used = 0
    for segment in head.segments:
        end = position + segment.length
        if isinstance(segment, Gap):
            out[position:end] = gaps[used : used + segment.length]
            used += segment.length
        elif isinstance(segment, Same) and out is not base:
            out[position:end] = memoryview(base)[segment.base_offset : segment.base_offset + segment.length]
        position = end
