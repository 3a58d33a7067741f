"""Writes the digits CNN as ONNX, float32 or int8 weights (onnx.helper only). No training here.

Both forms: image (n, 1, 8, 8) float32 to label (n,) int64 and logits (n, 10) float32. The int8 form keeps each
weight matrix as int8 with one scale per output channel and puts a DequantizeLinear before it: a quarter of the
bytes, and float arithmetic, which any CPU has. Biases stay float32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from examples.digits.network import SHAPES, Array, Weights

OPSET = 17
IR_VERSION = 8
"""What ONNX Runtime 1.21 and much older ones load."""


def to_onnx(weights: Weights, *, int8: bool) -> bytes:
    """The network with `weights` as the bytes of an ONNX file; the same weights give the same bytes."""
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    for layer in SHAPES:
        initializers.append(numpy_helper.from_array(weights[f"{layer}.bias"], f"{layer}.bias"))
        if int8:
            quantised, scale = quantise(weights[f"{layer}.weight"])
            names = [f"{layer}.weight.int8", f"{layer}.weight.scale", f"{layer}.weight.zero"]
            zero = np.zeros(len(scale), np.int8)
            initializers += [
                numpy_helper.from_array(quantised, names[0]),
                numpy_helper.from_array(scale, names[1]),
                numpy_helper.from_array(zero, names[2]),
            ]
            nodes.append(helper.make_node("DequantizeLinear", names, [f"{layer}.weight"], axis=0))
        else:
            initializers.append(numpy_helper.from_array(weights[f"{layer}.weight"], f"{layer}.weight"))
    graph = helper.make_graph(
        nodes + _layers(),
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10]),
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="modelsync")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def quantise(weight: Array) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int8]], Array]:
    """Symmetric int8 (-127 to 127) of `weight` and its scale per output channel (axis 0)."""
    rows = weight.reshape(len(weight), -1)
    scale = (np.abs(rows).max(axis=1) / np.float32(127)).astype(np.float32)
    steps = np.rint(rows / scale[:, None]).astype(np.int8)
    return steps.reshape(weight.shape), scale


def _layers() -> list[onnx.NodeProto]:
    make = helper.make_node
    pads = [1, 1, 1, 1]
    return [
        make("Conv", ["image", "conv1.weight", "conv1.bias"], ["conv1"], kernel_shape=[3, 3], pads=pads),
        make("Relu", ["conv1"], ["active1"]),
        make("Conv", ["active1", "conv2.weight", "conv2.bias"], ["conv2"], kernel_shape=[3, 3], pads=pads),
        make("Relu", ["conv2"], ["active2"]),
        make("MaxPool", ["active2"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        make("Flatten", ["pooled"], ["flat"]),
        make("Gemm", ["flat", "dense1.weight", "dense1.bias"], ["dense1"], transB=1),
        make("Relu", ["dense1"], ["hidden"]),
        make("Gemm", ["hidden", "dense2.weight", "dense2.bias"], ["logits"], transB=1),
        make("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
