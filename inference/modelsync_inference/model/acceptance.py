"""What a version has to be like beside answering its probe: its signature, and limits on time and memory. No loading.

Both stand in the probe file, which the signed manifest covers (docs/interfaces.md §2).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.runtimes.port import LoadedModel, TensorSpec, check_inputs

_TIMED_RUNS = 5
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """What the signature says of a tensor; in the shape -1 is any size, and a None shape is any shape."""

    datatype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs that a version has to have, exactly these, and outputs that it has to have at least."""

    inputs: Mapping[str, Tensor] | None = None
    outputs: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The longest that a case may take, milliseconds, and the most memory that loading may add, bytes."""

    latency_ms: float | None = None
    memory_bytes: int | None = None


def check_signature(model: LoadedModel, signature: Signature) -> None:
    """ModelRefusedError names the tensor that differs from `signature`."""
    if signature.inputs is not None:
        _compare("input", model.inputs, signature.inputs)
        for spec in model.inputs:
            if spec.name not in signature.inputs:
                raise ModelRefusedError(f"the model wants an input {spec.name!r}, which its signature has not.")
    if signature.outputs is not None:
        _compare("output", model.outputs, signature.outputs)


def check_latency(model: LoadedModel, cases: Sequence[Mapping[str, Any]], limit_ms: float) -> None:
    """Time the inputs of each case; ModelRefusedError names the case whose median run is slower than the limit."""
    names = [spec.name for spec in model.outputs]
    for number, inputs in enumerate(cases, start=1):
        feeds, times = check_inputs(model.inputs, inputs), []
        for _ in range(_TIMED_RUNS):
            started = time.monotonic()
            model.run(feeds, names)
            times.append((time.monotonic() - started) * 1000)
        median = statistics.median(times)
        if median > limit_ms:
            raise ModelRefusedError(
                f"probe case {number} of {len(cases)} takes {median:.1f} ms (median of {_TIMED_RUNS}); "
                f"the limit is {limit_ms:g} ms."
            )


def check_memory(added: int, limit: int) -> None:
    """ModelRefusedError if loading and probing added more than `limit` bytes."""
    if added > limit:
        raise ModelRefusedError(f"it takes {added / _MIB:.1f} MiB of memory; the limit is {limit / _MIB:.1f} MiB.")


def parse_signature(value: object) -> Signature:
    """Read the probe file's `signature`; ModelRefusedError."""
    if value is None:
        return Signature()
    if not isinstance(value, dict):
        raise ModelRefusedError("the probe's signature is not an object.")
    return Signature(_tensors(value.get("inputs")), _tensors(value.get("outputs")))


def parse_limits(value: object) -> Limits:
    """Read the probe file's `limits`; ModelRefusedError."""
    if value is None:
        return Limits()
    if not isinstance(value, dict):
        raise ModelRefusedError("the probe's limits are not an object.")
    latency, memory = (decimal(value[key]) if key in value else None for key in ("latency_ms", "memory_mib"))
    return Limits(latency, None if memory is None else round(memory * _MIB))


def decimal(text: object) -> float:
    """A decimal string of the probe file as a number; ModelRefusedError."""
    try:
        number = Decimal(text) if isinstance(text, str) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise ModelRefusedError(f'{text!r:.40} in the probe is not a decimal string such as "0.001".')
    return float(number)


def _tensors(value: object) -> dict[str, Tensor] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ModelRefusedError("the probe's signature has no object of tensors.")
    found = {}
    for name, entry in value.items():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("datatype"), str):
            raise ModelRefusedError(f"the probe's signature does not say the datatype of {name!r:.80}.")
        if shape is not None and not (isinstance(shape, list) and all(type(size) is int for size in shape)):
            raise ModelRefusedError(f"the probe's signature has a shape of {name!r:.80} that is no list of integers.")
        found[name] = Tensor(entry["datatype"], None if shape is None else tuple(shape))
    return found


def _compare(what: str, specs: Sequence[TensorSpec], wanted: Mapping[str, Tensor]) -> None:
    have = {spec.name: spec for spec in specs}
    for name, tensor in wanted.items():
        spec = have.get(name)
        if spec is None:
            raise ModelRefusedError(f"the model has no {what} {name!r:.80}, which its signature has.")
        if spec.datatype != tensor.datatype:
            raise ModelRefusedError(
                f"{what} {name!r} has datatype {spec.datatype}; its signature says {tensor.datatype}."
            )
        if tensor.shape is not None and spec.shape is not None and tensor.shape != spec.shape:
            raise ModelRefusedError(
                f"{what} {name!r} has shape {list(spec.shape)}; its signature says {list(tensor.shape)}."
            )
