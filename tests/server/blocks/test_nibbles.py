"""Packed quants of 4 bits whose scales are tensors of their own: ONNX int4, uint4 and MatMulNBits, TFLite int4."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelsync_protocol import codecs, containers
from modelsync_protocol.codecs import zstd
from modelsync_protocol.ops import Frame
from modelsync_server.blocks import block_tensors
from modelsync_server.blocks.candidate import encode_blocks
from modelsync_server.encode.encoder import Source
from tests.fuzz.seeds import tflite_model
from tests.server.tensors.worlds import carried_out, source
from tests.support import block_pairs

ROWS, COLUMNS = 96, 512
TFLITE_INT4 = 17


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def model(step: float, kind: int = TensorProto.INT4, bits: int = 4) -> onnx.ModelProto:
    """A MatMulNBits of blocks of 32, and a tensor of packed integers with a scale for each row."""
    first = block_pairs.weights(1, ROWS, COLUMNS, step).reshape(ROWS, -1, 32)
    scales = np.abs(first).max(2) / 7
    packed = (np.rint(first / scales[:, :, None]) + 8).astype(np.uint8)
    packed = packed[:, :, 0::2] | packed[:, :, 1::2] << 4
    second = block_pairs.weights(2, ROWS, COLUMNS, step, of=8)
    rows = np.abs(second).max(1) / 7
    codes = np.rint(second / rows[:, None]).astype(np.int8) & 15
    integers = TensorProto(name="W4", data_type=kind, dims=second.shape)
    integers.raw_data = (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8).tobytes()
    nodes = [
        helper.make_node(
            "MatMulNBits", ["x", "B", "s"], ["y"], domain="com.microsoft", K=COLUMNS, N=ROWS, bits=bits, block_size=32
        ),
        helper.make_node("DequantizeLinear", ["W4", "s4"], ["d"], axis=0),
    ]
    held = [numpy_helper.from_array(packed, "B"), numpy_helper.from_array(scales.reshape(-1), "s"), integers]
    held.append(numpy_helper.from_array(rows.astype(np.float32), "s4"))
    return helper.make_model(helper.make_graph(nodes, "g", [], [], held))


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
def test_packed_tensors_are_named(kind: int) -> None:
    data = memoryview(model(0.0, kind).SerializeToString())
    assert {tensor.name: tensor.dtype for tensor in containers.tensors("m.onnx", data)} == {
        ":B": "u8",
        ":s": "f32",
        ":W4": "u4",
        ":s4": "f32",
    }
    assert containers.nibbles("m.onnx", data) == {":B"}
    assert containers.nibbles("m.bin", data) == frozenset()
    assert containers.nibbles("m.onnx", memoryview(bytes(data)[:50])) == frozenset()


def test_bytes_of_other_widths_are_left_alone() -> None:
    found = source({"m.onnx": model(0.0, bits=8).SerializeToString()})
    assert [tensor.name for tensor in block_tensors.find(found.manifest, found.stream)] == [":W4"]


def test_an_update_of_packed_quants_costs_less_than_a_patch(pool: ThreadPoolExecutor) -> None:
    old, new = (model(step).SerializeToString() for step in (0.0, 3e-4))
    base, target = source({"m.onnx": old}), source({"m.onnx": new})
    made = encode_blocks(base, target, None, pool)
    assert made is not None and carried_out(made, base) == new
    assert made.cost < 0.75 * len(zstd.compress(new, old))


def test_int4_of_tflite_is_coded_against_the_old_quants(pool: ThreadPoolExecutor) -> None:
    rows = [block_pairs.weights(1, ROWS, COLUMNS, step) for step in (0.0, 3e-4)]
    files = []
    for matrix in rows:
        codes = np.rint(matrix / np.abs(rows[0]).max(1, keepdims=True) * 7).astype(np.int8) & 15
        files.append(tflite_model((codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8).tobytes(), TFLITE_INT4))
    base, target = (source({"m.tflite": data}) for data in files)
    assert [tensor.layout.name for tensor in block_tensors.find(target.manifest, target.stream)] == ["u4"]
    made = encode_blocks(base, target, None, pool)
    assert made is not None and carried_out(made, base) == files[1]
    assert made.cost < 0.75 * len(zstd.compress(files[1], files[0]))


def test_external_data_counts_too(pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    sources: list[Source] = []
    for number, step in enumerate((0.0, 3e-4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        onnx.save_model(
            model(step), folder / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=100
        )
        sources.append(source({path.name: path.read_bytes() for path in folder.iterdir()}))
    tensors = block_tensors.find(sources[1].manifest, sources[1].stream)
    assert {(tensor.path, tensor.layout.name) for tensor in tensors} == {("w.data", "u4")} and len(tensors) == 2
    made = encode_blocks(sources[0], sources[1], None, pool)
    assert made is not None and carried_out(made, sources[0]) == bytes(sources[1].stream)
    assert codecs.BLOCKS in {op.encoding for op in made.operations if isinstance(op, Frame)}
