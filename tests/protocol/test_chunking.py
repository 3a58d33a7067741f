"""Chunks: a partition that depends on the bytes alone, and that an edit changes only near itself."""

from __future__ import annotations

import hashlib
import json
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsync_protocol import caps, chunker
from modelsync_protocol.chunker import COARSE, chunk_sizes


def noise(seed: int, size: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def digests(data: bytes) -> list[str]:
    edges = list(accumulate(chunk_sizes("a.bin", memoryview(data)), initial=0))
    return [hashlib.sha256(data[a:b]).hexdigest() for a, b in pairwise(edges)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 400_000), st.integers(0, 5), st.sampled_from(["a.bin", "a.onnx", "a.safetensors", "a.tflite", "a"])
)
def test_chunks_partition_any_file(size: int, seed: int, path: str) -> None:
    data = noise(seed, size) if seed else bytes(size)
    sizes = chunk_sizes(path, memoryview(data))
    assert sum(sizes) == size
    assert all(0 < n <= caps.CDC_MAX_BYTES for n in sizes)
    assert all(n >= caps.CDC_MIN_BYTES for n in sizes[:-1])
    assert chunk_sizes(path, memoryview(bytearray(data))) == sizes


def test_the_average_chunk_is_about_16_kib() -> None:
    sizes = chunk_sizes("a.bin", memoryview(noise(1, 4_000_000)))
    assert 12_000 < sum(sizes) / len(sizes) < 20_000


@pytest.mark.parametrize("block", [100, 5_000, 65_537])
def test_cuts_do_not_depend_on_how_the_bytes_are_taken(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = memoryview(noise(2, 300_000))
    whole = chunk_sizes("a.bin", data)
    monkeypatch.setattr(chunker, "_BLOCK", block)
    assert chunk_sizes("a.bin", data) == whole


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 500_000), st.integers(0, 200), st.binary(max_size=200))
def test_an_edit_keeps_distant_chunks(place: int, cut: int, put: bytes) -> None:
    data = noise(3, 500_000)
    edited = data[:place] + put + data[place + cut :]
    lost = set(digests(data)) - set(digests(edited))
    # The chunk that holds the edit, and those until the cuts meet again (on average one, at worst a few).
    assert len(lost) <= 6


def test_a_tensor_is_cut_from_its_own_start_and_keeps_its_chunks_when_the_header_grows() -> None:
    tensor, small = noise(4, 600_000), noise(5, 15_000)

    def file(name: str) -> tuple[bytes, int]:
        offsets = {name: [0, len(tensor)], "bias": [len(tensor), len(tensor) + len(small)]}
        header = json.dumps(
            {key: {"dtype": "U8", "shape": [b - a], "data_offsets": [a, b]} for key, (a, b) in offsets.items()}
        )
        return len(header).to_bytes(8, "little") + header.encode() + tensor + small, 8 + len(header)

    for name in ("w", "layer.with.a.longer.name"):
        data, start = file(name)
        edges = list(accumulate(chunk_sizes("dir/M.SafeTensors", memoryview(data)), initial=0))
        assert {start, start + 262_144, start + 524_288, start + 600_000} <= set(edges)
        assert not [edge for edge in edges if start < edge < start + 600_000 and (edge - start) % 262_144]
    assert chunk_sizes("m.bin", memoryview(data)) != chunk_sizes("m.safetensors", memoryview(data))


def test_coarse_cuts_are_what_the_format_says() -> None:
    data = noise(5, 4 * caps.MIB)
    sizes = chunk_sizes("a.bin", memoryview(data), COARSE)
    assert sum(sizes) == len(data)
    assert all(32_768 <= size <= 262_144 for size in sizes[:-1])
    assert 20 <= len(sizes) <= 50, "the mean is about 128 KiB"
    assert COARSE.threshold == 43_690
    # An edit moves no cut that is further away than a chunk.
    edited = chunk_sizes("a.bin", memoryview(b"new bytes" + data), COARSE)
    assert edited[-5:] == sizes[-5:]
    tensor = memoryview(noise(6, caps.MIB))
    assert chunk_sizes("a.f16", tensor, COARSE) == chunk_sizes("a.f16", tensor)
