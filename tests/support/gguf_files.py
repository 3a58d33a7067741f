"""GGUF files written by hand, and weights quantised into the blocks of ggml by its own rules: seeded, small."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.blocks.layouts import BY_NAME
from modelsync_protocol.containers import gguf as reader

NUMBERS = {kind.name: number for number, kind in reader.TYPES.items()}

Floats = NDArray[Any]
Codes = NDArray[Any]
Tensor = tuple[str, tuple[int, ...], bytes]
"""Type's name, shape in C order, bytes."""


def text(value: str) -> bytes:
    """A string as GGUF has it."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def strings(values: Sequence[str]) -> bytes:
    """A value that is an array of strings, its type before it."""
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))


def gguf(
    tensors: Mapping[str, Tensor],
    *,
    version: int = 3,
    alignment: int = 32,
    pairs: Mapping[str, bytes] | None = None,
    order: str = "<",
) -> bytes:
    """A whole file; `pairs` are further keys with typed values (`strings`)."""
    values = {"general.architecture": struct.pack("<I", 8) + text("llama"), **(pairs or {})}
    if alignment != 32:
        values["general.alignment"] = struct.pack("<II", 4, alignment)
    head = b"GGUF" + struct.pack(f"{order}IQQ", version, len(tensors), len(values))
    head += b"".join(text(key) + value for key, value in values.items())
    body = bytearray()
    for name, (kind, shape, content) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", NUMBERS[kind], len(body))
        body += content + bytes(-len(content) % alignment)
    return head + bytes(-len(head) % alignment) + bytes(body)


def quantised(kind: str, weights: Floats) -> bytes:
    """Weights as blocks of q4_0, q4_1, q5_0, q5_1 or q8_0 (`quantize_row_*_ref` of ggml-quants.c)."""
    blocks = weights.reshape(-1, 32).astype(np.float32)
    return SIMPLE[kind](blocks).tobytes()


def _nibbles(codes: Codes) -> Codes:
    return (codes[:, :16] & 15) | (codes[:, 16:] & 15) << 4


def _high_bits(codes: Codes) -> Codes:
    bits: Codes = np.packbits(codes >> 4, axis=1, bitorder="little")
    return bits


def _halves(values: Floats) -> Codes:
    return values.astype("<f2").reshape(-1, 1).view(np.uint8)


def _inverse(values: Floats) -> Floats:
    return np.divide(1, values, out=np.zeros_like(values), where=values != 0)


def _symmetric(blocks: Floats, bits: int) -> tuple[Codes, Floats]:
    half = 1 << (bits - 1)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    scale = largest / -half
    return np.clip(blocks * _inverse(scale) + (half + 0.5), 0, 2 * half - 1).astype(np.uint8), scale


def _affine(blocks: Floats, bits: int) -> tuple[Codes, Floats, Floats]:
    low = blocks.min(1, keepdims=True)
    scale = (blocks.max(1, keepdims=True) - low) / ((1 << bits) - 1)
    codes = np.clip((blocks - low) * _inverse(scale) + 0.5, 0, (1 << bits) - 1)
    return codes.astype(np.uint8), scale, low


def _q4_0(blocks: Floats) -> Codes:
    codes, scale = _symmetric(blocks, 4)
    return np.hstack([_halves(scale), _nibbles(codes)])


def _q4_1(blocks: Floats) -> Codes:
    codes, scale, low = _affine(blocks, 4)
    return np.hstack([_halves(scale), _halves(low), _nibbles(codes)])


def _q5_0(blocks: Floats) -> Codes:
    codes, scale = _symmetric(blocks, 5)
    return np.hstack([_halves(scale), _high_bits(codes), _nibbles(codes)])


def _q5_1(blocks: Floats) -> Codes:
    codes, scale, low = _affine(blocks, 5)
    return np.hstack([_halves(scale), _halves(low), _high_bits(codes), _nibbles(codes)])


def _q8_0(blocks: Floats) -> Codes:
    scale = np.abs(blocks).max(1, keepdims=True) / 127
    codes = np.rint(blocks * _inverse(scale)).astype(np.int8)
    return np.hstack([_halves(scale), codes.view(np.uint8)])


SIMPLE = {"q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1, "q8_0": _q8_0}


def k_quantised(kind: str, weights: Floats) -> bytes:
    """Weights as blocks of q2_K … q6_K: scales by each sub-block's range, without ggml's search for better ones."""
    layout = BY_NAME[kind]
    rows = weights.reshape(-1, layout.sub_blocks, layout.elements // layout.sub_blocks).astype(np.float64)
    top = (1 << layout.bits) - 1
    if layout.affine:
        fine_top = 15 if kind == "q2_K" else 63
        low = np.minimum(rows.min(2), 0)
        d, fine = _fine((rows.max(2) - low) / top, fine_top)
        dmin, fine_min = _fine(-low, fine_top)
        a, b = d * fine, dmin * fine_min
        planes = [_half(d), _half(dmin), np.hstack([fine, fine_min]).astype(np.uint8)]
    else:
        largest = np.take_along_axis(rows, np.abs(rows).argmax(2)[:, :, None], 2)[:, :, 0]
        fine_top = 31 if kind == "q3_K" else 127
        d, fine = _fine(largest / -layout.zero, fine_top)
        a, b = d * fine, np.zeros_like(fine)
        planes = [_half(d), (fine + 32 if kind == "q3_K" else fine).astype(np.int8).view(np.uint8)]
    scaled = np.divide(rows + b[:, :, None], a[:, :, None], out=np.zeros_like(rows), where=a[:, :, None] != 0)
    codes = np.clip(np.rint(scaled) + layout.zero, 0, top).astype(np.uint8)
    return layout.join(planes, codes.reshape(-1, layout.elements)).tobytes()


def _fine(values: Floats, top: int) -> tuple[Floats, Floats]:
    """A scale for each block, as a half, and what it is multiplied with for each sub-block."""
    d = (np.abs(values).max(1, keepdims=True) / top).astype(np.float16).astype(np.float64)
    return d, np.clip(np.rint(np.divide(values, d, out=np.zeros_like(values), where=d != 0)), -top, top)


def _half(values: Floats) -> Codes:
    return values.astype("<f2").view(np.uint8)
