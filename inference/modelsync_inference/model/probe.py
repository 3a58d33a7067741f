"""The probe: recorded inputs and outputs that a version must reproduce before it may serve (interfaces §2)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelsync_inference.errors import InputError, ModelRefusedError, RunError
from modelsync_inference.model.acceptance import (
    Limits,
    Signature,
    Tensor,
    check_signature,
    decimal,
    parse_limits,
    parse_signature,
)
from modelsync_inference.runtimes.datatypes import BYTES, Array, datatype_of
from modelsync_inference.runtimes.port import LoadedModel, Stated, TensorSpec, check_inputs
from modelsync_inference.runtimes.tensors import from_json
from modelsync_protocol import caps


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a value may be off: |actual - recorded| <= absolute + relative * |recorded|.

    `top1`: the share of rows, over all cases, whose largest value has to stand in the same place; None: not looked at.
    """

    absolute: float = 0.0
    relative: float = 0.0
    top1: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One run: its inputs and the outputs to expect (empty: it only has to run)."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Probe:
    """All cases of a version, their common tolerance and those of single outputs, and what else is asked of it."""

    cases: tuple[Case, ...]
    tolerance: Tolerance
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    signature: Signature = field(default_factory=Signature)
    limits: Limits = field(default_factory=Limits)

    def tolerance_of(self, output: str) -> Tolerance:
        """The tolerance that holds for `output`."""
        return self.tolerances.get(output, self.tolerance)


def stated_by(probe: Probe | None) -> Stated:
    """What a probe says of the tensors: its signature, and where that is silent the first recorded case."""
    if probe is None:
        return Stated()
    inputs, outputs = probe.signature.inputs, probe.signature.outputs
    first = next(iter(probe.cases), Case({}, {}))
    return Stated(
        _recorded(first.inputs) if inputs is None else _signed(inputs),
        _recorded(first.outputs) if outputs is None else _signed(outputs),
        proven=any(case.outputs for case in probe.cases),
    )


def _signed(tensors: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, tensor.datatype, tensor.shape) for name, tensor in tensors.items())


