"""GGUF: every type named and measured, both versions, and headers that claim too much."""

from __future__ import annotations

import mmap
import struct
import tempfile

import numpy as np
import pytest

from modelsync_protocol import caps, containers
from modelsync_protocol.containers import gguf
from modelsync_protocol.containers.ranges import TensorRange
from modelsync_protocol.errors import FormatError
from tests.support.gguf_files import NUMBERS, quantised, strings, text
from tests.support.gguf_files import gguf as written


def read(data: bytes) -> list[TensorRange]:
    return list(gguf.tensors(memoryview(data)))


@pytest.mark.parametrize("number", sorted(gguf.TYPES))
def test_a_tensor_of_each_type_has_its_bytes(number: int) -> None:
    kind = gguf.TYPES[number]
    shape = (3, 2 * kind.elements)
    content = bytes(range(1, 7)) * kind.bytes
    data = written({"first": (kind.name, shape, content), "last": ("f32", (2,), bytes(8))})
    found = read(data)
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in found] == [
        ("first", kind.name, shape),
        ("last", "f32", (2,)),
    ]
    assert data[found[0].offset : found[0].offset + found[0].length] == content


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [1, 32, 64, 100])
def test_versions_and_alignments(version: int, alignment: int) -> None:
    content = np.arange(7, dtype="<f4").tobytes()
    pairs = {"tokenizer.ggml.tokens": strings(["a", "", "ö" * 40]), "n": struct.pack("<II", 4, 7)}
    data = written(
        {"a": ("i8", (3,), b"abc"), "b": ("f32", (7,), content)}, version=version, alignment=alignment, pairs=pairs
    )
    assert [data[found.offset : found.offset + found.length] for found in read(data)] == [b"abc", content]


def test_the_bytes_of_quantised_tensors_are_ggmls() -> None:
    weights = np.random.default_rng(1).normal(0, 1, (4, 64)).astype(np.float32)
    for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"):
        kind = gguf.TYPES[NUMBERS[name]]
        assert len(quantised(name, weights)) == weights.size // kind.elements * kind.bytes


def test_a_type_of_the_future_reaches_to_the_next_tensor() -> None:
    data = bytearray(written({"new": ("q4_0", (32,), bytes(18)), "old": ("f32", (1,), bytes(4))}))
    place = data.index(struct.pack("<IQ", NUMBERS["q4_0"], 0))
    data[place : place + 4] = struct.pack("<I", 999)
    found = containers.tensors("m.gguf", memoryview(bytes(data)))
    assert [(tensor.dtype, tensor.length) for tensor in found] == [(None, 32), ("f32", 4)]


def test_other_versions_and_byte_orders_are_opaque() -> None:
    assert containers.tensors("m.gguf", memoryview(written({}, version=1))) == []
    assert containers.tensors("m.gguf", memoryview(written({"a": ("f32", (1,), bytes(4))}, order=">"))) == []


@pytest.mark.parametrize(
    "pairs",
    [
        {"k": struct.pack("<IIQ", 9, 8, 1 << 40)},  # more strings than the file has bytes
        {"k": struct.pack("<IIQ", 9, 4, 1 << 62)},
        {"k": struct.pack("<IIQ", 9, 9, 1)},  # arrays of arrays
        {"k": struct.pack("<IQ", 8, 1 << 63)},
        {"k": struct.pack("<I", 13)},
        {"general.alignment": struct.pack("<II", 4, 0)},
        {"general.alignment": struct.pack("<IQ", 10, 32)},
    ],
)
def test_headers_that_claim_too_much_are_refused(pairs: dict[str, bytes]) -> None:
    with pytest.raises(FormatError):
        read(written({"a": ("f32", (1,), bytes(4))}, pairs=pairs))


def test_too_many_tensors_and_axes_are_refused() -> None:
    with pytest.raises(FormatError, match="more tensors"):
        read(b"GGUF" + struct.pack("<IQQ", 3, caps.MAX_TENSORS + 1, 0))
    with pytest.raises(FormatError, match="axes"):
        read(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + struct.pack("<I", 5) + bytes(60))


def test_half_a_block_is_refused() -> None:
    with pytest.raises(FormatError, match="whole number of blocks"):
        read(written({"a": ("q8_0", (2, 16), bytes(34))}))


def test_a_file_of_many_gb_is_not_read() -> None:
    """The file is a hole of 6 GiB on the disk, and mapped: only its header's pages are touched."""
    rows, columns = 1 << 17, 1 << 16
    size = rows * columns // 32 * 18
    head = written({"a": ("q4_0", (rows, columns), b""), "b": ("q4_0", (rows, columns), b"")})
    place = head.rindex(struct.pack("<IQ", NUMBERS["q4_0"], 0))
    head = head[:place] + struct.pack("<IQ", NUMBERS["q4_0"], size) + head[place + 12 :]
    with tempfile.TemporaryFile() as file:
        file.write(head)
        file.truncate(len(head) + 2 * size)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            found = containers.tensors("m.gguf", data)
            assert [tensor.length for tensor in found] == [size, size]
            del found
