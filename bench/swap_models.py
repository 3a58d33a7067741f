"""The models of the swap benchmark: a small CNN and a large stack of matrices, whose answers prove their version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

_OPSET, _IR_VERSION = 17, 10
_SIDE, _LAYERS = 1536, 10


def cnn(version: int, *, proof: bool = True) -> bytes:
    """X (FP32 [n, 1, 28, 28]) → y [n, 10] and, if wanted, proof [1] = version; about 200 KB of weights."""
    random = np.random.default_rng(version)
    constants = [
        _weights(random, "c1", (16, 1, 3, 3)),
        _weights(random, "c2", (32, 16, 3, 3)),
        _weights(random, "d", (32 * 7 * 7, 32)),
        _weights(random, "e", (32, 10)),
    ]
    nodes = [
        helper.make_node("Conv", ["X", "c1"], ["h1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Conv", ["h2", "c2"], ["h3"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["h3"], ["h4"]),
        helper.make_node("Flatten", ["h4"], ["h5"]),
        helper.make_node("MatMul", ["h5", "d"], ["h6"]),
        helper.make_node("MatMul", ["h6", "e"], ["y"]),
    ]
    return _model(nodes, constants, ["n", 1, 28, 28], ["n", 10], version if proof else None)


def large(version: int, *, proof: bool = True) -> bytes:
    """X (FP32 [n, 1536]) → y [n, 1536] and, if wanted, proof; 94 MB of weights."""
    random = np.random.default_rng(version)
    names = ["X", *(f"h{layer}" for layer in range(1, _LAYERS)), "y"]
    constants = [_weights(random, f"w{layer}", (_SIDE, _SIDE)) for layer in range(_LAYERS)]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(_LAYERS)]
    return _model(nodes, constants, ["n", _SIDE], ["n", _SIDE], version if proof else None)


MODELS = {"cnn": (cnn, (1, 1, 28, 28)), "large": (large, (1, _SIDE))}
"""Name, maker and the shape of one input."""


def probe(path: Path, shape: tuple[int, ...]) -> dict[str, object]:
    """A probe as a publisher would record it from the model at `path`."""
    image = (np.arange(np.prod(shape), dtype=np.float32) % 7 / np.float32(7)).reshape(shape)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = session.run(["y", "proof"], {"X": image})
    outputs = {name: _tensor(value) for name, value in zip(("y", "proof"), values, strict=True)}
    return {
        "format": 1,
        "cases": [{"inputs": {"X": _tensor(image)}, "outputs": outputs}],
        "tolerance": {"absolute": "0.001", "relative": "0.001"},
    }


def _tensor(array: Array) -> dict[str, object]:
    return {"shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}


def _weights(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
    fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
    values = (random.random(shape, dtype=np.float32) - np.float32(0.5)) * np.float32(2 / fan_in**0.5)
    return numpy_helper.from_array(values, name)


def _model(nodes: list[Any], constants: list[Any], x: list[Any], y: list[Any], version: int | None) -> bytes:
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)]
    if version is not None:
        nodes, constants, outputs = _with_proof(nodes, constants, outputs, version)
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, x)]
    graph = helper.make_graph(nodes, "bench", inputs, outputs, constants)
    opset = [helper.make_opsetid("", _OPSET)]
    data: bytes = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION).SerializeToString()
    return data


def _with_proof(
    nodes: list[Any], constants: list[Any], outputs: list[Any], version: int
) -> tuple[list[Any], list[Any], list[Any]]:
    # It hangs on the input, so that no optimiser turns it into something that could outlive its model.
    proof = [
        helper.make_node("ReduceSum", ["X"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "version"], ["proof"]),
    ]
    numbers = [("zero", 0.0), ("version", float(version))]
    more = [numpy_helper.from_array(np.array([value], dtype=np.float32), name) for name, value in numbers]
    info = helper.make_tensor_value_info("proof", TensorProto.FLOAT, [1])
    return nodes + proof, constants + more, [*outputs, info]
