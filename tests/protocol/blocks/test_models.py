"""What both sides compute alike: contexts within bounds, symbols that come back, slabs that give the same."""

from __future__ import annotations

import numpy as np
import pytest

from modelsync_protocol.blocks import models
from modelsync_protocol.blocks.layouts import BY_NAME, Layout
from modelsync_protocol.codecs.tables import MAX_CONTEXTS
from tests.support import block_pairs
from tests.support.block_pairs import KINDS

EVERY = pytest.mark.parametrize("kind", KINDS)


def parts(layout: Layout, data: bytes) -> tuple[list[np.ndarray], np.ndarray]:
    return layout.split(np.frombuffer(data, np.uint8).reshape(-1, layout.bytes))


def pair(kind: str, seed: int, blocks: int = 300) -> tuple[Layout, models.Slab, models.Slab, np.ndarray]:
    layout = BY_NAME[kind]
    (old, codes), (new, wanted) = (parts(layout, data) for data in block_pairs.hostile(kind, seed, blocks))
    based = models.on_base(layout, codes, layout.scales(old), layout.scales(new))
    return layout, based, models.alone(layout, layout.scales(new)), wanted


@EVERY
@pytest.mark.parametrize("seed", range(3))
def test_symbols_stand_for_codes_whatever_the_scales(kind: str, seed: int) -> None:
    layout, *slabs, codes = pair(kind, seed)
    for slab in slabs:
        symbols = models.folded(layout, slab, codes)
        assert int(symbols.max()) < 1 << layout.bits
        assert np.array_equal(models.unfolded(layout, slab, symbols), codes)


@EVERY
def test_contexts_are_within_bounds(kind: str) -> None:
    layout, based, alone, _ = pair(kind, 1)
    for slab in (based, alone):
        assert int(slab.contexts.max()) < MAX_CONTEXTS
        assert int(slab.nearest.max()) < 1 << layout.bits
    assert int(based.groups.max()) < models.table_groups(layout, True) == models.CLASSES
    assert not alone.groups.any() and models.table_groups(layout, False) == 1


@EVERY
def test_slabs_give_what_the_whole_gives(kind: str) -> None:
    layout = BY_NAME[kind]
    count = 2 * (next(models.slabs(layout, 10**6))[1]) + 5
    old, new = (parts(layout, data) for data in block_pairs.hostile(kind, 4, count))
    whole = models.on_base(layout, old[1], layout.scales(old[0]), layout.scales(new[0]))
    cut = [
        models.on_base(
            layout,
            old[1][first:last],
            layout.scales([plane[first:last] for plane in old[0]]),
            layout.scales([plane[first:last] for plane in new[0]]),
        )
        for first, last in models.slabs(layout, count)
    ]
    assert len(cut) == 3
    for name in ("contexts", "groups", "nearest", "negative"):
        assert np.array_equal(np.concatenate([getattr(slab, name) for slab in cut]), getattr(whole, name)), name


@EVERY
def test_what_did_not_move_is_symbol_zero(kind: str) -> None:
    layout = BY_NAME[kind]
    planes, codes = parts(layout, block_pairs.in_blocks(kind, block_pairs.weights(1, 8, 512)))
    scales = layout.scales(planes)
    slab = models.on_base(layout, codes, scales, scales)
    live = np.repeat(scales[0].reshape(-1) != 0, layout.elements // layout.sub_blocks)
    assert not models.folded(layout, slab, codes)[live].any()
    assert not slab.contexts[live].any()  # no scale moved, no fraction


def test_a_rescaled_block_is_predicted_to_the_quant() -> None:
    """The worked example of FORMAT.md: d from 0.5 to 0.25, so that each old quant stands for two new ones."""
    layout = BY_NAME["q8_0"]
    codes = np.arange(112, 144, dtype=np.uint8)[None]
    old, new = (np.array([[value * 2**24]], np.int64) for value in (0.5, 0.25))
    none = np.zeros_like(old)
    slab = models.on_base(layout, codes, (old.astype(np.int64), none), (new.astype(np.int64), none))
    assert np.array_equal(slab.nearest, 2 * (codes[0].astype(int) - 128) + 128)


def test_a_weight_between_two_quants_names_the_nearer_one_first() -> None:
    layout = BY_NAME["q8_0"]
    codes = np.full((1, 32), 128 + 9, np.uint8)
    old, new = np.array([[5 << 20]], np.int64), np.array([[4 << 20]], np.int64)  # 9 · 1.25 = 11.25
    slab = models.on_base(layout, codes, (old, 0 * old), (new, 0 * new))
    symbols = np.arange(5, dtype=np.uint8).repeat(7)[:32]
    found = models.unfolded(layout, slab, symbols).reshape(-1).astype(int) - 128
    assert [int(found[n]) for n in (0, 7, 14, 21, 28)] == [11, 12, 10, 13, 9]
