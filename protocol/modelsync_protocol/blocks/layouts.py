"""Types of blocks, each with its scales apart from its quants, and back to the very bytes. No I/O here.

A block holds `elements` quants of `bits` bits, in sub-blocks that share a scale a and an offset b:
weight = a · (code − zero) − b. Types and names are ggml's (ggml-common.h, ggml-quants.c).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import Numeral

NIBBLES = 128
"""Code of packed pairs of 4-bit quants whose scales stand elsewhere, or nowhere."""

Bytes = NDArray[np.uint8]
"""(blocks, bytes) or (blocks, elements)."""

Planes = list[Bytes]
"""What is not quants, field by field: (blocks, bytes of the field's values) each."""

Scales = tuple[NDArray[np.int64], NDArray[np.int64]]
"""a and b · 2^24, (blocks, sub-blocks) each; below 2^48 in magnitude."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of scales: its element type, values a block, and bits of a value that a block has room for."""

    numeral: Numeral
    count: int
    bits: int

    @property
    def width(self) -> int:
        """Bytes a block."""
        return self.count * self.numeral.width


@dataclass(frozen=True, slots=True)
class Layout:
    """A type of blocks; `code` is its number in payloads: ggml's own, or from 128 on ours."""

    code: int
    name: str
    elements: int
    bytes: int
    sub_blocks: int
    bits: int
    zero: int
    affine: bool
    """Whether sub-blocks have an offset b."""
    fields: tuple[Field, ...]
    split: Callable[[Bytes], tuple[Planes, Bytes]]
    """(blocks, bytes) → planes, and codes (blocks, elements)."""
    join: Callable[[Sequence[Bytes], Bytes], Bytes]
    scales: Callable[[Sequence[Bytes]], Scales]

    @property
    def plane_bytes(self) -> int:
        """Bytes of all fields of scales, a block."""
        return sum(field.width for field in self.fields)


def halves(plane: Bytes) -> NDArray[np.int64]:
    """binary16 as integers, in units of 2^-24, (blocks, values); infinities and NaN as if they were numbers."""
    bits = np.ascontiguousarray(plane).view("<u2").astype(np.int64)
    exponent = (bits >> np.int64(10)) & np.int64(31)
    mantissa = (bits & np.int64(1023)) | np.where(exponent > 0, np.int64(1024), np.int64(0))
    magnitude = mantissa << np.maximum(exponent - np.int64(1), np.int64(0))
    return np.where(bits >> np.int64(15), -magnitude, magnitude)


def _u8(plane: Bytes) -> NDArray[np.int64]:
    return plane.astype(np.int64)


def _nothing(like: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.zeros_like(like)


def _low_high(packed: Bytes) -> Bytes:
    """Bytes (n, k) → low nibbles, then high ones (n, 2k)."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], 1)


def _packed(codes: Bytes) -> Bytes:
    """Undo `_low_high`; bits above the fourth are dropped."""
    half = codes.shape[1] // 2
    return (codes[:, :half] & np.uint8(15)) | ((codes[:, half:] & np.uint8(15)) << np.uint8(4))


def _spread(packed: Bytes, bits: int) -> Bytes:
    """Bytes (n, k) → their fields of `bits` bits, all lowest ones first, (n, 8 / bits · k)."""
    mask = np.uint8((1 << bits) - 1)
    return np.concatenate([(packed >> np.uint8(shift)) & mask for shift in range(0, 8, bits)], 1)


def _gathered(fields: Bytes, bits: int) -> Bytes:
    """Undo `_spread`."""
    parts = np.split(fields, 8 // bits, 1)
    out = np.zeros_like(parts[0])
    for number, part in enumerate(parts):
        out |= part << np.uint8(number * bits)
    return out


def _by_halves(packed: Bytes, function: Callable[[Bytes], Bytes]) -> Bytes:
    """Apply a function to both halves of each row: what blocks of 256 do with each 128 elements."""
    middle = packed.shape[1] // 2
    return np.concatenate([function(packed[:, :middle]), function(packed[:, middle:])], 1)


def _simple(code: int, name: str, bits: int, *, affine: bool) -> Layout:
    """q4_0, q4_1, q5_0, q5_1: d and, if affine, m; a fifth bit apart; 32 nibbles."""
    front = 4 if affine else 2
    high = 4 if bits == 5 else 0

    def split(raw: Bytes) -> tuple[Planes, Bytes]:
        codes = _low_high(raw[:, front + high :])
        if high:
            codes |= np.unpackbits(raw[:, front : front + 4], axis=1, bitorder="little") << np.uint8(4)
        return [raw[:, place : place + 2] for place in range(0, front, 2)], codes

    def join(planes: Sequence[Bytes], codes: Bytes) -> Bytes:
        fifth = [np.packbits(codes >> np.uint8(4), axis=1, bitorder="little")] if high else []
        return np.concatenate([*planes, *fifth, _packed(codes)], 1)

    def scales(planes: Sequence[Bytes]) -> Scales:
        a = halves(planes[0])
        return a, -halves(planes[1]) if affine else _nothing(a)

    fields = (Field(numerals.F16, 1, 16),) * (front // 2)
    zero = 0 if affine else 1 << (bits - 1)
    return Layout(code, name, 32, front + high + 16, 1, bits, zero, affine, fields, split, join, scales)


def _split_q8_0(raw: Bytes) -> tuple[Planes, Bytes]:
    return [raw[:, :2]], raw[:, 2:] ^ np.uint8(128)


def _join_q8_0(planes: Sequence[Bytes], codes: Bytes) -> Bytes:
    return np.concatenate([planes[0], codes ^ np.uint8(128)], 1)


def _scales_q8_0(planes: Sequence[Bytes]) -> Scales:
    a = halves(planes[0])
    return a, _nothing(a)


def _split_q2(raw: Bytes) -> tuple[Planes, Bytes]:
    low = _by_halves(raw[:, 16:80], lambda part: _spread(part, 2))
    return [raw[:, 80:82], raw[:, 82:84], _spread(raw[:, :16], 4)], low


def _join_q2(planes: Sequence[Bytes], codes: Bytes) -> Bytes:
    low = _by_halves(codes, lambda part: _gathered(part, 2))
    return np.concatenate([_gathered(planes[2], 4), low, planes[0], planes[1]], 1)


def _scales_q2(planes: Sequence[Bytes]) -> Scales:
    fine = _u8(planes[2])
    return halves(planes[0]) * fine[:, :16], halves(planes[1]) * fine[:, 16:]


def _split_q3(raw: Bytes) -> tuple[Planes, Bytes]:
    codes = _by_halves(raw[:, 32:96], lambda part: _spread(part, 2))
    codes |= _spread(raw[:, :32], 1) << np.uint8(2)
    fine = _low_high(raw[:, 96:104]) | (_spread(raw[:, 104:108], 2) << np.uint8(4))
    return [raw[:, 108:110], fine], codes


def _join_q3(planes: Sequence[Bytes], codes: Bytes) -> Bytes:
    low = _by_halves(codes & np.uint8(3), lambda part: _gathered(part, 2))
    high = _gathered(codes >> np.uint8(2), 1)
    fine = [_packed(planes[1]), _gathered(planes[1] >> np.uint8(4), 2)]
    return np.concatenate([high, low, *fine, planes[0]], 1)


def _scales_q3(planes: Sequence[Bytes]) -> Scales:
    a = halves(planes[0]) * (_u8(planes[1]) - np.int64(32))
    return a, _nothing(a)


def _fine_k4(packed: Bytes) -> Bytes:
    """12 bytes → 8 scales and 8 offsets of six bits."""
    low, middle, last = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    six, two = np.uint8(63), np.uint8(6)
    high = (low >> two) << np.uint8(4), (middle >> two) << np.uint8(4)
    return np.concatenate(
        [low & six, (last & np.uint8(15)) | high[0], middle & six, (last >> np.uint8(4)) | high[1]], 1
    )


def _packed_k4(fine: Bytes) -> Bytes:
    low, high, offset, above = (fine[:, place : place + 4] for place in range(0, 16, 4))
    two, four = np.uint8(6), np.uint8(4)
    return np.concatenate(
        [
            low | (high >> four << two),
            offset | (above >> four << two),
            (high & np.uint8(15)) | ((above & np.uint8(15)) << four),
        ],
        1,
    )


def _nibbles_k4(packed: Bytes) -> Bytes:
    """128 bytes → 256 nibbles: of each 32 bytes first the low ones, then the high ones."""
    rows = packed.reshape(-1, 4, 1, 32)
    nibbles: Bytes = np.concatenate([rows & np.uint8(15), rows >> np.uint8(4)], 2)
    return nibbles.reshape(-1, 256)


def _packed_nibbles_k4(codes: Bytes) -> Bytes:
    rows = (codes & np.uint8(15)).reshape(-1, 4, 2, 32)
    packed: Bytes = (rows[:, :, 0] | (rows[:, :, 1] << np.uint8(4))).reshape(-1, 128)
    return packed


def _split_q4(raw: Bytes) -> tuple[Planes, Bytes]:
    return [raw[:, :2], raw[:, 2:4], _fine_k4(raw[:, 4:16])], _nibbles_k4(np.ascontiguousarray(raw[:, 16:]))


def _join_q4(planes: Sequence[Bytes], codes: Bytes) -> Bytes:
    return np.concatenate([planes[0], planes[1], _packed_k4(planes[2]), _packed_nibbles_k4(codes)], 1)


def _split_q5(raw: Bytes) -> tuple[Planes, Bytes]:
    codes = _nibbles_k4(np.ascontiguousarray(raw[:, 48:])) | (_spread(raw[:, 16:48], 1) << np.uint8(4))
    return [raw[:, :2], raw[:, 2:4], _fine_k4(raw[:, 4:16])], codes


def _join_q5(planes: Sequence[Bytes], codes: Bytes) -> Bytes:
    high = _gathered(codes >> np.uint8(4), 1)
    return np.concatenate([planes[0], planes[1], _packed_k4(planes[2]), high, _packed_nibbles_k4(codes)], 1)


def _scales_k4(planes: Sequence[Bytes]) -> Scales:
    fine = _u8(planes[2])
    return halves(planes[0]) * fine[:, :8], halves(planes[1]) * fine[:, 8:]


def _split_q6(raw: Bytes) -> tuple[Planes, Bytes]:
    codes = _by_halves(raw[:, :128], _low_high) | (
        _by_halves(raw[:, 128:192], lambda part: _spread(part, 2)) << np.uint8(4)
    )
    return [raw[:, 208:210], raw[:, 192:208]], codes


def _join_q6(planes: Sequence[Bytes], codes: Bytes) -> Bytes:
    low = _by_halves(codes, _packed)
    high = _by_halves(codes >> np.uint8(4), lambda part: _gathered(part, 2))
    return np.concatenate([low, high, planes[1], planes[0]], 1)


def _scales_q6(planes: Sequence[Bytes]) -> Scales:
    a = halves(planes[0]) * np.ascontiguousarray(planes[1]).view(np.int8).astype(np.int64)
    return a, _nothing(a)


def _split_nibbles(raw: Bytes) -> tuple[Planes, Bytes]:
    return [], _low_high(raw)


def _join_nibbles(planes: Sequence[Bytes], codes: Bytes) -> Bytes:
    return _packed(codes)


def _scales_nibbles(planes: Sequence[Bytes]) -> Scales:
    raise TypeError("nibbles without scales have none")


_D, _SIXTEEN = Field(numerals.F16, 1, 16), Field(numerals.U8, 16, 6)

LAYOUTS: Mapping[int, Layout] = {
    layout.code: layout
    for layout in (
        Layout(NIBBLES, "u4", 2, 1, 1, 4, 0, False, (), _split_nibbles, _join_nibbles, _scales_nibbles),
        _simple(2, "q4_0", 4, affine=False),
        _simple(3, "q4_1", 4, affine=True),
        _simple(6, "q5_0", 5, affine=False),
        _simple(7, "q5_1", 5, affine=True),
        Layout(8, "q8_0", 32, 34, 1, 8, 128, False, (_D,), _split_q8_0, _join_q8_0, _scales_q8_0),
        Layout(
            10, "q2_K", 256, 84, 16, 2, 0, True, (_D, _D, Field(numerals.U8, 32, 4)), _split_q2, _join_q2, _scales_q2
        ),
        Layout(11, "q3_K", 256, 110, 16, 3, 4, False, (_D, _SIXTEEN), _split_q3, _join_q3, _scales_q3),
        Layout(12, "q4_K", 256, 144, 8, 4, 0, True, (_D, _D, _SIXTEEN), _split_q4, _join_q4, _scales_k4),
        Layout(13, "q5_K", 256, 176, 8, 5, 0, True, (_D, _D, _SIXTEEN), _split_q5, _join_q5, _scales_k4),
        Layout(
            14, "q6_K", 256, 210, 16, 6, 32, False, (_D, Field(numerals.I8, 16, 8)), _split_q6, _join_q6, _scales_q6
        ),
    )
}
"""By code."""

BY_NAME: Mapping[str, Layout] = {layout.name: layout for layout in LAYOUTS.values()}
