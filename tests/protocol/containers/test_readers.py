"""Readers of model files: right ranges and types, nothing executed, and no file that breaks them."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsync_protocol import containers
from modelsync_protocol.containers.ranges import TensorRange
from tests.protocol.containers.make_models import (
    MATRIX,
    NCNN,
    OPENVINO,
    an_exported_program,
    core_ml_weights,
    ncnn_weights,
)
from tests.support import gguf_files

SUFFIXES = (
    "onnx",
    "safetensors",
    "tflite",
    "npy",
    "npz",
    "pt",
    "pth",
    "bin",
    "pkl",
    "pickle",
    "joblib",
    "gguf",
    "pt2",
    "xml",
    "param",
)
ARRAYS: dict[str, Any] = {
    "a": MATRIX,
    "b": np.linspace(0, 1, 50),
    "c": np.arange(100, dtype="i1"),
    "d": [MATRIX.astype("f2")],
}


def read(path: str, data: bytes) -> list[TensorRange]:
    return containers.tensors(path, memoryview(data))


def content(data: bytes, tensor: TensorRange) -> bytes:
    return data[tensor.offset : tensor.offset + tensor.length]


def a_joblib() -> bytes:
    joblib = pytest.importorskip("joblib")
    out = io.BytesIO()
    joblib.dump(ARRAYS, out)
    return out.getvalue()


def an_npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=MATRIX, b=ARRAYS["b"])
    return out.getvalue()


def an_npy() -> bytes:
    out = io.BytesIO()
    np.save(out, MATRIX)
    return out.getvalue()


def a_safetensors() -> bytes:
    header = {"w": {"dtype": "F32", "shape": [20, 30], "data_offsets": [0, MATRIX.nbytes]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + MATRIX.tobytes()


def a_torch_zip() -> bytes:
    """What torch.save writes for {"layer.weight": tensor}, with its pickle written by hand."""
    build = (
        b"\x80\x02}q\x00X\x0c\x00\x00\x00layer.weightq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02"
        b"((X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpu"
        b"q\x06MX\x02tq\x07QK\x00K\x14K\x1e\x86q\x08K\x1eK\x01\x86q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0bt"
        b"q\x0cRq\rs."
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", build)
        archive.writestr("model/data/0", MATRIX.tobytes())
        archive.writestr("model/version", "3\n")
    return out.getvalue()


def an_onnx() -> bytes:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", scale=[1.5] * 40)],
        "g",
        [],
        [],
        [
            onnx.numpy_helper.from_array(MATRIX, "raw"),
            onnx.helper.make_tensor("typed", onnx.TensorProto.FLOAT, (20, 30), MATRIX.ravel().tolist()),
            onnx.helper.make_tensor("whole", onnx.TensorProto.INT64, (3,), [1, 2, 300]),
        ],
    )
    data: bytes = onnx.helper.make_model(graph).SerializeToString()
    return data


def an_older_exported_program() -> bytes:
    """A `.pt2` as PyTorch wrote it until 2.6: the state is an archive in the archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", a_torch_zip())
    return out.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "pt2": an_exported_program,
    "bin": core_ml_weights,
    "onnx": an_onnx,
    "safetensors": a_safetensors,
    "npy": an_npy,
    "npz": an_npz,
    "pt": a_torch_zip,
    "pkl": lambda: pickle.dumps(ARRAYS, protocol=4),
    "pickle": lambda: pickle.dumps(ARRAYS, protocol=5),
    "joblib": a_joblib,
    "gguf": lambda: gguf_files.gguf({"w": ("f32", MATRIX.shape, MATRIX.tobytes())}),
}


@pytest.mark.parametrize("suffix", sorted(FILES))
def test_a_matrix_is_found_with_its_type_and_shape(suffix: str) -> None:
    data = FILES[suffix]()
    found = [tensor for tensor in read(f"model.{suffix}", data) if content(data, tensor) == MATRIX.tobytes()]
    assert found
    shape = () if suffix == "bin" else (20, 30)  # Core ML keeps shapes in another file
    assert {(tensor.dtype, tensor.shape) for tensor in found} == {("f32", shape)}


def test_all_of_onnx() -> None:
    data = an_onnx()
    types = {tensor.name.rpartition(":")[2]: tensor.dtype for tensor in read("m.onnx", data)}
    assert types["raw"] == types["typed"] == "f32"
    assert types["whole"] is None  # varints: no fixed width


def test_names_of_torch_tensors_are_their_keys() -> None:
    assert [tensor.name for tensor in read("m.pt", a_torch_zip())] == ["layer.weight"]


