"""What publishers are told about cheaper updates comes from measuring their own pair."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support import boosted_files
from tests.support.shop import Shop

_ROWS, _COLUMNS = 512, 256
TREES = [
    (boosted_files.light, "m.txt", "init_model"),
    (lambda seed, trees: boosted_files.histogram(seed, trees, of=66), "m.pkl", "warm_start"),
]


def model(weights: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    """A safetensors file with one float32 matrix."""
    data = weights.astype("<f4").tobytes()
    header = {"w": {"dtype": "F32", "shape": list(weights.shape), "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def weights() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    generator = np.random.default_rng(3)
    return (generator.standard_normal((_ROWS, _COLUMNS)) * 0.05).astype(np.float32)


async def test_fine_tuned_float32_is_told_what_smaller_types_would_have_cost(
    weights: np.ndarray[tuple[int, ...], np.dtype[np.float32]], tmp_path: Path
) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", model(weights), "m.safetensors")
    step = np.random.default_rng(4).standard_normal(weights.shape).astype(np.float32) * np.float32(1e-5)
    published = await shop.publish_bytes("m", model(weights + step), "m.safetensors")
    said = {item.text.split(" this ")[0]: item.bytes for item in published.advice}
    assert set(said) == {"as fp16", "as bf16", "as int8 with frozen scales"}
    assert all(cost is not None and 0 < cost < published.updates[0].bytes for cost in said.values())


async def test_retrained_model_is_told_that_no_delta_exists(
    weights: np.ndarray[tuple[int, ...], np.dtype[np.float32]], tmp_path: Path
) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", model(weights), "m.safetensors")
    other = np.random.default_rng(5).standard_normal(weights.shape).astype(np.float32) * np.float32(0.05)
    published = await shop.publish_bytes("m", model(other), "m.safetensors")
    assert [item.text.split(":")[0] for item in published.advice] == ["retrained from scratch"]


async def test_small_or_opaque_updates_get_no_advice(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", b"a" * 200_000 + bytes(range(256)) * 100)
    assert (await shop.publish_bytes("m", b"b" * 200_000 + bytes(range(256)) * 100)).advice == ()


@pytest.mark.parametrize(("make", "name", "word"), TREES)
async def test_retrained_trees_are_told_what_training_further_would_cost(
    make: Callable[[int, int], bytes], name: str, word: str, tmp_path: Path
) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", make(1, 60), name)
    published = await shop.publish_bytes("m", make(2, 60), name)
    (item,) = published.advice
    assert item.text.startswith("60 of 60 trees are new") and word in item.text
    assert item.bytes is not None
    further = await shop.publish_bytes("m", make(2, 66), name)
    assert further.advice == ()
    assert further.updates[0].bytes < item.bytes + 1500
