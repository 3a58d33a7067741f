"""Open Inference Protocol v2: reading an infer request and building its answer, JSON and binary. No network here.

Sources: the KServe v2 REST specification, and Triton's binary tensor data extension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelsync_inference.errors import InputError
from modelsync_inference.model.lease import Prediction
from modelsync_inference.runtimes.datatypes import Array, datatype_of
from modelsync_inference.runtimes.port import TensorSpec
from modelsync_inference.runtimes.tensors import from_binary, from_json, to_binary, to_json

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed request. `outputs`: names and whether binary, in the order asked for; None: all outputs."""

    id: str | None
    inputs: Mapping[str, Array]
    outputs: Mapping[str, bool] | None
    binary_by_default: bool

    def wants_binary(self, output: str) -> bool:
        """Whether `output` is to be answered in binary."""
        return self.binary_by_default if self.outputs is None else self.outputs[output]


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """A body, and the length of its JSON part in bytes if tensors follow it."""

    body: bytes
    header_length: int | None


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """Parse a request's body; `header_length` is that header's value. InputError says what is wrong."""
    head, binary = _split(body, header_length)
    try:
        document = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request is not JSON: {error}.") from error
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise InputError("the request must be a JSON object with a list 'inputs'.")
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InputError("'id' must be a string.")
    by_default = _parameters(document, "the request").get("binary_data_output", False) is True
    inputs = _inputs(document["inputs"], binary)
    return InferRequest(request_id, inputs, _outputs(document.get("outputs"), by_default), by_default)


def build_answer(model: str, request: InferRequest, prediction: Prediction) -> InferAnswer:
    """The answer to `request`, its outputs in the order asked for."""
    outputs, parts = [], []
    for name, array in prediction.outputs.items():
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype_of(array)}
        if request.wants_binary(name):
            parts.append(to_binary(array))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = to_json(name, array)
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": str(prediction.version), "outputs": outputs}
    if request.id is not None:
        document["id"] = request.id
    head = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    return InferAnswer(b"".join([head, *parts]), len(head) if parts else None)


def metadata(
    model: str, versions: Sequence[int], platform: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> dict[str, Any]:
    """The model metadata document."""
    return {
        "name": model,
        "versions": [str(version) for version in versions],
        "platform": platform,
        "inputs": [_spec_json(spec) for spec in inputs],
        "outputs": [_spec_json(spec) for spec in outputs],
    }


def _spec_json(spec: TensorSpec) -> dict[str, Any]:
    document: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape or ())}
    if spec.quantization is not None:
        scale, zero_point = spec.quantization
        document["parameters"] = {"scale": scale, "zero_point": zero_point}
    return document


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    length = int(header_length) if header_length.isascii() and header_length.isdigit() else -1
    if not 0 <= length <= len(body):
        raise InputError(f"{HEADER_LENGTH} is {header_length!r:.40}, but the body has {len(body)} bytes.")
    return body[:length], memoryview(body)[length:]


def _parameters(document: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError(f"'parameters' of {where} is not an object.")
    if any(key.startswith("shared_memory") for key in parameters):
        raise InputError("shared memory is not supported; send the tensors in the request.")
    return parameters


def _inputs(entries: list[Any], binary: memoryview) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for entry in entries:
        name = _name(entry, "input")
        if name in tensors:
            raise InputError(f"input {name!r} is given twice.")
        size = _parameters(entry, f"input {name!r}").get("binary_data_size")
        if size is None:
            tensors[name] = from_json(name, entry.get("shape"), entry.get("datatype"), entry.get("data"))
            continue
        if type(size) is not int or not 0 <= size <= len(binary):
            raise InputError(
                f"input {name!r} claims {size!r:.40} binary bytes; the request has {len(binary)} left for it."
            )
        tensors[name] = from_binary(name, entry.get("shape"), entry.get("datatype"), binary[:size])
        binary = binary[size:]
    if len(binary):
        raise InputError(f"{len(binary)} bytes after the JSON part belong to no input.")
    return tensors


def _outputs(entries: object, by_default: bool) -> dict[str, bool] | None:
    if entries is None or entries == []:
        return None
    if not isinstance(entries, list):
        raise InputError("'outputs' must be a list.")
    wanted = {}
    for entry in entries:
        name = _name(entry, "output")
        parameters = _parameters(entry, f"output {name!r}")
        if "classification" in parameters:
            raise InputError("the classification extension is not supported; ask for the tensor.")
        wanted[name] = parameters.get("binary_data", by_default) is True
    return wanted


def _name(entry: object, what: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise InputError(f"every {what} must be an object with a 'name'.")
    name: str = entry["name"]
    return name
