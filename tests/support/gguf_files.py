"""GGUF files written by hand, and weights quantised into the blocks of ggml by its own rules: seeded, small."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.containers import gguf as reader

NUMBERS = {kind.name: number for number, kind in reader.TYPES.items()}

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


def quantised(kind: str, weights: NDArray[np.float32]) -> bytes:
    """Weights as blocks of q4_0, q4_1, q5_0, q5_1 or q8_0 (`quantize_row_*_ref` of ggml-quants.c)."""
    blocks = weights.reshape(-1, 32).astype(np.float32)
    return _SIMPLE[kind](blocks).tobytes()


def _nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (codes[:, :16] & 15) | (codes[:, 16:] & 15) << 4


def _high_bits(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.packbits(codes >> 4, axis=1, bitorder="little")


def _halves(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return values.astype("<f2").reshape(-1, 1).view(np.uint8)


def _inverse(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(1, values, out=np.zeros_like(values), where=values != 0)


def _symmetric(blocks: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    half = 1 << (bits - 1)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    scale = largest / -half
    return np.clip(blocks * _inverse(scale) + (half + 0.5), 0, 2 * half - 1).astype(np.uint8), scale


def _affine(
    blocks: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    low = blocks.min(1, keepdims=True)
    scale = (blocks.max(1, keepdims=True) - low) / ((1 << bits) - 1)
    codes = np.clip((blocks - low) * _inverse(scale) + 0.5, 0, (1 << bits) - 1)
    return codes.astype(np.uint8), scale, low


def _q4_0(blocks: NDArray[np.float32]) -> NDArray[np.uint8]:
    codes, scale = _symmetric(blocks, 4)
    return np.hstack([_halves(scale), _nibbles(codes)])


def _q4_1(blocks: NDArray[np.float32]) -> NDArray[np.uint8]:
    codes, scale, low = _affine(blocks, 4)
    return np.hstack([_halves(scale), _halves(low), _nibbles(codes)])


def _q5_0(blocks: NDArray[np.float32]) -> NDArray[np.uint8]:
    codes, scale = _symmetric(blocks, 5)
    return np.hstack([_halves(scale), _high_bits(codes), _nibbles(codes)])


def _q5_1(blocks: NDArray[np.float32]) -> NDArray[np.uint8]:
    codes, scale, low = _affine(blocks, 5)
    return np.hstack([_halves(scale), _halves(low), _high_bits(codes), _nibbles(codes)])


def _q8_0(blocks: NDArray[np.float32]) -> NDArray[np.uint8]:
    scale = np.abs(blocks).max(1, keepdims=True) / 127
    codes = np.rint(blocks * _inverse(scale)).astype(np.int8)
    return np.hstack([_halves(scale), codes.view(np.uint8)])


_SIMPLE = {"q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1, "q8_0": _q8_0}
