"""Types of blocks: all bytes come back, and what they stand for is what ggml says."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from modelsync_protocol.blocks.layouts import BY_NAME, LAYOUTS, NIBBLES, Layout, halves
from modelsync_protocol.containers import gguf

EVERY = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
SCALED = pytest.mark.parametrize(
    "layout", [layout for layout in LAYOUTS.values() if layout.fields], ids=lambda layout: layout.name
)

DEQUANTISED = {
    "q4_0": "bc68e499ceb16803295f5389342d3f3dc01e58ec869205361ccb8a9152bc0d23",
    "q4_1": "6c5182bfee1c24ed4ad736b3df4b2b0504cafd8a91911fbf7ce2d8a61a2bf6df",
    "q5_0": "dd4c64d386c495732cea9a48787d3cc379fcf0facc0fe885c1daf83f390e1e3c",
    "q5_1": "aa9ff17d9feba51cda46d4451c5436511c45b9c56a46b8b8b5e89a32ab31ec6c",
    "q8_0": "c194d638a064a77956a6202d72543af7c69770eb2e62a5dd8d64976b3255aa08",
    "q2_K": "482cd0ae3344373d0d931fb8bf59d3ac597d3008b4fda57f1313b5e8d58b4cb1",
    "q3_K": "1d148d6ca476247ffd94daf1f037a68a67178a799364a3124961d8541f065789",
    "q4_K": "204022f73af3f12b17c3d6af28c5834ba5a8c616883229c62b89e65feb1db39a",
    "q5_K": "ca8de90f04b6351d79e71ae69de84539802d3423e94b43ddb4d56177f42f73e2",
    "q6_K": "c975555e4a06ab1b9eb2e0e8bf9af0c8247ec0334ac287bb3ae602b751b6417b",
}
"""SHA-256 of what gguf 0.19 (`gguf.quants.dequantize`) makes of `plain_blocks`, as float32."""


def blocks(layout: Layout, count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, layout.bytes), dtype=np.uint8)


def plain_blocks(layout: Layout) -> np.ndarray:
    """Four blocks of any quants and fine scales, whose binary16 are 0.5 and 0.25: no weight has to be rounded."""
    planes, codes = layout.split(blocks(layout, 4, layout.code))
    values = iter((0.5, 0.25))
    for plane, field in zip(planes, layout.fields, strict=True):
        if field.numeral.width == 2:
            plane[:] = np.full((4, 1), next(values), "<f2").view(np.uint8)
    return layout.join(planes, codes)


@EVERY
def test_all_bytes_come_back(layout: Layout) -> None:
    raw = blocks(layout, 200)
    planes, codes = layout.split(raw)
    assert np.array_equal(layout.join(planes, codes), raw)
    assert [plane.shape for plane in planes] == [(200, field.width) for field in layout.fields]
    assert codes.shape == (200, layout.elements) and int(codes.max()) == (1 << layout.bits) - 1
    fine = sum(field.count * field.bits for field in layout.fields)
    assert layout.elements * layout.bits + fine == 8 * layout.bytes


@SCALED
def test_sizes_are_those_of_the_reader(layout: Layout) -> None:
    kind = gguf.TYPES[layout.code]
    assert (kind.name, kind.elements, kind.bytes) == (layout.name, layout.elements, layout.bytes)


@SCALED
def test_weights_are_those_of_ggml(layout: Layout) -> None:
    planes, codes = layout.split(plain_blocks(layout))
    a, b = (np.repeat(scale, layout.elements // layout.sub_blocks, 1) for scale in layout.scales(planes))
    weights = (a * (codes.astype(np.int64) - layout.zero) - b) * 2.0**-24
    assert hashlib.sha256(weights.astype("<f4").tobytes()).hexdigest() == DEQUANTISED[layout.name]


def test_halves_are_exact_integers() -> None:
    bits = np.arange(1 << 16, dtype="<u2")
    finite = (bits & 0x7C00) != 0x7C00
    found = halves(bits.view(np.uint8).reshape(-1, 2)).reshape(-1)
    expected = bits.view("<f2").astype(np.float64)[finite] * 2.0**24
    assert np.array_equal(found[finite], expected.astype(np.int64))
    assert int(np.abs(found).max()) < 1 << 41


def test_scales_stay_within_what_the_arithmetic_is_made_for() -> None:
    for layout in LAYOUTS.values():
        if layout.fields:
            extremes = np.array([[0] * layout.bytes, [255] * layout.bytes, [127] * layout.bytes], np.uint8)
            for scale in layout.scales(layout.split(extremes)[0]):
                assert int(np.abs(scale).max()) < 1 << 48


def test_names() -> None:
    assert BY_NAME["u4"].code == NIBBLES
    assert {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K"} < set(BY_NAME)
