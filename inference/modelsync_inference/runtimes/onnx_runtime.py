"""The runtime port on ONNX Runtime (1.21 to 1.32), on the CPU or its other providers. Only ONNX files are executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from modelsync_inference.errors import InputError, ModelRefusedError, RunError
from modelsync_inference.runtimes.datatypes import BYTES, Array, numpy_dtype
from modelsync_inference.runtimes.mapped_weights import mapped
from modelsync_inference.runtimes.onnx_providers import open_session
from modelsync_inference.runtimes.onnx_sessions import Choice
from modelsync_inference.runtimes.port import LoadedModel, TensorSpec

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}
_FATAL_ONLY = 4  # what goes wrong in a run or a load comes as an exception
_InvalidArgument = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument


class OnnxRuntime:
    """Loads ONNX files by path, each into a session of its own whose threads don't spin."""

    def __init__(self, choice: Choice | None = None) -> None:
        self._choice = choice or Choice()

    def load(self, path: Path) -> LoadedModel:
        """Load `path`; ModelRefusedError if it is no ONNX model, is damaged, or takes what isn't a tensor."""
        cache = self._choice.cache
        return self.load_laid_out(path, mapped(path, cache) if cache is not None else None)

    def load_laid_out(self, path: Path, light: Path | None, data: bytes | None = None) -> LoadedModel:
        """As `load`. `light`: its copy with mapped weights; `data`: all of its bytes, with which no file is opened."""
        choice = self._choice

        def options() -> Any:
            made = onnxruntime.SessionOptions()
            made.intra_op_num_threads = choice.threads
            made.inter_op_num_threads = 1
            made.log_severity_level = _FATAL_ONLY
            made.add_session_config_entry("session.intra_op.allow_spinning", "0")
            made.enable_cpu_mem_arena = choice.arena if choice.arena is not None else light is None
            if not (choice.prepack if choice.prepack is not None else light is None):
                made.add_session_config_entry("session.disable_prepacking", "1")
            return made

        # ONNX Runtime holds Python's global lock all the while (docs/inference.md): in a process that serves, the
        # thread that loads must not run at a lower priority, or everybody would wait for it to get its turn.
        try:
            session, taken = open_session(data or str(light or path), options, choice.providers)
        except ModelRefusedError:
            raise
        except Exception as error:  # its errors have no common root; whatever it is, this file can't serve
            raise ModelRefusedError(f"ONNX Runtime can't load {path.name}: {_one_line(error)}.") from error
        return OnnxModel(path.name, session, {"providers": taken.document()})


class OnnxModel:
    """A loaded ONNX model. Outputs that are maps or sequences (scikit-learn's zipmap) are left out."""

    platform = "onnxruntime_onnx"

    def __init__(self, name: str, session: Any, facts: Mapping[str, Any]) -> None:
        """`facts`: see Telling."""
        self._session, self.facts = session, facts
        for node in session.get_inputs():
            if node.type not in _DATATYPES:
                kinds = ", ".join(sorted(_DATATYPES.values()))
                raise ModelRefusedError(f"input {node.name!r} of {name} is a {node.type}; what is served is {kinds}.")
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs() if node.type in _DATATYPES)
        if not self.outputs:
            raise ModelRefusedError(
                f"{name} has no output that is a tensor; export it again without zipmap (options zipmap=False)."
            )

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """See LoadedModel."""
        feeds = {spec.name: _feed(spec, inputs[spec.name]) for spec in self.inputs}
        try:
            values = self._session.run(list(outputs), feeds)
        except _InvalidArgument as error:
            raise InputError(f"ONNX Runtime refuses these inputs: {_one_line(error)}.") from error
        except Exception as error:  # as in load: no common root
            raise RunError(f"the model broke while it ran: {_one_line(error)}.") from error
        return dict(zip(outputs, values, strict=True))

    def close(self) -> None:
        """Drop the session, which frees its arena and weights."""
        self._session = None


def _spec(node: Any) -> TensorSpec:
    # An unknown rank and a scalar both show as an empty shape here, so neither is checked before the run.
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape) or None
    return TensorSpec(node.name, _DATATYPES[node.type], shape)


def _feed(spec: TensorSpec, array: Array) -> Array:
    if spec.datatype != BYTES:
        # Tensors cut out of a request may lie at odd addresses, which 32-bit Arm punishes.
        return np.require(array, dtype=numpy_dtype(spec.datatype), requirements=["C", "A"])
    text = np.empty(array.size, dtype=np.object_)
    try:
        text[:] = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"input {spec.name!r} holds bytes that are not UTF-8, which ONNX strings must be.") from error
    return text.reshape(array.shape)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:400] or type(error).__name__
