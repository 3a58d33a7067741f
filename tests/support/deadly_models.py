"""ONNX models that kill or hang the process that runs them. Never load these outside a worker process."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.support.tiny_models import model_bytes

_LEAST = -(2**63)
"""Divided by -1 it overflows, which no ONNX Runtime up to 1.32 survives; newer ones survive a division by zero."""


def crashes_while_loading() -> bytes:
    """Divides the least integer by -1 when constants are folded."""
    return model_bytes(
        [
            helper.make_node("Div", ["least", "minus_one"], ["nonsense"]),
            helper.make_node("Add", ["X", "nonsense"], ["y"]),
        ],
        [helper.make_tensor_value_info("X", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1])],
        [_constant("least", _LEAST), _constant("minus_one", -1)],
    )


def divider(version: int) -> bytes:
    """X (INT64 [1]) → y = version; 0 kills the process, by a division of the least integer by 2 X - 1."""
    return model_bytes(
        [
            helper.make_node("Mul", ["two", "X"], ["twice"]),
            helper.make_node("Sub", ["twice", "one"], ["divisor"]),
            helper.make_node("Div", ["least", "divisor"], ["divided"]),
            helper.make_node("Mul", ["divided", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "version"], ["y"]),
        ],
        [helper.make_tensor_value_info("X", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1])],
        [
            _constant("version", version),
            _constant("least", _LEAST),
            *(_constant(name, value) for value, name in enumerate(("zero", "one", "two"))),
        ],
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


def _constant(name: str, value: int) -> TensorProto:
    return numpy_helper.from_array(np.array([value], dtype=np.int64), name)
