"""HDF5 files of every generation: datasets by name, type, shape and bytes; and no file that breaks the reader."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest

from modelsync_protocol import containers
from modelsync_protocol.containers import hdf5
from modelsync_protocol.errors import FormatError
from modelsync_protocol.plain import recipes
from tests.protocol.containers import make_hdf5

ALL = pytest.mark.parametrize("generation", make_hdf5.GENERATIONS)


def file(generation: str) -> bytes:
    return (make_hdf5.FOLDER / f"{generation}.h5").read_bytes()


@ALL
def test_contiguous_datasets_are_found_however_many_links_a_group_has(generation: str) -> None:
    data = file(generation)
    found = {tensor.name: tensor for tensor in containers.tensors("model.h5", memoryview(data))}
    for number in range(make_hdf5.LAYERS):
        values = make_hdf5.values(number)
        tensor = found[f"layers/{number:02}/kernel"]
        assert (tensor.dtype, tensor.shape) == ("f32", values.shape)
        assert data[tensor.offset : tensor.offset + tensor.length] == values.tobytes()
    assert found["half"].dtype == "f16"


@ALL
def test_chunks_are_found_with_their_filters(generation: str) -> None:
    data = file(generation)
    found = {dataset.name: dataset for dataset in hdf5.datasets(memoryview(data))}
    assert [item.number for item in found["shuffled"].filters] == [hdf5.SHUFFLE, hdf5.DEFLATE, hdf5.CHECKSUM]
    for name in ("plain", "gzip", "shuffled"):
        dataset = found[name]
        assert dataset.chunk_shape == (8, 20) and len(dataset.chunks) == 3
        rows = []
        for chunk in dataset.chunks:
            part = data[chunk.offset : chunk.offset + chunk.size]
            if name != "plain":
                part = zlib.decompressobj().decompress(part)
            rows.append(recipes.unshuffled(part, 4) if name == "shuffled" else part)
        assert b"".join(rows) == make_hdf5.matrix().astype(np.float32).tobytes()


@ALL
def test_chunks_without_filters_are_tensors(generation: str) -> None:
    names = [tensor.name for tensor in containers.tensors("model.hdf5", memoryview(file(generation)))]
    assert {"plain[0]", "plain[1]", "plain[2]"} <= set(names)
    assert not any(name.startswith(("gzip", "shuffled")) for name in names)


@ALL
def test_no_damage_breaks_the_reader(generation: str) -> None:
    data = file(generation)
    chance = random.Random(generation)
    for cut in range(0, len(data), 97):
        containers.tensors("model.h5", memoryview(data[:cut]))
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 255, chance.randrange(256)))
        containers.tensors("model.h5", memoryview(bytes(damaged)))


def test_what_is_no_hdf5_file_is_refused() -> None:
    for data in (b"", b"\x89HDF\r\n\x1a\n", bytes(200)):
        with pytest.raises(FormatError):
            list(hdf5.datasets(memoryview(data)))
        assert containers.tensors("model.h5", memoryview(data)) == []
