"""Tiny ONNX models that say which version they are, and probes for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR_VERSION = 17, 10  # what ONNX Runtime 1.21 loads


def model_bytes(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> bytes:
    """Serialise a graph, with the machine-learning operators at hand."""
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    data: bytes = model.SerializeToString()
    return data


def scaler(factor: int, width: int = 3) -> bytes:
    """X (FP32 [n, width]) → y = X * factor and tag = [factor] (INT64): mixed answers would show."""
    return model_bytes(
        [
            helper.make_node("Mul", ["X", "factor"], ["y"]),
            helper.make_node("Identity", ["factor_tag"], ["tag"]),
        ],
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", width])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width]),
            helper.make_tensor_value_info("tag", TensorProto.INT64, [1]),
        ],
        [
            numpy_helper.from_array(np.array(factor, dtype=np.float32), "factor"),
            numpy_helper.from_array(np.array([factor], dtype=np.int64), "factor_tag"),
        ],
    )


def row_scaler(factor: int) -> bytes:
    """X (FP32 [n, 3]) → y = X * factor, nothing else: a model whose requests may be run together."""
    return model_bytes(
        [helper.make_node("Mul", ["X", "factor"], ["y"])],
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array(factor, dtype=np.float32), "factor")],
    )


def mixer() -> bytes:
    """X (FP32 [n, 3]) → y = X minus the mean of each column: a row's answer hangs on its neighbours."""
    return model_bytes(
        [
            helper.make_node("ReduceMean", ["X"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["X", "mean"], ["y"]),
        ],
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [],
    )


def scaler_probe(factor: float, width: int = 3) -> dict[str, Any]:
    """The probe that `scaler(factor)` passes."""
    values = [float(i + 1) for i in range(width)]
    return {
        "format": 1,
        "cases": [
            {
                "inputs": {"X": {"shape": [1, width], "datatype": "FP32", "data": values}},
                "outputs": {"y": {"shape": [1, width], "datatype": "FP32", "data": [v * factor for v in values]}},
            }
        ],
        "tolerance": {"absolute": "0.001", "relative": "0.001"},
    }


def echo(element: int, name: str = "text") -> bytes:
    """One input passed through unchanged, of any shape of rank 1."""
    return model_bytes(
        [helper.make_node("Identity", [name], ["echo"])],
        [helper.make_tensor_value_info(name, element, ["n"])],
        [helper.make_tensor_value_info("echo", element, ["n"])],
        [],
    )


def zipmap(*, only: bool) -> bytes:
    """Scores through a ZipMap, as scikit-learn exports have it: a sequence of maps (and, unless `only`, the tensor)."""
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, shape=None))
    )
    outputs = [helper.make_value_info("maps", maps)]
    if not only:
        outputs.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2]))
    return model_bytes(
        [
            helper.make_node("Identity", ["X"], ["scores"]),
            helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
        ],
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 2])],
        outputs,
        [],
    )


def picky(limit: int = 2) -> bytes:
    """Gathers rows by an INT64 index: indices beyond `limit` break the run although the shape fits."""
    return model_bytes(
        [helper.make_node("Gather", ["rows", "index"], ["row"])],
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.arange(limit + 1, dtype=np.float32), "rows")],
    )


def heavy(seed: int, side: int = 2048, layers: int = 4) -> bytes:
    """X (FP32 [n, side]) through `layers` matrices of side x side: layers * side^2 * 4 bytes of weights."""
    weights = np.random.default_rng(seed).random((side, side), dtype=np.float32)
    names = ["X", *(f"h{i}" for i in range(layers))]
    return model_bytes(
        [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)],
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", side])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["n", side])],
        [numpy_helper.from_array(weights + np.float32(i), f"w{i}") for i in range(layers)],
    )
