"""How far a changed ONNX model's answers are from those that were meant, as a share of what an update changes in them.

Runs models in this process with ONNX Runtime: an author's own, never an upload. May be absent: ONNX Runtime is no
dependency of the publisher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import UsageError

Arrays = Mapping[str, NDArray[Any]]

_ROWS, _OTHER = 16, 8
"""Sizes of a first and of another dimension that a model leaves open, for random inputs."""

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def effect(old: bytes, new: bytes, inputs: Path | None, seed: int = 0) -> Callable[[bytes], float]:
    """A function that gives a model's drift: the root mean square of its float outputs' distance from `new`'s, over
    that of `old`'s distance.

    `inputs` is an npz file of arrays by input's name; None: standard normal floats, and integers of 0 and 1.
    UsageError if the models do not run on them, or answer the same.
    """
    feed = _given(inputs) if inputs is not None else _random(_session(new), np.random.default_rng(seed))
    before, meant = _answers(_session(old), feed), _answers(_session(new), feed)
    whole = _distance(before, meant)
    if not 0 < whole < math.inf:
        raise UsageError("the update changes no answer on these inputs, so no drift can be told; give --inputs others.")
    return lambda model: _distance(_answers(_session(model), feed), meant) / whole


def _session(model: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UsageError("to measure what a model answers, install onnxruntime; or measure with --weights.") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common class of its errors
        raise UsageError(f"ONNX Runtime does not load the model: {_line(error)}; measure with --weights.") from None


def _given(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (ValueError, AttributeError, EOFError) as error:
        raise UsageError(f"{path} is no npz file of arrays: {_line(error)}.") from None


def _random(session: Any, rng: np.random.Generator) -> Arrays:
    feed: dict[str, NDArray[Any]] = {}
    for item in session.get_inputs():
        dtype = _TYPES.get(item.type)
        if dtype is None:
            raise UsageError(f"input {item.name!r} is a {item.type}: say with --inputs FILE.npz what to give it.")
        shape = [
            size if isinstance(size, int) and size > 0 else (_ROWS if place == 0 else _OTHER)
            for place, size in enumerate(item.shape)
        ]
        floats = np.issubdtype(dtype, np.floating)
        feed[item.name] = (rng.standard_normal(shape) if floats else rng.integers(0, 2, shape)).astype(dtype)
    return feed


def _answers(session: Any, feed: Arrays) -> list[NDArray[np.float64]]:
    try:
        found = session.run(None, dict(feed))
    except Exception as error:
        raise UsageError(
            f"the model does not run on these inputs: {_line(error)}; give others with --inputs FILE.npz."
        ) from None
    return [
        each.astype(np.float64).reshape(-1)
        for each in found
        if isinstance(each, np.ndarray) and np.issubdtype(each.dtype, np.floating)
    ]


def _distance(one: list[NDArray[np.float64]], other: list[NDArray[np.float64]]) -> float:
    if [each.shape for each in one] != [each.shape for each in other]:
        return math.inf
    return math.sqrt(sum(float((a - b) @ (a - b)) for a, b in zip(one, other, strict=True)))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
