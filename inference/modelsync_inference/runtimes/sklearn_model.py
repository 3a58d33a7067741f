"""The model port on scikit-learn estimators in pickle and joblib files. Only ever imported in a confined worker.

The outputs are the estimator's methods, by their names or by those that skl2onnx gives them, so that a pickle and its
ONNX form can take each other's place.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelsync_inference.errors import InputError, ModelRefusedError, RunError
from modelsync_inference.runtimes.datatypes import BYTES, Array, datatype_of, numpy_dtype
from modelsync_inference.runtimes.port import LoadedModel, Stated, TensorSpec

METHODS = ("predict", "predict_proba", "decision_function", "score_samples", "transform")
ALIASES = {
    "label": "predict",
    "output_label": "predict",
    "variable": "predict",
    "probabilities": "predict_proba",
    "output_probability": "predict_proba",
    "scores": "decision_function",
}
"""What skl2onnx calls them."""


class SklearnModel:
    """An estimator. Runs of several threads are fine: predicting changes nothing in an estimator."""

    platform = "sklearn"

    def __init__(self, estimator: Any, inputs: tuple[TensorSpec, ...], outputs: Mapping[TensorSpec, str]) -> None:
        self._estimator = estimator
        self.inputs, self.outputs = inputs, tuple(outputs)
        self._methods = {spec.name: (method, spec.datatype) for spec, method in outputs.items()}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """See LoadedModel. What the estimator calls a bad value (ValueError) is the caller's fault."""
        samples = _samples(self._estimator, self.inputs, inputs)
        answers: dict[str, Array] = {}
        given: dict[str, Array] = {}
        for name in outputs:
            method, datatype = self._methods[name]
            try:
                if method not in answers:
                    answers[method] = _call(self._estimator, method, samples)
                given[name] = _as(datatype, answers[method])
            except ValueError as error:
                raise InputError(f"{method} refuses these inputs: {_told(error)}.") from error
            except BaseException as error:
                traceback.print_exc()
                raise RunError(f"{method} raised {_told(error)}.") from error
        return given

    def close(self) -> None:
        """The worker ends."""


