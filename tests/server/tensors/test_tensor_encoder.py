"""Whatever the tensors, what the encoder makes of them decodes to them, within the format's caps."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelsync_protocol import caps, codecs, update
from modelsync_protocol.codecs import numerals
from modelsync_protocol.ops import Frame
from modelsync_server.encode.encoder import Encoded, Source, encode_update
from modelsync_server.encode.tensor_encoder import encode_tensors
from tests.server.tensors.worlds import carried_out, safetensors, source

DTYPES = [kind.name for kind in numerals.NUMERALS]
SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (17,), (3, 0), (40, 33), (1, 900), (900, 1), (6, 5, 3, 3), (2, 7_000)]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def random_bits(dtype: str, shape: tuple[int, ...], seed: int, special: bool) -> NDArray[Any]:
    """Raw bits of a tensor: normal weights, or (special) any bits at all, NaNs and subnormals among them."""
    kind = numerals.BY_NAME[dtype]
    generator = np.random.default_rng(seed)
    count = int(np.prod(shape, dtype=np.int64))
    if special or not kind.mantissa:
        return np.frombuffer(generator.bytes(count * kind.width), kind.unsigned_dtype).reshape(shape)
    return numerals.narrowed(kind, generator.normal(0, 0.05, count)).reshape(shape)


def tuned(dtype: str, bits: NDArray[Any], seed: int, strength: float) -> NDArray[Any]:
    """The same tensor after some training: rows rescaled, elements nudged, a few replaced by anything."""
    kind = numerals.BY_NAME[dtype]
    generator = np.random.default_rng(seed)
    flat = bits.reshape(-1).copy()
    if kind.mantissa:
        rows = np.repeat(1 + generator.normal(0, strength, max(1, bits.shape[0] if bits.ndim else 1)), 1)
        factors = np.resize(np.repeat(rows, max(1, flat.size // len(rows))), flat.size)
        with np.errstate(all="ignore"):
            values = numerals.widened(kind, flat) * factors * (1 + generator.normal(0, strength / 10, flat.size))
            flat = np.where(generator.random(flat.size) < 0.9, numerals.narrowed(kind, values), flat)
    else:
        flat = flat + generator.integers(-2, 3, flat.size).astype(kind.signed_dtype).view(kind.unsigned_dtype)
    for place in generator.integers(0, max(1, flat.size), 3 if flat.size else 0):
        flat[place] = np.frombuffer(generator.bytes(kind.width), kind.unsigned_dtype)[0]
    return flat.reshape(bits.shape)


def check(encoded: Encoded | None, base: Source | None, target: Source) -> Encoded:
    assert encoded is not None
    assert carried_out(encoded, base) == bytes(target.stream)
    for op in encoded.operations:
        if isinstance(op, Frame):
            assert op.length <= caps.MAX_FRAME_BYTES
            assert op.payload_length <= caps.MAX_PAYLOAD_BYTES
            assert op.base_length <= caps.MAX_BASE_BYTES
            assert op.length + op.base_length + op.prefix <= caps.MAX_LEAN_BYTES
    if base is not None:
        header = update.encode_header(base.manifest, target.manifest, encoded.operations, encoded.tables)
        preamble = update.decode_preamble(header)
        assert preamble is not None
        read = update.decode_header(preamble, header[preamble.offset :], base.manifest)
        assert read.operations == encoded.operations
        assert read.tables == encoded.tables
    return encoded


@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES), st.booleans(), st.sampled_from([0.0, 1e-4, 0.3])),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["same", "renamed", "reordered", "retyped", "truncated", "grown", "new"]),
    st.integers(0, 1 << 30),
)
@settings(max_examples=40, deadline=None)
def test_any_tensors_on_any_base(
    pool: ThreadPoolExecutor, tensors: list[tuple[str, tuple[int, ...], bool, float]], change: str, seed: int
) -> None:
    old: dict[str, tuple[str, NDArray[Any]]] = {}
    new: dict[str, tuple[str, NDArray[Any]]] = {}
    for number, (dtype, shape, special, strength) in enumerate(tensors):
        bits = random_bits(dtype, shape, seed + number, special)
        trained = tuned(dtype, bits, seed + 99 + number, strength)
        name = f"layer.{number}.weight"
        old[name] = dtype, bits
        if change == "renamed":
            name = f"block.{number}"
        elif change == "retyped":
            dtype, trained = "f16", trained.reshape(-1).view("u1").repeat(2).view("<u2")
        elif change == "truncated" and trained.ndim:
            trained = trained[: trained.shape[0] // 2]
        elif change == "grown" and trained.ndim:
            trained = np.concatenate([trained, trained[:3]])
        new[name] = dtype, trained
    if change == "reordered":
        new = dict(reversed(new.items()))
    base = None if change == "new" else source({"model.safetensors": safetensors(old)})
    target = source({"model.safetensors": safetensors(new)})
    encoded = encode_tensors(base, target, pool)
    if encoded is not None:
        check(encoded, base, target)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fine_tuned_matrix_takes_less_than_any_zstd(pool: ThreadPoolExecutor, dtype: str) -> None:
    bits = random_bits(dtype, (256, 300), 1, False)
    base = source({"m.safetensors": safetensors({"w": (dtype, bits)})})
    target = source({"m.safetensors": safetensors({"w": (dtype, tuned(dtype, bits, 2, 1e-3))})})
    encoded = check(encode_tensors(base, target, pool), base, target)
    assert encoded.cost < encode_update(base, target, pool).cost * 0.85


def test_bits_that_are_always_zero_do_not_travel(pool: ThreadPoolExecutor) -> None:
    half = random_bits("f16", (300, 300), 1, False)
    wide = half.view("<f2").astype("<f4").view("<u4")
    nudged = tuned("f16", half, 2, 1e-3).view("<f2").astype("<f4").view("<u4")
    base = source({"m.safetensors": safetensors({"w": ("f32", wide)})})
    target = source({"m.safetensors": safetensors({"w": ("f32", nudged)})})
    narrow = [source({"m.safetensors": safetensors({"w": ("f16", b)})}) for b in (half, tuned("f16", half, 2, 1e-3))]
    for wide_base, narrow_base in ((base, narrow[0]), (None, None)):
        encoded = check(encode_tensors(wide_base, target, pool), wide_base, target)
        compact = check(encode_tensors(narrow_base, narrow[1], pool), narrow_base, narrow[1])
        assert encoded.cost < compact.cost * 1.08


def test_tensors_of_a_first_install_take_less_than_zstd(pool: ThreadPoolExecutor) -> None:
    bits = random_bits("f32", (500, 300), 1, False)
    target = source({"m.safetensors": safetensors({"w": ("f32", bits)})})
    encoded = check(encode_tensors(None, target, pool), None, target)
    plain = codecs.ENCODINGS[codecs.ZSTD].encode(bytes(target.stream), b"", b"")
    assert encoded.cost < len(plain) * 0.95


def test_the_number_of_threads_does_not_change_a_byte(pool: ThreadPoolExecutor) -> None:
    tensors = {f"w{i}": ("f32", random_bits("f32", (64, 300), i, False)) for i in range(6)}
    changed = {name: (dtype, tuned(dtype, bits, 5, 1e-3)) for name, (dtype, bits) in tensors.items()}
    base, target = source({"m.safetensors": safetensors(tensors)}), source({"m.safetensors": safetensors(changed)})
    with ThreadPoolExecutor(1) as single, ThreadPoolExecutor(7) as many:
        assert encode_tensors(base, target, single) == encode_tensors(base, target, many)


def test_counterparts_far_apart_still_decode_within_the_caps(pool: ThreadPoolExecutor) -> None:
    shapes = (700, 1000)
    tensors = {f"w{i}": ("f32", random_bits("f32", shapes, i, False)) for i in range(5)}
    small = {f"b{i}": ("f32", random_bits("f32", (300,), i, False)) for i in range(5)}
    mixed = {name: entry for pair in zip(tensors.items(), small.items(), strict=True) for name, entry in pair}
    # All small tensors side by side in the target, 3 MB apart in the base.
    moved = {name: ("f32", tuned("f32", bits, 9, 1e-3)) for name, (_, bits) in {**small, **tensors}.items()}
    base, target = source({"m.safetensors": safetensors(mixed)}), source({"m.safetensors": safetensors(moved)})
    check(encode_tensors(base, target, pool), base, target)


@pytest.mark.parametrize("dtype", ["f32", "i8", "i64"])
def test_noise_fits_the_caps(pool: ThreadPoolExecutor, dtype: str) -> None:
    shape = (700_000 // numerals.BY_NAME[dtype].width,)
    old, new = (random_bits(dtype, shape, seed, True) for seed in (1, 2))
    base, target = (source({"m.safetensors": safetensors({"w": (dtype, bits)})}) for bits in (old, new))
    encoded = check(encode_tensors(base, target, pool), base, target)
    assert encoded.cost < target.manifest.size * 1.001 + 200


def test_in_file_duplicates_travel_once(pool: ThreadPoolExecutor) -> None:
    bits = random_bits("f32", (300, 300), 1, False)
    target = source({"m.safetensors": safetensors({"a": ("f32", bits), "b": ("f32", bits)})})
    once = source({"m.safetensors": safetensors({"a": ("f32", bits)})})
    twice = check(encode_tensors(None, target, pool), None, target)
    alone = check(encode_tensors(None, once, pool), None, once)
    assert twice.cost < alone.cost + 500


def test_a_target_without_tensors_is_left_to_others(pool: ThreadPoolExecutor) -> None:
    assert encode_tensors(None, source({"labels.txt": b"cat\ndog\n" * 900}), pool) is None


def test_onnx_external_data_is_paired_by_tensor(pool: ThreadPoolExecutor) -> None:
    onnx = pytest.importorskip("onnx")

    def model(bits: NDArray[Any], pad: int) -> dict[str, bytes]:
        tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=bits.shape, data_location=1)
        for key, value in (("location", "weights.bin"), ("offset", str(pad)), ("length", str(bits.nbytes))):
            tensor.external_data.add(key=key, value=value)
        proto = onnx.ModelProto(graph=onnx.GraphProto(name="g", initializer=[tensor]))
        return {"m/model.onnx": proto.SerializeToString(), "m/weights.bin": bytes(pad) + bits.tobytes()}

    bits = random_bits("f32", (200, 300), 1, False)
    base, target = source(model(bits, 64)), source(model(tuned("f32", bits, 2, 1e-3), 128))
    encoded = check(encode_tensors(base, target, pool), base, target)
    assert encoded.cost < encode_update(base, target, pool).cost * 0.85
