"""Inputs for a model that has no recorded ones."""

from __future__ import annotations

import numpy as np

from modelsync_inference.runtimes.datatypes import BYTES, Array, numpy_dtype
from modelsync_inference.runtimes.port import TensorSpec


def size_of(spec: TensorSpec) -> tuple[int, ...]:
    """The smallest shape that fits."""
    return tuple(1 if size < 0 else size for size in spec.shape or ())


def made_up(spec: TensorSpec) -> Array:
    """Ones, not zeros: an integer division by zero kills the process."""
    fill = "" if spec.datatype == BYTES else 1
    return np.full(size_of(spec), fill, dtype=numpy_dtype(spec.datatype))
