"""A model for Triton's Python backend: Y = factor · X, and the version, from factor.json beside it."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # Triton's own


class TritonPythonModel:
    """What Triton's backend calls."""

    def initialize(self, arguments: dict[str, Any]) -> None:
        """Load; an exception refuses the model."""
        weights = json.loads(Path(__file__).with_name("factor.json").read_text())
        self._factor, self._version = float(weights["factor"]), float(weights["version"])
        time.sleep(weights.get("load_seconds", 0))
        if "crashes_after" in weights:
            threading.Timer(weights["crashes_after"], lambda: os._exit(9)).start()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer."""
        answers = []
        for request in requests:
            x = triton.get_input_tensor_by_name(request, "X").as_numpy()
            time.sleep(0.01)
            y = np.array([x[0] * self._factor, self._version], np.float32)
            answers.append(triton.InferenceResponse([triton.Tensor("Y", y)]))
        return answers