def _recorded(tensors: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """With any number of rows."""
    return tuple(
        TensorSpec(name, datatype_of(array), (-1, *array.shape[1:]) if array.ndim else ())
        for name, array in tensors.items()
    )


def read_probe(path: Path) -> Probe:
    """Read a probe file of at most caps.MAX_PROBE_BYTES; ModelRefusedError says what is wrong with it."""
    try:
        with path.open("rb") as file:
            return parse_probe(file.read(caps.MAX_PROBE_BYTES + 1))
    except OSError as error:
        raise ModelRefusedError(f"the probe file can't be read: {error.strerror}.") from error


def parse_probe(data: bytes) -> Probe:
    """Parse a probe file's bytes; ModelRefusedError says what is wrong."""
    if len(data) > caps.MAX_PROBE_BYTES:
        raise ModelRefusedError(f"the probe file is longer than {caps.MAX_PROBE_BYTES} bytes.")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelRefusedError(f"the probe file is not JSON: {error}.") from error
    if not isinstance(document, dict) or document.get("format") != 1 or not isinstance(document.get("cases"), list):
        raise ModelRefusedError("the probe file is not of format 1 with a list of cases.")
    try:
        cases = tuple(_case(case) for case in document["cases"])
    except InputError as error:
        raise ModelRefusedError(f"the probe file can't be used: {error}") from error
    return Probe(
        cases,
        _tolerance(document.get("tolerance", {})),
        _tolerances(document.get("tolerances", {})),
        parse_signature(document.get("signature")),
        parse_limits(document.get("limits")),
    )


def run_probe(model: LoadedModel, probe: Probe) -> None:
    """Run every case; ModelRefusedError names the case, the tensor and the numbers that differ."""
    check_signature(model, probe.signature)
    agreement: dict[str, tuple[int, int]] = {}
    for number, case in enumerate(probe.cases, start=1):
        where = f"probe case {number} of {len(probe.cases)}"
        known = [spec.name for spec in model.outputs]
        for name in case.outputs:
            if name not in known:
                raise ModelRefusedError(f"{where}: the model has no output {name!r}; it has {', '.join(known)}.")
        try:
            answers = model.run(check_inputs(model.inputs, case.inputs), list(case.outputs) or known)
        except (InputError, RunError) as error:
            raise ModelRefusedError(f"{where} does not run: {error}") from error
        for name, expected in case.outputs.items():
            tolerance = probe.tolerance_of(name)
            problem = difference(expected, answers[name], tolerance)
            if problem is not None:
                raise ModelRefusedError(f"{where}: output {name!r} {problem}.")
            if tolerance.top1 is not None:
                (agreed, rows), (more, of) = agreement.get(name, (0, 0)), _agreeing(expected, answers[name])
                agreement[name] = (agreed + more, rows + of)
    for name, (agreed, rows) in agreement.items():
        wanted = probe.tolerance_of(name).top1 or 0.0
        if agreed < wanted * rows:
            raise ModelRefusedError(
                f"output {name!r} agrees with what was recorded in {agreed} of {rows} rows (top 1); "
                f"{wanted:.4g} of them have to."
            )


def difference(expected: Array, actual: Array, tolerance: Tolerance, origin: str = "was recorded") -> str | None:
    """How `actual` differs from `expected` beyond `tolerance`, as the rest of a sentence; None if it doesn't."""
    if datatype_of(actual) != datatype_of(expected):
        return f"has datatype {datatype_of(actual)} where {datatype_of(expected)} {origin}"
    if actual.shape != expected.shape:
        return f"has shape {list(actual.shape)} where {list(expected.shape)} {origin}"
    if datatype_of(expected) == BYTES:
        off = np.array(
            [
                _text(a) != _text(e) and not _json_close(_text(e), _text(a), tolerance)
                for a, e in zip(actual.ravel(), expected.ravel(), strict=True)
            ],
            dtype=bool,
        )
        excess = off.astype(np.float64)
    else:
        excess = _excess(expected.ravel(), actual.ravel(), tolerance)
        off = excess > 0
    if not off.any():
        return None
    worst = int(np.argmax(excess))
    index = [int(i) for i in np.unravel_index(worst, expected.shape)]
    return (
        f"differs in {int(off.sum())} of {expected.size} values; the worst, at {index}, is "
        f"{actual.ravel()[worst]!s:.60} where {expected.ravel()[worst]!s:.60} {origin} "
        f"(tolerance: absolute {tolerance.absolute:g}, relative {tolerance.relative:g})"
    )


def _excess(expected: Array, actual: Array, tolerance: Tolerance) -> Array:
    # Only unequal values go through floating point, so that large integers are compared exactly.
    unequal = (actual != expected) & ~((actual != actual) & (expected != expected))
    want, got = expected.astype(np.float64), actual.astype(np.float64)
    if tolerance.absolute == math.inf:
        return np.zeros(expected.shape)  # only the order of the values counts
    with np.errstate(all="ignore"):
        excess = np.abs(got - want) - (tolerance.absolute + tolerance.relative * np.abs(want))
    excess = np.where(np.isfinite(got) & np.isfinite(want), excess, np.inf)
    exact = tolerance.absolute == 0 and tolerance.relative == 0
    return np.where(unequal, np.maximum(excess, np.finfo(np.float64).tiny) if exact else excess, 0.0)


def _json_close(expected: bytes, actual: bytes, tolerance: Tolerance) -> bool:
    """Whether two JSON texts differ only in numbers, and those within a tolerance that allows something."""
    if tolerance.absolute == 0 and tolerance.relative == 0:
        return False
    try:
        return _close(json.loads(expected), json.loads(actual), tolerance)
    except (ValueError, RecursionError):
        return False


def _close(expected: Any, actual: Any, tolerance: Tolerance) -> bool:
    match expected, actual:
        case dict(), dict():
            return expected.keys() == actual.keys() and all(_close(expected[k], actual[k], tolerance) for k in expected)
        case list(), list():
            pairs = zip(expected, actual, strict=False)
            return len(expected) == len(actual) and all(_close(e, a, tolerance) for e, a in pairs)
        case str(), str() if expected != actual:  # a script may return what it has made JSON of itself
            return _close(json.loads(expected), json.loads(actual), tolerance)
        case bool(), _:
            return expected is actual
        case int() | float(), int() | float() if not isinstance(actual, bool):
            return abs(actual - expected) <= tolerance.absolute + tolerance.relative * abs(expected)
    return bool(expected == actual)


def _text(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def _case(value: Any) -> Case:
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), dict):
        raise InputError("a case has no object 'inputs'.")
    outputs = value.get("outputs") or {}
    if not isinstance(outputs, dict):
        raise InputError("'outputs' of a case is not an object.")
    return Case(_tensors(value["inputs"]), _tensors(outputs))


def _tensors(values: Mapping[str, Any]) -> dict[str, Array]:
    tensors = {}
    for name, value in values.items():
        if not isinstance(value, dict):
            raise InputError(f"tensor {name!r} is not an object with shape, datatype and data.")
        tensors[name] = from_json(name, value.get("shape"), value.get("datatype"), value.get("data"))
    return tensors


def _tolerance(value: Any) -> Tolerance:
    if value is None:
        return Tolerance()
    if not isinstance(value, dict):
        raise ModelRefusedError("the probe's tolerance is not an object.")
    top1 = decimal(value["top1"]) if "top1" in value else None
    if top1 is not None and "absolute" not in value and "relative" not in value:
        return Tolerance(math.inf, math.inf, top1)
    return Tolerance(decimal(value.get("absolute", "0")), decimal(value.get("relative", "0")), top1)


def _tolerances(value: Any) -> dict[str, Tolerance]:
    if not isinstance(value, dict):
        raise ModelRefusedError("the probe's tolerances are not an object.")
    return {name: _tolerance(entry) for name, entry in value.items()}


def _agreeing(expected: Array, actual: Array) -> tuple[int, int]:
    """In how many rows the largest value stands in the same place (of labels: is the same), and how many there are."""
    if expected.ndim >= 2 and expected.dtype.kind == "f" and expected.shape[-1] > 0:
        expected, actual = expected.argmax(axis=-1), actual.argmax(axis=-1)
    return int((expected == actual).sum()), expected.size
