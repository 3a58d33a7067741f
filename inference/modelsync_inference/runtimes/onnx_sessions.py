"""How ONNX Runtime sessions are made. Importing this does not import ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Choice:
    """How sessions are made. `threads`: inside one run. None for `prepack` and `arena`: off for mapped weights.

    Prepacking copies the weights into the layout that the kernels like best, an arena keeps what a run has allocated:
    both give a little speed for memory, and make a session of large weights take its time. `cache`: a folder for
    copies whose weights are mapped (mapped_weights.py); None: models are loaded as they are.
    """

    threads: int = 1
    prepack: bool | None = None
    arena: bool | None = None
    cache: Path | None = None
