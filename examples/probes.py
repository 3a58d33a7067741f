"""Records probe files (docs/interfaces.md §2) from a right model. Judging a model by one is inference's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]

_DATATYPES = {"float32": "FP32", "int64": "INT64"}


def tensor(array: Array) -> dict[str, Any]:
    """`array` in the Open Inference Protocol's JSON form; raise KeyError unless it is float32 or int64.

    A float32 is written as the shortest decimal that reads back as the same float32.
    """
    data = [float(str(x)) if array.dtype == np.float32 else int(x) for x in array.ravel()]
    return {"shape": list(array.shape), "datatype": _DATATYPES[array.dtype.name], "data": data}


def record(model: Path, inputs: Sequence[Mapping[str, Array]], tolerance: str) -> bytes:
    """Run the ONNX file `model` on each of `inputs` and return the probe file that holds its answers.

    `tolerance` (a decimal string) is both the absolute and the relative one: what two runtimes may differ by.
    """
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    cases = []
    for case in inputs:
        answers = session.run(names, dict(case))
        cases.append(
            {
                "inputs": {name: tensor(array) for name, array in case.items()},
                "outputs": {name: tensor(array) for name, array in zip(names, answers, strict=True)},
            }
        )
    probe = {"format": 1, "cases": cases, "tolerance": {"absolute": tolerance, "relative": tolerance}}
    return json.dumps(probe, separators=(",", ":")).encode() + b"\n"
