"""Updates of models in quantised blocks: every type, on its base and alone, smaller than what knows no blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modelsync_protocol import caps, codecs
from modelsync_protocol.blocks import runs
from modelsync_protocol.blocks.layouts import BY_NAME
from modelsync_protocol.codecs import zstd
from modelsync_protocol.ops import Copy, Frame
from modelsync_protocol.wire import Reader
from modelsync_server.blocks import block_tensors
from modelsync_server.blocks.candidate import encode_blocks
from modelsync_server.encode.encoder import Encoded, Source
from tests.server.tensors.worlds import carried_out, source
from tests.support import block_pairs, packed_models
from tests.support.block_pairs import KINDS, in_blocks, tensors, weights
from tests.support.gguf_files import Tensor, gguf, strings

Tensors = dict[str, Tensor]
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def encoded(old: Mapping[str, bytes], new: Mapping[str, bytes], pool: ThreadPoolExecutor) -> tuple[Encoded, Source]:
    """The update, after it was carried out."""
    base, target = source(old), source(new)
    made = encode_blocks(base, target, None, pool)
    assert made is not None
    assert carried_out(made, base) == bytes(target.stream)
    return made, base


def frames(made: Encoded) -> list[Frame]:
    return [op for op in made.operations if isinstance(op, Frame)]


def runs_of(made: Encoded) -> list[runs.Run]:
    """All runs of all frames of encoding 9."""
    found = []
    for op, payload in zip(frames(made), made.payloads, strict=True):
        if op.encoding == codecs.BLOCKS:
            found += runs.read(Reader(payload, "runs"), op.length, op.base_length)
    return found


@EVERY
def test_a_fine_tuned_model_costs_half_of_a_patch(kind: str, pool: ThreadPoolExecutor) -> None:
    old, new = (block_pairs.model(kind, step) for step in (0.0, 3e-4))
    made, _ = encoded({"m.gguf": old}, {"m.gguf": new}, pool)
    assert {frame.encoding for frame in frames(made)} == {codecs.BLOCKS}
    assert all(run.base_offset is not None for run in runs_of(made))
    assert made.cost < 0.62 * len(zstd.compress(new, old))


@EVERY
def test_a_first_install_is_smaller_than_zstd(kind: str, pool: ThreadPoolExecutor) -> None:
    new = block_pairs.model(kind, 0.0, rows=96)
    made, _ = encoded({}, {"m.gguf": new}, pool)
    assert all(run.base_offset is None for run in runs_of(made))
    assert made.cost < 0.99 * len(zstd.compress(new, b""))


@EVERY
def test_strange_scales_change_nothing_but_the_size(kind: str, pool: ThreadPoolExecutor) -> None:
    old, new = block_pairs.hostile(kind, 3, 600)
    shape = (600, BY_NAME[kind].elements)
    base, target = (source({"m.gguf": gguf({"w": (kind, shape, data)})}) for data in (old, new))
    made = encode_blocks(base, target, None, pool)
    assert made is None or carried_out(made, base) == bytes(target.stream)


def test_types_side_by_side_with_other_tensors_and_a_vocabulary(pool: ThreadPoolExecutor) -> None:
    def model(step: float, words: list[str]) -> bytes:
        parts = {
            f"{kind}.{name}": tensor
            for kind in ("q4_K", "q6_K", "q8_0")
            for name, tensor in tensors(kind, step, 24).items()
        }
        return gguf(parts, pairs={"tokenizer.ggml.tokens": strings(words)})

    words = [f"word{number}" for number in range(9000)]
    made, _ = encoded({"m.gguf": model(0, words)}, {"m.gguf": model(3e-4, [*words[:70], "new", *words[71:]])}, pool)
    assert {run.layout.name for run in runs_of(made)} == {"q4_K", "q6_K", "q8_0"}


def test_a_model_trained_from_scratch_leans_on_nothing(pool: ThreadPoolExecutor) -> None:
    first, second = (
        gguf({"w": ("q4_0", (64, 1024), in_blocks("q4_0", weights(0, 64, 1024, of=seed)))}) for seed in (3, 4)
    )
    made, _ = encoded({"m.gguf": first}, {"m.gguf": second}, pool)
    assert all(run.base_offset is None for run in runs_of(made))


def test_a_grown_tensor_leans_on_what_the_old_one_has(pool: ThreadPoolExecutor) -> None:
    small, large = weights(1, 64, 1024), weights(1, 96, 1024, 0.0)
    large[:64] = small + np.float32(1e-4)
    old, new = ({"m.gguf": gguf({"w": ("q4_0", w.shape, in_blocks("q4_0", w))})} for w in (small, large))
    made, _ = encoded(old, new, pool)
    assert {run.base_offset is None for run in runs_of(made)} == {True, False}


def test_another_type_of_blocks_and_renamed_tensors(pool: ThreadPoolExecutor) -> None:
    matrix, moved = weights(1, 64, 1024), weights(1, 64, 1024, 1e-4)
    old = {"m.gguf": gguf({"w": ("q4_0", matrix.shape, in_blocks("q4_0", matrix))})}
    other = {"m.gguf": gguf({"w": ("q5_0", matrix.shape, in_blocks("q5_0", moved))})}
    made, _ = encoded(old, other, pool)
    assert all(run.base_offset is None for run in runs_of(made))
    renamed = {"n.gguf": gguf({"v": ("q4_0", matrix.shape, in_blocks("q4_0", moved))})}
    made, _ = encoded(old, renamed, pool)
    assert all(run.base_offset is not None for run in runs_of(made))


def test_swapped_tensors_are_paired_by_name(pool: ThreadPoolExecutor) -> None:
    def model(step: float, names: tuple[str, ...]) -> dict[str, bytes]:
        parts = {name: weights(1, 40, 1024, step, of=len(name)) for name in names}
        return {"m.gguf": gguf({name: ("q4_1", w.shape, in_blocks("q4_1", w)) for name, w in parts.items()})}

    new = model(2e-4, ("ccc", "a", "bb"))
    made, base = encoded(model(0.0, ("a", "bb", "ccc")), new, pool)
    assert made.cost < 0.6 * len(zstd.compress(new["m.gguf"], bytes(base.stream)))
    assert len(runs_of(made)) == 3 and all(run.base_offset is not None for run in runs_of(made))


def test_what_is_equal_is_copied(pool: ThreadPoolExecutor) -> None:
    old = gguf(
        {name: ("q4_0", (256, 2048), in_blocks("q4_0", weights(0, 256, 2048, of=n))) for n, name in enumerate("abc")}
    )
    moved = in_blocks("q4_0", weights(1, 256, 2048, 1e-4, of=1))
    at = old.index(in_blocks("q4_0", weights(0, 256, 2048, of=1)))
    made, _ = encoded({"m.gguf": old}, {"m.gguf": old[:at] + moved + old[at + len(moved) :]}, pool)
    assert sum(op.length for op in made.operations if isinstance(op, Copy)) > len(old) // 2


def test_payloads_stay_within_their_cap(pool: ThreadPoolExecutor) -> None:
    """Quants that nothing predicts, so that estimates are put to the test."""

    def blocks(seed: int) -> bytes:
        raw = np.random.default_rng(seed).integers(0, 256, (70_000, 18), dtype=np.uint8)
        raw[:, 1] &= 0x3F
        return raw.tobytes()

    old, new = ({"m.gguf": gguf({"w": ("q4_0", (700, 3200), blocks(seed))})} for seed in (1, 2))
    base, target = source(old), source(new)
    made = encode_blocks(base, target, None, pool)
    if made is not None:
        assert all(len(payload) <= caps.MAX_PAYLOAD_BYTES for payload in made.payloads)
        assert carried_out(made, base) == bytes(target.stream)


def test_a_frame_does_not_lean_on_more_than_it_may(pool: ThreadPoolExecutor) -> None:
    """Small tensors whose old ones lie at both ends of a file of 11 MB."""

    def parts(step: float, order: list[int], filling: bool) -> Tensors:
        found: Tensors = {
            f"t{n}": ("q4_0", (16, 1024), in_blocks("q4_0", weights(1, 16, 1024, step, of=n))) for n in order
        }
        if filling:
            middle = len(order) // 2
            items = list(found.items())
            still = np.random.default_rng(5).integers(0, 256, 11 * caps.MIB, dtype=np.uint8).tobytes()
            return dict([*items[:middle], ("still", ("i8", (len(still),), still)), *items[middle:]])
        return found

    old = {"m.gguf": gguf(parts(0.0, list(range(6)), True))}
    new = {"m.gguf": gguf(parts(1e-4, [0, 5, 1, 4, 2, 3], False))}
    made, _ = encoded(old, new, pool)
    for frame in frames(made):
        assert frame.base_length <= caps.MAX_BASE_BYTES
        assert frame.base_length + frame.length + frame.prefix <= caps.MAX_LEAN_BYTES
    assert {run.base_offset is None for run in runs_of(made)} == {True, False}


def test_the_result_does_not_depend_on_threads() -> None:
    old, new = (source({"m.gguf": block_pairs.model("q4_K", step, 32)}) for step in (0.0, 3e-4))
    made = []
    for workers in (1, 4):
        with ThreadPoolExecutor(workers) as pool:
            made.append(encode_blocks(old, new, None, pool))
    assert made[0] == made[1] is not None


def test_nothing_to_do_without_blocks(pool: ThreadPoolExecutor) -> None:
    old, new = (source({"m.npz": packed_models.npz(packed_models.weights(seed))}) for seed in (1, 2))
    assert encode_blocks(old, new, None, pool) is None
    same = source({"m.gguf": block_pairs.model("q4_0", 0.0)})
    assert encode_blocks(same, same, None, pool) is None


def test_pairs_are_found_by_name_then_by_order() -> None:
    def listed(*names: str) -> list[block_tensors.BlockTensor]:
        data = {name: ("q4_0", (4, 32), bytes(72)) for name in names}
        found = source({"m.gguf": gguf(data)})
        return block_tensors.find(found.manifest, found.stream)

    old, new = listed("a", "b", "c"), listed("x", "c", "b")
    matched = block_tensors.pair(old, new)
    assert [matched[tensor.offset].name for tensor in new] == ["a", "c", "b"]
