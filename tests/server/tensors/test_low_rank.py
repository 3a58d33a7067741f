"""A merged adapter costs what its factors cost, and comes out to the bit; everything else is coded as before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from modelsync_protocol import codecs, update
from modelsync_protocol.codecs import adapted, low_rank, numerals, tables
from modelsync_protocol.codecs.adapted import Adapted, Merged, Product
from modelsync_protocol.codecs.numerals import Numeral
from modelsync_protocol.errors import FormatError, UsageError
from modelsync_protocol.ops import Frame
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.encode.low_rank_candidate import changes_of, encode_low_rank
from modelsync_server.low_rank.adapters import read_adapter
from modelsync_server.publish.tasks import updates
from tests.server.tensors.worlds import carried_out, safetensors, source
from tests.support import adapters

KINDS = (numerals.F32, numerals.F16, numerals.BF16, numerals.I8)
FLOATS = KINDS[:3]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def pair(merge: adapters.Merge, kind: Numeral) -> tuple[Source, Source]:
    old, new = merge.files(kind)
    return source({"model.safetensors": old}), source({"model.safetensors": new})


def encodings(encoded: Encoded) -> set[int]:
    return {op.encoding for op in encoded.operations if isinstance(op, Frame)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_merged_adapter_is_found_in_the_pair_and_comes_out_exact(
    kind: Numeral, seed: int, pool: ThreadPoolExecutor
) -> None:
    base, target = pair(adapters.merge(seed), kind)
    oldest = smallest_update(base, target, pool)
    made = encode_low_rank(base, target, oldest, pool)
    assert made is not None and codecs.LOW_RANK in encodings(made)
    assert carried_out(made, base) == bytes(target.stream)
    most = {numerals.F32: 0.4, numerals.F16: 0.55, numerals.BF16: 0.65, numerals.I8: 0.8}[kind]
    assert made.cost < most * oldest.cost


@pytest.mark.parametrize("style", ["peft", "peft-named", "diffusers", "kohya", "unrelated"])
@pytest.mark.parametrize("scale", [2.0, 0.75, 1 / 3])
def test_with_the_adapter_at_hand_a_merge_in_binary32_leaves_nothing_over(
    style: str, scale: float, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    merge = adapters.merge(3, numerals.BF16, scale)
    base, target = pair(merge, numerals.F32)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(merge.adapter(numerals.BF16, style))
    oldest = smallest_update(base, target, pool)
    made = encode_low_rank(base, target, oldest, pool, read_adapter(tmp_path))
    assert made is not None and carried_out(made, base) == bytes(target.stream)
    products = low_rank.products(made.tables)
    assert [product.scale for product in products] == [np.float32(scale)] * len(adapters.NAMES)
    assert sum(map(len, made.payloads)) < 600, "the residual of an exact merge"
    assert len(made.tables) < 1.5 * sum(product.factors for product in products)


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.name)
def test_a_transposed_matrix_takes_the_adapter_turned(kind: Numeral, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    merge = adapters.merge(4, numerals.BF16)
    turned = adapters.Merge(
        {name: np.ascontiguousarray(values.T) for name, values in merge.old.items()},
        {name: np.ascontiguousarray(values.T) for name, values in merge.new.items()},
        merge.factors,
        merge.scale,
    )
    base, target = pair(turned, kind)
    file = tmp_path / "a.safetensors"
    file.write_bytes(merge.adapter(numerals.BF16))
    oldest = smallest_update(base, target, pool)
    without = encode_low_rank(base, target, oldest, pool)
    made = encode_low_rank(base, target, oldest, pool, read_adapter(file))
    assert made is not None and without is not None and carried_out(made, base) == bytes(target.stream)
    assert made.cost <= without.cost


def test_what_is_no_change_of_low_rank_is_left_to_others(pool: ThreadPoolExecutor) -> None:
    source_ = np.random.default_rng(5)
    old = source_.normal(0, 0.05, (128, 128)).astype(np.float32)
    dense = old + source_.normal(0, 0.0005, old.shape).astype(np.float32)
    broken = old.copy()
    broken[3, 4] = np.nan
    for new in (dense, broken, old * np.float32(1.5), old.copy()):
        files = [safetensors({"w": ("f32", values)}) for values in (old, new)]
        base, target = (source({"m.safetensors": data}) for data in files)
        assert changes_of(base, target, pool) == {}


def test_a_device_of_format_1_gets_format_1_from_the_same_store(pool: ThreadPoolExecutor) -> None:
    base, target = pair(adapters.merge(6), numerals.F32)
    made = updates(base, target, 1 << 40, pool)
    assert sorted(made) == [1, 2] and len(made[2]) < 0.4 * len(made[1])
    for version, data in made.items():
        preamble = update.decode_preamble(data.header)
        assert preamble is not None and preamble.version == version
        header = update.decode_header(preamble, data.header[preamble.offset : preamble.payload_offset], base.manifest)
        known = {op.encoding for op in header.operations if isinstance(op, Frame)}
        assert (codecs.LOW_RANK in known) == (version == 2)


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.name)
def test_blocks_predict_what_the_whole_predicts(kind: Numeral) -> None:
    """The decoder goes block by block, wherever a block begins in a row."""
    draw = np.random.default_rng(7)
    left, right = draw.integers(-(2**28), 2**28, (40, 3)), draw.integers(-(2**20), 2**20, (3, 70))
    merged = Merged(left.astype(np.float32), right.astype(np.float32), np.float32(1e-18))
    bits = numerals.narrowed(kind, draw.normal(0, 0.05, 40 * 70))
    for product in (Product(left, right, 52), merged):
        place = Adapted(0, 0, product)
        whole = adapted.predicted(place, kind, bits, 0)
        for begin, end in ((0, 1), (69, 71), (33, 2000), (2799, 2800)):
            part = adapted.predicted(place, kind, bits[begin:end], begin)
            for one, other in zip(whole, part, strict=True):
                assert np.array_equal(one[begin:end], other)


def test_a_sum_that_does_not_fit_is_refused() -> None:
    largest = np.full((32, 4), 2**30)
    assert not Product(largest, largest.T, 60).bounded
    assert Product(largest, largest.T // 2, 60).bounded


def test_a_frame_that_names_what_is_not_there_is_refused(pool: ThreadPoolExecutor) -> None:
    base, target = pair(adapters.merge(8), numerals.F16)
    made = encode_low_rank(base, target, smallest_update(base, target, pool), pool)
    assert made is not None
    frames = [op for op in made.operations if isinstance(op, Frame)]
    number = next(n for n, op in enumerate(frames) if op.encoding == codecs.LOW_RANK)
    frame, payload = frames[number], made.payloads[number]
    lean = bytes(base.stream[frame.base_offset : frame.base_offset + frame.base_length])
    for front in (b"\x01\x00\x00\x01", b"\x01\x00\x7f\x00", b"\x01\x7f\x00\x00", b"\x02\x00\x00\x00"):
        with pytest.raises(FormatError):
            codecs.decode(codecs.LOW_RANK, front + bytes(payload[1:]), frame.length, lean, b"", made.tables)
    with pytest.raises(FormatError):
        codecs.decode(codecs.LOW_RANK, bytes(payload), frame.length, lean, b"", tables.split(made.tables)[0])


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"m.lora_A.weight": ("f32", np.ones((4, 8), np.float32))}, "one factor of two"),
        ({"m.weight": ("f32", np.ones((4, 8), np.float32))}, "no lora_A and lora_B"),
        (
            {
                "m.lora_A.weight": ("f32", np.ones((4, 8), np.float32)),
                "m.lora_B.weight": ("f32", np.ones((8, 3), np.float32)),
            },
            "ranks 3 and 4",
        ),
        (
            {
                "m.lora_A.weight": ("f32", np.full((4, 8), np.inf, np.float32)),
                "m.lora_B.weight": ("f32", np.ones((8, 4), np.float32)),
            },
            "not finite",
        ),
        ({"m.lora_magnitude_vector.weight": ("f32", np.ones(4, np.float32))}, "DoRA"),
    ],
)
def test_what_is_no_adapter_is_refused_with_its_reason(
    tensors: dict[str, tuple[str, np.ndarray]], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(safetensors(tensors))
    with pytest.raises(UsageError, match=said):
        read_adapter(file)


def test_a_dora_by_its_settings_a_missing_file_and_another_format_are_refused(tmp_path: Path) -> None:
    merge = adapters.merge(9)
    (tmp_path / "adapter_model.safetensors").write_bytes(merge.adapter())
    (tmp_path / "adapter_config.json").write_text(json.dumps({"use_dora": True}), encoding="utf-8")
    with pytest.raises(UsageError, match="DoRA"):
        read_adapter(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        read_adapter(tmp_path / "other.safetensors")
    (tmp_path / "a.bin").write_bytes(b"PK\x03\x04 and so on, a pickle in a zip")
    with pytest.raises(UsageError, match="no safetensors adapter"):
        read_adapter(tmp_path / "a.bin")
