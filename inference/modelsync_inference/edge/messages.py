"""Message bodies: JSON to the model's tensors, and scored records to JSON. No network and no SDK here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelsync_inference.edge.rules import Fields
from modelsync_inference.edge.sampling import Sample
from modelsync_inference.errors import InputError
from modelsync_inference.http import oip
from modelsync_inference.runtimes.datatypes import BYTES, Array, datatype_of
from modelsync_inference.runtimes.port import TensorSpec
from modelsync_inference.runtimes.tensors import from_json


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came: its body, the input it came on, and what an answer takes over."""

    body: bytes
    input: str = ""
    message_id: str | None = None
    correlation_id: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send. `message_id` stays the same when it is sent again."""

    output: str
    body: bytes
    message_id: str
    correlation_id: str | None
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Parsed:
    """The tensors of a message; `single`: it was one row, so that the answer has no batch axis either."""

    inputs: Mapping[str, Array]
    single: bool
    id: str | None = None


def parse(body: bytes, specs: Sequence[TensorSpec], fields: Fields) -> Parsed:
    """The tensors for a model with inputs `specs`; InputError says what is wrong with the message."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the message is not JSON: {error}.") from error
    if isinstance(document, dict) and isinstance(document.get("inputs"), list) and "inputs" not in _names(specs):
        request = oip.parse_request(body, None)
        return Parsed(request.inputs, False, request.id)
    rows = isinstance(document, list) and bool(document) and all(isinstance(row, dict) for row in document)
    if isinstance(document, dict):
        values = {spec.name: _row(document, spec.name, _fields_of(spec, specs, fields)) for spec in specs}
    elif rows:
        values = {
            spec.name: [_row(row, spec.name, _fields_of(spec, specs, fields)) for row in document] for spec in specs
        }
    elif isinstance(document, list) and len(specs) == 1:
        values = {specs[0].name: document}
    elif isinstance(document, list):
        raise InputError(f"the message is an array, and the model has several inputs: {', '.join(_names(specs))}.")
    else:
        raise InputError("the message is neither a JSON object nor an array.")
    tensors, single = {}, not rows
    for spec in specs:
        tensors[spec.name], added = _tensor(spec, values[spec.name], rows=rows)
        single = single and added
    return Parsed(tensors, single)


def answer(model: str, version: int, digest: str, sample: Sample, *, single: bool) -> bytes:
    """The body of an answer; numbers that JSON has not (NaN, infinities) are null."""
    record = sample.record
    document: dict[str, Any] = {"model": model, "version": version, "digest": digest}
    document["outputs"] = {name: _json(array, single) for name, array in record.outputs.items()}
    if record.inputs:
        document["inputs"] = {name: _json(array, single) for name, array in record.inputs.items()}
    if sample.mean:
        document["mean_of"] = {"messages": sample.count, "seconds": round(sample.seconds, 3)}
    return _dump(document)


def refusal(model: str, sentence: str) -> bytes:
    """The body of the message that says that one could not be scored."""
    return _dump({"model": model, "error": sentence})


def _names(specs: Sequence[TensorSpec]) -> list[str]:
    return [spec.name for spec in specs]


def _fields_of(spec: TensorSpec, specs: Sequence[TensorSpec], fields: Fields) -> tuple[str, ...] | None:
    if "" in fields and len(specs) > 1:
        raise InputError(f"the model has several inputs ({', '.join(_names(specs))}); --edge-fields has to name them.")
    return fields.get("" if "" in fields else spec.name)


def _row(document: Mapping[str, Any], name: str, fields: tuple[str, ...] | None) -> Any:
    if fields is None:
        return _field(document, name)
    return [_field(document, path) for path in fields]


def _field(document: Mapping[str, Any], path: str) -> Any:
    if path in document:
        return document[path]
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(f"the message has no field {path!r:.80}.")
        value = value[part]
    return value


def _tensor(spec: TensorSpec, value: Any, *, rows: bool) -> tuple[Array, bool]:
    """The tensor, and whether the message left out its batch axis."""
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    lacking = 0 if spec.shape is None else max(0, len(spec.shape) - len(shape))
    if 0 in shape:
        raise InputError(f"the message holds no values for input {spec.name!r}.")
    shape = [*shape, *[1] * lacking] if rows else [*[1] * lacking, *shape]
    return from_json(spec.name, shape, spec.datatype, value if isinstance(value, list) else [value]), lacking > 0


def _json(array: Array, single: bool) -> Any:
    if single and array.ndim and array.shape[0] == 1:
        array = array.reshape(array.shape[1:])
    if datatype_of(array) == BYTES:
        return _nested([_text(item) for item in array.ravel().tolist()], array.shape)
    if array.dtype.kind != "f":
        return array.tolist()
    # The shortest digits that give the same number in its own type: 0.1, not 0.10000000149011612.
    numbers = [float(str(item)) if array.itemsize < 8 else float(item) for item in array.ravel()]
    return _nested([number if math.isfinite(number) else None for number in numbers], array.shape)


def _text(item: Any) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    array = np.empty(len(flat), dtype=np.object_)
    array[:] = flat
    return array.reshape(shape).tolist()


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
