"""What kind of thing a model file is, by its name. Nothing is opened here."""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePath

SCRIPT_NAME = "score.py"
PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib")


class Kind(StrEnum):
    """Kinds of models, each of which has a runtime."""

    ONNX = "onnx"
    PICKLE = "pickle"
    SCRIPT = "script"
    TFLITE = "tflite"
    OPENVINO = "openvino"
    GGUF = "gguf"

    @property
    def is_code(self) -> bool:
        """Whether code of its author runs when it is loaded or run."""
        return self in (Kind.PICKLE, Kind.SCRIPT)

    @property
    def described(self) -> str:
        """As the beginning of a sentence."""
        return _DESCRIBED[self]

    @property
    def single_threaded(self) -> bool:
        """Whether it expects to be loaded and run by one thread, as Azure's own server does with scripts."""
        return self is Kind.SCRIPT


_DESCRIBED = {
    Kind.ONNX: "it is an ONNX model",
    Kind.PICKLE: "it is a pickle, which runs code when it is loaded",
    Kind.SCRIPT: "it is a scoring script, which is code that runs on this device",
    Kind.TFLITE: "it is a TensorFlow Lite model",
    Kind.OPENVINO: "it is an OpenVINO model",
    Kind.GGUF: "it is a language model for llama.cpp",
}
_SUFFIXES = {
    ".py": Kind.SCRIPT,
    **dict.fromkeys(PICKLE_SUFFIXES, Kind.PICKLE),
    ".tflite": Kind.TFLITE,
    ".xml": Kind.OPENVINO,
    ".gguf": Kind.GGUF,
}


def kind_of(path: PurePath) -> Kind:
    """The kind of the model file at `path`; what has no other kind's suffix counts as ONNX."""
    return _SUFFIXES.get(path.suffix, Kind.ONNX)
