"""Reads a probe file as docs/interfaces.md §2 says and holds a model against it with ONNX Runtime. Tests only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

DTYPES = {"FP32": np.float32, "INT64": np.int64}


def load(model: Path) -> onnxruntime.InferenceSession:
    """A session on the ONNX file `model`."""
    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])


def array(tensor: dict[str, Any]) -> npt.NDArray[Any]:
    """The array that a tensor of the Open Inference Protocol describes."""
    return np.array(tensor["data"], DTYPES[tensor["datatype"]]).reshape(tensor["shape"])


def passes(model: Path, probe: Path) -> bool:
    """Whether every output of every case is within the probe's tolerance."""
    document = json.loads(probe.read_text())
    assert document["format"] == 1 and document["cases"]
    absolute, relative = (float(document["tolerance"][kind]) for kind in ("absolute", "relative"))
    session = load(model)
    return all(
        np.allclose(answer, array(expected), rtol=relative, atol=absolute)
        for case in document["cases"]
        for answer, expected in zip(
            session.run(list(case["outputs"]), {name: array(t) for name, t in case["inputs"].items()}),
            case["outputs"].values(),
            strict=True,
        )
    )
