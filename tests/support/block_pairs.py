"""Pairs of models in quantised blocks: fine-tuned, and blocks with all that a binary16 can be. Seeded, small."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.blocks.layouts import BY_NAME
from tests.support.gguf_files import SIMPLE, Tensor, gguf, k_quantised, quantised

KINDS = tuple(name for name, layout in BY_NAME.items() if layout.fields)
"""Types of blocks that GGUF files hold and that are known in their parts."""

_SPECIALS = np.array(
    [0, 1, 2, 0x3FF, 0x400, 0x401, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, 0x7FFF, 0x8000, 0x8001, 0xFBFF, 0xFC00, 0xFFFF],
    "<u2",
)


def weights(seed: int, rows: int, columns: int, step: float = 0.0, of: int = 7) -> NDArray[np.float32]:
    """A matrix whose rows differ in size; `step` moves the weights by a fine-tuning of that size."""
    source = np.random.default_rng(of)
    sizes = np.exp(source.normal(0, 0.3, (rows, 1)))
    old = source.standard_t(6, (rows, columns)) * 0.02 * sizes
    moved = np.random.default_rng(seed).normal(0, 1, old.shape) * step * np.exp(source.normal(0, 0.7, (rows, 1)))
    result: NDArray[np.float32] = (old + moved).astype(np.float32)
    return result


def in_blocks(kind: str, matrix: NDArray[np.float32]) -> bytes:
    """A matrix in blocks of any type that is known in its parts."""
    return quantised(kind, matrix) if kind in SIMPLE else k_quantised(kind, matrix)


def tensors(kind: str, step: float, rows: int = 64, columns: int = 512) -> dict[str, Tensor]:
    """A matrix, a vector of float32 and one of binary16 between, and another matrix."""
    size = BY_NAME[kind].elements
    first, second = weights(1, rows, columns, step), weights(2, rows // 2, 2 * columns, step, of=8)
    norm = weights(3, 1, columns + 3, step, of=9)[0]
    assert columns % size == 0
    return {
        "blk.0.weight": (kind, first.shape, in_blocks(kind, first)),
        "blk.0.norm": ("f32", norm.shape, norm.tobytes()),
        "blk.0.bias": ("f16", norm.shape, norm.astype("<f2").tobytes()),
        "blk.1.weight": (kind, second.shape, in_blocks(kind, second)),
    }


def model(
    kind: str, step: float, rows: int = 64, columns: int = 512, pairs: Mapping[str, bytes] | None = None
) -> bytes:
    """A GGUF file of these."""
    return gguf(tensors(kind, step, rows, columns), pairs=pairs)


def hostile(kind: str, seed: int, blocks: int = 48) -> tuple[bytes, bytes]:
    """Old and new blocks with zeros, subnormals, infinities and NaN for scales, and quants that moved by a few."""
    layout = BY_NAME[kind]
    source = np.random.default_rng(seed)
    old = source.integers(0, 256, (blocks, layout.bytes), dtype=np.uint8)
    planes, codes = layout.split(old)
    for plane, field in zip(planes, layout.fields, strict=True):
        if field.numeral.width == 2:
            plane[:] = source.choice(_SPECIALS, (blocks, 1)).view(np.uint8)
    moved = codes + source.choice([0, 0, 0, 1, 255, 3], codes.shape).astype(np.uint8)
    scales = [plane.copy() for plane in planes]
    scales[0][::3] ^= source.integers(0, 2, scales[0][::3].shape, dtype=np.uint8)
    new = layout.join(scales, moved & np.uint8((1 << layout.bits) - 1))
    return layout.join(planes, codes).tobytes(), new.tobytes()