def test_an_older_exported_program_holds_an_archive() -> None:
    data = an_older_exported_program()
    (found,) = read("m.pt2", data)
    assert (found.name, found.dtype, found.shape) == ("serialized_state_dict.pt:layer.weight", "f32", (20, 30))
    assert content(data, found) == MATRIX.tobytes()


def test_core_ml_weights_are_typed_blobs() -> None:
    assert [(tensor.name, tensor.dtype) for tensor in read("weight.bin", core_ml_weights())] == [
        ("blob 0", "f16"),
        ("blob 1", "f32"),
    ]


def test_openvino_says_what_is_in_the_file_beside_it() -> None:
    weight, mask = containers.external_tensors("ir/model.xml", memoryview(OPENVINO))
    assert (weight.name, weight.location, weight.offset, weight.length) == ("fc/weight", "model.bin", 8, 2400)
    assert (weight.dtype, weight.shape, mask.dtype) == ("f32", (20, 30), "u8")


def test_ncnn_weights_lie_in_the_order_of_the_layers() -> None:
    """Each layer's flag says its type; where a layer is not known, what follows is not guessed."""
    weights = memoryview(ncnn_weights())
    found = containers.external_tensors("m.param", memoryview(NCNN), {"m.bin": weights}.get)
    assert [(tensor.name, tensor.dtype) for tensor in found] == [
        ("c1.weight", "f16"),
        ("c1.bias", "f32"),
        ("bn.slope", "f32"),
        ("bn.mean", "f32"),
        ("bn.variance", "f32"),
        ("bn.bias", "f32"),
        ("fc.weight", "f32"),
        ("fc.bias", "f32"),
    ]
    matrix = found[6]
    assert matrix.length == MATRIX.nbytes
    assert bytes(weights[matrix.offset : matrix.offset + MATRIX.nbytes]) == MATRIX.tobytes()
    assert containers.external_tensors("m.param", memoryview(NCNN)) == []
    for size in range(0, len(weights), 7):
        for tensor in containers.external_tensors("m.param", memoryview(NCNN), {"m.bin": weights[:size]}.get):
            assert tensor.length is not None and tensor.offset + tensor.length <= size


def test_typed_arrays_of_pickles_in_order() -> None:
    for protocol in (3, 4, 5):
        found = read("m.pkl", pickle.dumps(ARRAYS, protocol=protocol))
        assert [tensor.dtype for tensor in found] == ["f32", "f64", "i8", "f16"]


def test_compressed_arrays_are_opaque() -> None:
    out = io.BytesIO()
    np.savez_compressed(out, a=MATRIX)
    assert read("m.npz", out.getvalue()) == []


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    data = pickle.dumps([Hostile(), MATRIX])
    assert len(read("m.pkl", data)) == 1
    assert not mark.exists()


def test_ranges_ascend_and_do_not_overlap() -> None:
    for suffix, make in FILES.items():
        data = make()
        end = 0
        for tensor in read(f"m.{suffix}", data):
            assert tensor.offset >= end
            end = tensor.offset + tensor.length
        assert end <= len(data)


@pytest.mark.parametrize("suffix", sorted(FILES))
def test_damaged_files_are_opaque_or_bounded(suffix: str) -> None:
    data = FILES[suffix]()
    source = random.Random(suffix)
    for _ in range(250):
        damaged = bytearray(data[: source.choice((len(data), source.randrange(len(data) + 1)))])
        for _ in range(source.choice((1, 3))):
            if damaged:
                # Mostly in the structure, which stands at the front and at the end.
                place = min(source.choice((source.randrange(len(damaged)), source.randrange(200))), len(damaged) - 1)
                damaged[place] = source.randrange(256)
        for tensor in read(f"m.{suffix}", bytes(damaged)):
            assert 0 <= tensor.offset <= tensor.offset + tensor.length <= len(damaged)


@given(st.sampled_from(SUFFIXES), st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_garbage_is_opaque_or_bounded(suffix: str, garbage: bytes) -> None:
    for lead in (
        b"",
        b"PK\x05\x06",
        b"\x80\x04",
        b"\x93NUMPY\x01\x00",
        b"\x1c\x00\x00\x00TFL3",
        b"GGUF\x03\x00\x00\x00",
        NCNN,
    ):
        data = lead + garbage
        for tensor in read(f"m.{suffix}", data):
            assert 0 <= tensor.offset <= tensor.offset + tensor.length <= len(data)
        for beside in ({}, {"m.bin": memoryview(garbage)}):
            containers.external_tensors(f"m.{suffix}", memoryview(data), beside.get)


def test_other_files_are_opaque() -> None:
    assert read("labels.txt", b"cat\ndog\n") == []
    assert containers.cut_ranges("m.pkl", memoryview(pickle.dumps(MATRIX))) == []
