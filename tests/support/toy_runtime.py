"""A runtime that implements the inference side's port without ONNX: it counts loads and can be held up."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from modelsync_inference import InputError, LoadedModel, ModelRefusedError, RunError, TensorSpec
from modelsync_inference.runtimes.datatypes import Array


def toy(factor: int) -> bytes:
    """A model file of the toy runtime with the interface of `tiny_models.scaler`."""
    return json.dumps({"factor": factor}).encode()


class ToyModel:
    """y = X * factor, tag = [factor]. `broken` makes every run fail; `gate`, if cleared, holds every run up."""

    platform = "toy"
    inputs = (TensorSpec("X", "FP32", (-1, 3)),)
    outputs = (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("tag", "INT64", (1,)))

    def __init__(self, factor: int, runtime: ToyRuntime) -> None:
        self._factor, self._runtime = factor, runtime
        self.closed = False
        self.broken = False

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """See LoadedModel; running a closed model is the worst that a swap could do, so it fails loudly."""
        self._runtime.run_gate.wait()
        if self.closed or self.broken:
            raise RunError("this model was closed." if self.closed else "this model is broken.")
        if inputs["X"].ndim != 2:
            raise InputError("X must have two dimensions.")
        values = {"y": inputs["X"] * np.float32(self._factor), "tag": np.array([self._factor])}
        return {name: values[name] for name in outputs}

    def close(self) -> None:
        """See LoadedModel."""
        self.closed = True


class ToyRuntime:
    """Loads toy files. `loads`: the factors in order; `gate` and `run_gate` let loads and runs pass while set."""

    def __init__(self) -> None:
        self.loads: list[int] = []
        self.models: list[ToyModel] = []
        self.gate, self.run_gate = threading.Event(), threading.Event()
        self.gate.set()
        self.run_gate.set()

    def load(self, path: Path) -> LoadedModel:
        """See Runtime."""
        self.gate.wait()
        try:
            factor = int(json.loads(path.read_bytes())["factor"])
        except (ValueError, KeyError) as error:
            raise ModelRefusedError(f"{path.name} is not a toy.") from error
        self.loads.append(factor)
        self.models.append(ToyModel(factor, self))
        return self.models[-1]
