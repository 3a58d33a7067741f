"""Which runtime a model file takes, and what to install where it is missing. Each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.runtimes.model_kinds import Kind, kind_of
from modelsync_inference.runtimes.onnx_sessions import Choice, OnnxBy
from modelsync_inference.runtimes.port import LoadedModel, Runtime, Stated


class Engine(Protocol):
    """A runtime that is imported and set up."""

    def load_from(self, path: Path, data: bytes | None, stated: Stated) -> LoadedModel:
        """Load `path`; `data`: all of its bytes, if no file may be opened any more. ModelRefusedError.

        Only given to an engine that `loads_from_memory`.
        """


def wants_session(path: Path, choice: Choice) -> bool:
    """Whether ONNX Runtime loads `path`: what is no other's."""
    return kind_of(path) is Kind.ONNX and choice.onnx_by is OnnxBy.ONNX_RUNTIME


def loads_from_memory(path: Path) -> bool:
    """Whether the engine for `path` can do without opening files; llama.cpp can't, nor OpenVINO, of whose readers each
    looks for itself anew.
    """
    return kind_of(path) is Kind.TFLITE


def keeps_its_threads(path: Path) -> bool:
    """Whether the engine for `path` starts no threads once each serving thread has run; llama.cpp does at each step."""
    return kind_of(path) is not Kind.GGUF


def wants_to_listen(path: Path) -> bool:
    """Whether the engine for `path` brings an HTTP server of its own that it does not do without, as xllamacpp does."""
    return kind_of(path) is Kind.GGUF


def engine_for(path: Path, choice: Choice) -> Engine:
    """Import what runs `path`, not ONNX Runtime; ModelRefusedError says what to install."""
    kind = kind_of(path)
    try:
        return _ENGINES[Kind.OPENVINO if kind is Kind.ONNX else kind](choice)
    except (ImportError, OSError) as error:
        raise ModelRefusedError(_missing(kind, error)) from error


def _litert(choice: Choice) -> Engine:
    from modelsync_inference.runtimes.litert_runtime import LiteRtEngine

    return LiteRtEngine(choice)


def _openvino(choice: Choice) -> Engine:
    from modelsync_inference.runtimes.openvino_runtime import OpenVinoEngine

    return OpenVinoEngine(choice)


def _llama(choice: Choice) -> Engine:
    from modelsync_inference.runtimes.llama_runtime import LlamaEngine

    return LlamaEngine(choice)


class EngineRuntime:
    """The runtime port on all that is not code, in this process: `onnx` for what ONNX Runtime runs."""

    def __init__(self, choice: Choice, onnx: Runtime) -> None:
        self._choice, self._onnx = choice, onnx

    def load(self, path: Path) -> LoadedModel:
        """See Runtime."""
        return self.load_as(path, path.parent, Stated())

    def load_as(self, path: Path, folder: Path, stated: Stated) -> LoadedModel:
        """See Guided."""
        if wants_session(path, self._choice):
            return self._onnx.load(path)
        if wants_to_listen(path):
            raise ModelRefusedError(
                f"{kind_of(path).described}, whose library would open a port in this process; it is served in a "
                "process of its own (--isolation process, Settings(isolation=Isolation.PROCESS))."
            )
        return engine_for(path, self._choice).load_from(path, None, stated)


_ENGINES: Mapping[Kind, Callable[[Choice], Engine]] = {
    Kind.TFLITE: _litert,
    Kind.OPENVINO: _openvino,
    Kind.GGUF: _llama,
}
_EXTRAS = {Kind.TFLITE: ("LiteRT", "litert"), Kind.GGUF: ("llama.cpp", "llama")}


def _missing(kind: Kind, error: Exception) -> str:
    name, extra = _EXTRAS.get(kind, ("OpenVINO", "openvino"))
    return (
        f"{kind.described} that {name} runs here, which this device hasn't "
        f"(pip install 'modelsync-inference[{extra}]'; docs/integrations/runtimes.md says where there is one): {error}."
    )
