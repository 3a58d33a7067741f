"""How models are loaded: what a runtime may be told. Importing this imports no runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from modelsync_inference.runtimes.providers import Providers


class OnnxBy(StrEnum):
    """What runs ONNX files."""

    ONNX_RUNTIME = "onnxruntime"
    OPENVINO = "openvino"


@dataclass(frozen=True, slots=True)
class Choice:
    """How models are loaded. `threads`: inside one run. None for `prepack` and `arena`: off for mapped weights.

    Prepacking copies the weights into the layout that the kernels like best, an arena keeps what a run has allocated:
    both give a little speed for memory, and make a session of large weights take its time. `cache`: a folder for
    copies whose weights are mapped (mapped_weights.py); None: models are loaded as they are. These and `providers` are
    ONNX Runtime's.

    `runs`: at the same time, for runtimes that take room for each. `context`: tokens of one generation with its prompt
    at the most, if the model can hold as many.
    """

    threads: int = 1
    prepack: bool | None = None
    arena: bool | None = None
    cache: Path | None = None
    runs: int = 2
    providers: Providers = field(default_factory=Providers)
    onnx_by: OnnxBy = OnnxBy.ONNX_RUNTIME
    context: int = 4096
