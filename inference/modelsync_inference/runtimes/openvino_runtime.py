"""The runtime port on OpenVINO, on the CPU: its own IR (.xml with .bin) and, where that is chosen, ONNX files.

Source: https://docs.openvino.ai/2026/openvino-workflow/running-inference.html
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from modelsync_inference.errors import InputError, ModelRefusedError, RunError
from modelsync_inference.runtimes.datatypes import Array, numpy_dtype
from modelsync_inference.runtimes.onnx_sessions import Choice
from modelsync_inference.runtimes.port import LoadedModel, Stated, TensorSpec

_DEVICE = "CPU"
_DATATYPES = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
}
"""No strings: its CPU plugin takes them for extensions' sake, and a plain copy of one ends the process (2026.4)."""


class OpenVinoEngine:
    """Compiles models for the CPU, with streams for as many runs at a time as are wanted."""

    def __init__(self, choice: Choice) -> None:
        self._core = openvino.Core()
        self._properties = {
            "INFERENCE_NUM_THREADS": str(choice.threads * choice.runs),
            "NUM_STREAMS": str(choice.runs),
            # As it stands in the file: fewer bits, where a processor has them, would answer its probe differently.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._runs = choice.runs
        self._core.get_property(_DEVICE, "SUPPORTED_PROPERTIES")  # without its plugin, this says so

    def load_from(self, path: Path, data: bytes | None, stated: Stated) -> LoadedModel:
        """See Engine. The weights of an IR are mapped."""
        try:
            model = self._core.read_model(str(path))
            compiled = self._core.compile_model(model, _DEVICE, self._properties)
            requests = [compiled.create_infer_request() for _ in range(self._runs)]
        except (RuntimeError, ValueError, TypeError) as error:
            raise ModelRefusedError(f"OpenVINO can't load {path.name}: {_told(error)}.") from error
        return OpenVinoModel(compiled, requests)


class OpenVinoModel:
    """A compiled model."""

    platform = "openvino"

    def __init__(self, compiled: Any, requests: Sequence[Any]) -> None:
        """`requests`: one for each run at the same time."""
        self.inputs = tuple(_spec("input", number, port) for number, port in enumerate(compiled.inputs))
        self.outputs = tuple(_spec("output", number, port) for number, port in enumerate(compiled.outputs))
        self._compiled = compiled
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for request in requests:
            self._free.put(request)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """See LoadedModel. State that a model keeps between runs is reset before each."""
        request = self._free.get()
        if request is None:
            self._free.put(None)
            raise RunError("the model is closed.")
        try:
            for number, spec in enumerate(self.inputs):
                self._set(request, number, spec, inputs[spec.name])
            try:
                request.reset_state()
                request.infer()
                return {
                    # A copy: the request's own memory is the next run's.
                    spec.name: np.array(request.get_output_tensor(number).data, copy=True)
                    for number, spec in enumerate(self.outputs)
                    if spec.name in outputs
                }
            except RuntimeError as error:
                raise RunError(f"the model broke while it ran: {_told(error)}.") from error
        finally:
            self._free.put(request)

    def _set(self, request: Any, number: int, spec: TensorSpec, array: Array) -> None:
        try:
            dtype = numpy_dtype(spec.datatype)
            tensor = openvino.Tensor(np.require(array, dtype=dtype, requirements=["C", "A"]))
            request.set_input_tensor(number, tensor)
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"OpenVINO refuses input {spec.name!r}: {_told(error)}.") from error

    def close(self) -> None:
        """Drop the compiled model, which frees its weights, memory and threads."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait()
        self._free.put(None)
        self._compiled = None


def _spec(what: str, number: int, port: Any) -> TensorSpec:
    names = sorted(port.get_names()) or [port.get_node().get_friendly_name() or f"{what}_{number}"]
    datatype = _DATATYPES.get(port.get_element_type().get_type_name())
    if datatype is None:
        raise ModelRefusedError(
            f"{what} {names[0]!r:.80} is of type {port.get_element_type().get_type_name()}; what is served by "
            f"OpenVINO is {', '.join(sorted(_DATATYPES.values()))}."
        )
    partial = port.get_partial_shape()
    if partial.rank.is_dynamic:
        return TensorSpec(names[0], datatype, None)
    shape = tuple(size.get_length() if size.is_static else -1 for size in partial)
    return TensorSpec(names[0], datatype, shape)


def _told(error: Exception) -> str:
    """Without the places in OpenVINO's source that its errors begin with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from src/", "Check '"))] or lines
    return " ".join(" ".join(told).split()).rstrip(".")[:400] or type(error).__name__
