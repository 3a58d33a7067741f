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

    @property
    def is_code(self) -> bool:
        """Whether code of its author runs when it is loaded or run."""
        return self is not Kind.ONNX

    @property
    def described(self) -> str:
        """As the beginning of a sentence."""
        if self is Kind.PICKLE:
            return "it is a pickle, which runs code when it is loaded"
        if self is Kind.SCRIPT:
            return "it is a scoring script, which is code that runs on this device"
        return "it is an ONNX model"

    @property
    def single_threaded(self) -> bool:
        """Whether it expects to be loaded and run by one thread, as Azure's own server does with scripts."""
        return self is Kind.SCRIPT


def kind_of(path: PurePath) -> Kind:
    """The kind of the model file at `path`; what is no pickle and no script counts as ONNX."""
    if path.suffix == ".py":
        return Kind.SCRIPT
    return Kind.PICKLE if path.suffix in PICKLE_SUFFIXES else Kind.ONNX
