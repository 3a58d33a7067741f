"""A model for Triton's Python backend that says which version answers, from factor.json beside it.

It does so in an error's text: the server in PyTriton's wheel hands out no tensors without a GPU (seen with 0.7.0).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # Triton's own


class TritonPythonModel:
    """What Triton's backend calls."""

    def initialize(self, arguments: dict[str, Any]) -> None:
        """Load; an exception refuses the model."""
        weights = json.loads(Path(__file__).with_name("factor.json").read_text())
        self._factor, self._version = float(weights["factor"]), weights["version"]
        time.sleep(weights.get("load_seconds", 0))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer."""
        answers = []
        for request in requests:
            x = float(triton.get_input_tensor_by_name(request, "X").as_numpy()[0])
            time.sleep(0.01)
            text = f"y={self._factor * x:g} version={self._version}"
            answers.append(triton.InferenceResponse(error=triton.TritonError(text)))
        return answers
