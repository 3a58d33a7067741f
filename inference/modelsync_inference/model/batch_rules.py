"""Requests that are run together: which may be, how they are joined and taken apart, and which models allow it.

Nothing waits here; dynamic_batcher.py does.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from modelsync_inference.errors import InputError, RunError
from modelsync_inference.model.probe import Probe, Tolerance, difference
from modelsync_inference.model.trial import agreement
from modelsync_inference.runtimes.datatypes import Array, datatype_of
from modelsync_inference.runtimes.port import LoadedModel, check_inputs
from modelsync_inference.runtimes.synthetic_inputs import made_up


def rows_of(inputs: Mapping[str, Array]) -> int | None:
    """The first dimension that all inputs have in common; None if they have none, or no rows."""
    sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
    return sizes.pop() or None if len(sizes) == 1 else None


def kind_of(inputs: Mapping[str, Array], outputs: Sequence[str] | None) -> Hashable:
    """Equal for requests that may be run together: names, datatypes and all dimensions but the first."""
    tensors = sorted((name, datatype_of(array), array.shape[1:]) for name, array in inputs.items())
    return tuple(tensors), None if outputs is None else tuple(outputs)


def join(requests: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One request of all rows, in order."""
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def split(answers: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]] | None:
    """The answer of each request of so many rows; None if an output has not a row for each row of the requests."""
    total = sum(rows)
    if any(array.ndim == 0 or array.shape[0] != total for array in answers.values()):
        return None
    ends = np.cumsum(rows)
    return [
        {name: array[end - count : end] for name, array in answers.items()}
        for count, end in zip(rows, ends.tolist(), strict=True)
    ]


def obstacle(model: LoadedModel, probe: Probe | None) -> str | None:
    """Why requests to `model` must not be run together, as a sentence; None: they may be.

    Two requests are run together and alone: the answers have to agree within the probe's tolerances, or exactly.
    """
    for spec in model.inputs:
        if not spec.shape or spec.shape[0] != -1:
            return f"input {spec.name!r} has shape {list(spec.shape or ())}; its first dimension is not free."
    try:
        return _compare(model, *_two_requests(model, probe), probe)
    except (InputError, RunError) as error:
        return f"two requests can't be run together: {error}"


def _two_requests(model: LoadedModel, probe: Probe | None) -> tuple[dict[str, Array], dict[str, Array]]:
    if probe is None or not probe.cases:
        one = {spec.name: made_up(spec) for spec in model.inputs}
        return one, _varied(model, one)
    cases = [check_inputs(model.inputs, case.inputs) for case in probe.cases]
    for case in cases[1:]:
        if kind_of(case, None) == kind_of(cases[0], None):
            return cases[0], case
    return cases[0], _varied(model, cases[0])


def _varied(model: LoadedModel, inputs: dict[str, Array]) -> dict[str, Array]:
    """Another request that the model takes: floats halved; the same one if the model dislikes that."""
    other = {
        name: array * array.dtype.type(0.5) if array.dtype.kind == "f" else array for name, array in inputs.items()
    }
    try:
        model.run(other, [spec.name for spec in model.outputs])
    except (InputError, RunError):
        return inputs
    return other


def _compare(model: LoadedModel, one: dict[str, Array], other: dict[str, Array], probe: Probe | None) -> str | None:
    names = [spec.name for spec in model.outputs]
    rows = [rows_of(one), rows_of(other)]
    if rows[0] is None or rows[1] is None:
        return "the probe's inputs do not have the same number of rows."
    counts = [rows[0], rows[1]]
    alone = [model.run(request, names) for request in (one, other)]
    together = model.run(join([one, other]), names)
    parts = split(together, counts)
    if parts is None:
        bad = next(n for n, a in together.items() if a.ndim == 0 or a.shape[0] != sum(counts))
        return (
            f"output {bad!r} has shape {list(together[bad].shape)} for {sum(counts)} rows; it has to have a row each."
        )
    for expected, part in zip(alone, parts, strict=True):
        for name in names:
            problem = _difference(expected[name], part[name], probe.tolerance_of(name) if probe else Tolerance())
            if problem is not None:
                return f"output {name!r} of two requests that are run together {problem}."
    return None


def _difference(alone: Array, together: Array, tolerance: Tolerance) -> str | None:
    if tolerance.top1 is not None:
        agreed, rows = agreement(alone, together)
        if agreed < rows:
            return f"agrees with what they are alone in {agreed} of {rows} rows (top 1)"
    return difference(alone, together, tolerance, "they are alone")
