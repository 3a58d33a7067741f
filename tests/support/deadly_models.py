"""ONNX models that kill or hang the process that runs them. Never load these outside a worker process."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.support.tiny_models import model_bytes


def crashes_while_loading() -> bytes:
    """Divides the integer constants 1 and 0 when they are folded, which ONNX Runtime does not survive."""
    return model_bytes(
        [
            helper.make_node("Div", ["one", "zero"], ["nonsense"]),
            helper.make_node("Add", ["X", "nonsense"], ["y"]),
        ],
        [helper.make_tensor_value_info("X", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1])],
        [numpy_helper.from_array(np.array([value], dtype=np.int64), name) for name, value in (("one", 1), ("zero", 0))],
    )


def divider(version: int) -> bytes:
    """X (INT64 [1]) → y = version / X: 1 gives the version, 0 kills the process."""
    return model_bytes(
        [helper.make_node("Div", ["version", "X"], ["y"])],
        [helper.make_tensor_value_info("X", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1])],
        [numpy_helper.from_array(np.array([version], dtype=np.int64), "version")],
    )


def looper() -> bytes:
    """X (INT64 [1]) → y = X, counted up in X rounds: 1 is quick, 2**62 takes for ever."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["sum", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.INT64, [1]),
        ],
    )
    return model_bytes(
        [
            helper.make_node("Squeeze", ["X"], ["rounds"]),
            helper.make_node("Loop", ["rounds", "true", "none"], ["y"], body=body),
        ],
        [helper.make_tensor_value_info("X", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1])],
        [
            numpy_helper.from_array(np.array(True), "true"),
            numpy_helper.from_array(np.array([0], dtype=np.int64), "none"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "one"),
        ],
    )
