"""What a worker process for ONNX files needs: ONNX Runtime set up before the fork, and the load of one file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from modelsync_inference.runtimes.onnx_sessions import Choice
from modelsync_inference.runtimes.port import LoadedModel

_TINY = (
    b"CAgSADpOChEKAXgKAXgSAWEiBk1hdE11bAoMCgFhEgF5IgRSZWx1EgF3WhMKAXgSDgoMCAESCAoCCAEK"
    b"AggBYhMKAXkSDgoMCAESCAoCCAEKAggBQgQKABAR"
)
"""An ONNX model of opset 17, y = Relu(MatMul(x, x)) with x FP32 [1, 1], in base64."""


def warm_up() -> None:
    """Have ONNX Runtime set up, in the process that workers are forked from, what every first session sets up."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # none but this one: a fork would lose them
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(base64.b64decode(_TINY), options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.ones((1, 1), dtype=np.float32)})


def load(order: Mapping[str, Any]) -> LoadedModel:
    """Load what `order_of` describes; ModelRefusedError."""
    cache = order["cache"]
    choice = Choice(order["threads"], order["prepack"], order["arena"], Path(cache) if cache else None)
    return OnnxRuntime(choice).load(Path(order["path"]))