def load(path: Path, stated: Stated, *, joblib: bool) -> LoadedModel:
    """Unpickle the estimator at `path`, by way of joblib or without it; ModelRefusedError.

    One that another version of scikit-learn has pickled is refused, unless its probe proves what it answers.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = importlib.import_module("joblib").load(path) if joblib else _unpickled(path)
        except BaseException as error:
            traceback.print_exc()
            raise ModelRefusedError(f"{path.name} can't be unpickled: {_told(error)}.{_versions(caught)}") from error
    mismatch = _versions(caught)
    if mismatch and not stated.proven:
        raise ModelRefusedError(
            f"{path.name} may answer wrongly here:{mismatch} Install that version, train it again with this one, or "
            "publish it with a probe whose recorded outputs prove it."
        )
    if mismatch:
        sys.stderr.write(f"{path.name}:{mismatch} Its probe has to prove it.\n")
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    methods = [name for name in METHODS if callable(getattr(estimator, name, None))]
    if "predict" in methods:
        methods = [name for name in methods if name != "transform"]
    if not methods:
        raise ModelRefusedError(
            f"{path.name} holds a {type(estimator).__name__}, which has none of the methods {', '.join(METHODS)}."
        )
    inputs = _inputs(estimator, stated.inputs)
    return SklearnModel(estimator, inputs, _outputs(estimator, methods, inputs, stated.outputs))


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _versions(caught: Sequence[warnings.WarningMessage]) -> str:
    """The rest of a sentence on which version pickled it, if it was another."""
    for warning in caught:
        # By its name, for scikit-learn is not imported for a pickle that does not need it.
        if type(warning.message).__name__ == "InconsistentVersionWarning":
            other = getattr(warning.message, "original_sklearn_version", "another version")
            ours = getattr(warning.message, "current_sklearn_version", "another one")
            return f" it was pickled with scikit-learn {other}, and this device has {ours}."
    return ""


def _inputs(estimator: Any, stated: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    count = getattr(estimator, "n_features_in_", None)
    if not stated:
        if not isinstance(count, int | np.integer):
            raise ModelRefusedError(
                "the estimator does not say how many features it takes; state its inputs in the probe's signature."
            )
        return (TensorSpec("X", "FP64", (-1, int(count))),)
    widths = [spec.shape[1] if spec.shape is not None and len(spec.shape) == 2 else 1 for spec in stated]
    matrices = len(stated) > 1 or (stated[0].shape is not None and len(stated[0].shape) == 2)
    if isinstance(count, int | np.integer) and matrices and -1 not in widths and sum(widths) != count:
        raise ModelRefusedError(f"the estimator takes {count} features; the inputs that are stated have {sum(widths)}.")
    return stated


def _outputs(
    estimator: Any, methods: Sequence[str], inputs: tuple[TensorSpec, ...], stated: tuple[TensorSpec, ...]
) -> dict[TensorSpec, str]:
    """Each output and its method; what is not stated of it is seen from a run on a row of ones."""
    wanted: dict[str, tuple[str, TensorSpec | None]] = {
        spec.name: (ALIASES.get(spec.name, spec.name), spec) for spec in stated
    }
    for name, (method, _) in wanted.items():
        if method not in methods:
            raise ModelRefusedError(f"the estimator has no output {name!r:.80}; it has {', '.join(methods)}.")
    row = {spec.name: _row(spec) for spec in inputs}
    outputs: dict[TensorSpec, str] = {}
    asked: dict[str, tuple[str, TensorSpec | None]] = {name: (name, None) for name in methods}
    for name, (method, spec) in (wanted or asked).items():
        try:
            answer = _call(estimator, method, _samples(estimator, inputs, row))
            datatype = spec.datatype if spec is not None else datatype_of(answer)
            shape: tuple[int, ...] | None = (-1, *answer.shape[1:])
        except Exception as error:
            if spec is None and method != "predict":
                continue  # such as one array for each of several outputs
            if spec is None:
                raise ModelRefusedError(
                    f"it does not predict on a row of ones ({_told(error)}); state its inputs and outputs in the "
                    "probe's signature."
                ) from error
            datatype, shape = spec.datatype, spec.shape
        outputs[TensorSpec(name, datatype, shape)] = method
    return outputs


def _row(spec: TensorSpec) -> Array:
    shape = tuple(1 if size < 0 else size for size in spec.shape or (1,))
    return np.full(shape, "" if spec.datatype == BYTES else 1, dtype=numpy_dtype(spec.datatype))


def _samples(estimator: Any, specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> Any:
    """One tensor as it is; several as the columns of a table, by name if the estimator was fitted with names."""
    tensors = {spec.name: _text(inputs[spec.name]) for spec in specs}
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    if sorted(names) == sorted(tensors):
        tensors = {name: tensors[name] for name in names}
        try:
            import pandas
        except ImportError:
            pass
        else:
            return pandas.DataFrame({name: tensor.ravel() for name, tensor in tensors.items()})
    columns = [tensor if tensor.ndim == 2 else tensor.reshape(-1, 1) for tensor in tensors.values()]
    rows = {len(column) for column in columns}
    if len(rows) > 1:
        raise InputError("the inputs have different numbers of rows.")
    return np.hstack(columns)


def _text(tensor: Array) -> Array:
    if tensor.dtype != np.object_:
        return tensor
    text = np.empty(tensor.size, dtype=np.object_)
    try:
        text[:] = [item.decode() if isinstance(item, bytes) else item for item in tensor.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"an input holds bytes that are not UTF-8: {error}.") from error
    return text.reshape(tensor.shape)


def _call(estimator: Any, method: str, samples: Any) -> Array:
    answer = getattr(estimator, method)(samples)
    if hasattr(answer, "toarray"):  # a sparse matrix
        answer = answer.toarray()
    if isinstance(answer, list):
        raise TypeError("it gives one array for each of several outputs")
    return np.asarray(answer)


def _as(datatype: str, answer: Array) -> Array:
    if datatype == BYTES:
        text = np.empty(answer.size, dtype=np.object_)
        text[:] = [item if isinstance(item, bytes) else str(item) for item in answer.ravel().tolist()]
        return text.reshape(answer.shape)
    return np.ascontiguousarray(answer, dtype=numpy_dtype(datatype))


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.300}".rstrip(":. ")
