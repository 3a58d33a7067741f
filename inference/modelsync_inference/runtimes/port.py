"""The port behind which model runtimes stand, and the check of inputs that all of them share. No runtime here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from modelsync_inference.errors import InputError
from modelsync_inference.runtimes.datatypes import BYTES, Array, datatype_of, numpy_dtype


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: protocol datatype, and its shape with -1 for a free size (None: rank not stated).

    `quantization`: scale and zero point of integers that stand for real numbers, (integer - zero point) * scale.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None
    quantization: tuple[float, int] | None = None


SCRIPT_PLATFORM = "azureml_scoring_script"
"""The platform of scoring scripts; other platforms are their runtimes' own business."""

LANGUAGE_PLATFORM = "llamacpp_gguf"
"""The platform of language models, which are asked by text and not by tensors."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What a version's publisher says of it, for a runtime that can't read it off the model; empty: nothing.

    `proven`: recorded answers will be compared before it serves.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    proven: bool = False


class LoadedModel(Protocol):
    """A model in memory. `run` may be called by several threads at once; `close` once, when nobody runs it."""

    @property
    def platform(self) -> str:
        """The protocol's name of the platform, such as `onnxruntime_onnx`."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` can give: tensors only."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run on checked inputs; the named outputs belong to the caller.

        Raises InputError if the tensors turn out not to fit, RunError if the model breaks.
        """

    def close(self) -> None:
        """Let go of the memory."""


@runtime_checkable
class Settling(Protocol):
    """A loaded model that wants to know when its probe is over and requests begin."""

    def settle(self) -> None:
        """The probe is over."""


@runtime_checkable
class Confined(Protocol):
    """A loaded model that runs code of its author."""

    @property
    def layers(self) -> tuple[str, ...]:
        """What it is confined by; empty for a model that is no code."""


@runtime_checkable
class Telling(Protocol):
    """A loaded model that has more to say of itself than its tensors."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """A JSON object: `providers` (providers.Taken)."""


@runtime_checkable
class Generating(Protocol):
    """A loaded model that answers bit by bit: a language model."""

    def generate(self, request: bytes, emit: Callable[[bytes], bool]) -> None:
        """Answer `request`, a JSON body of OpenAI's chat completions or completions.

        `emit` is given each part as JSON, the whole answer at once if the request does not ask for a stream; it
        returns False to have no more. An empty part only asks whether more is wanted. Raises InputError, RunError.
        Several threads may call.
        """


@runtime_checkable
class Processes(Protocol):
    """A runtime that holds processes beside this one."""

    def pids(self) -> tuple[int, ...]:
        """Their ids."""

    def close(self) -> None:
        """Let go of it; the models are closed already or end with it."""


class Runtime(Protocol):
    """Loads models."""

    def load(self, path: Path) -> LoadedModel:
        """Load the model file at `path`, which never changes afterwards; ModelRefusedError says why not."""


@runtime_checkable
class Guided(Protocol):
    """A runtime that wants to know more of a version than its model file."""

    def load_as(self, path: Path, folder: Path, stated: Stated) -> LoadedModel:
        """As `load`; `folder`: the artifact's, in which the file lies."""


def check_inputs(specs: Sequence[TensorSpec], given: Mapping[str, object]) -> dict[str, Array]:
    """Return `given` as arrays that fit `specs`; InputError names the tensor that doesn't.

    Arrays must have the right type already; other values (lists, numbers) are converted to it.
    """
    known = {spec.name for spec in specs}
    for name in given:
        if name not in known:
            raise InputError(f"the model has no input {name!r}; its inputs are {', '.join(sorted(known))}.")
    checked = {}
    for spec in specs:
        if spec.name not in given:
            raise InputError(f"input {spec.name!r} ({spec.datatype}) is missing.")
        checked[spec.name] = _fit(spec, given[spec.name])
    return checked


def check_outputs(specs: Sequence[TensorSpec], wanted: Sequence[str] | None) -> list[str]:
    """Return the names of the outputs to compute (None: all); InputError for one that the model hasn't."""
    known = [spec.name for spec in specs]
    for name in wanted or ():
        if name not in known:
            raise InputError(f"the model has no output {name!r:.80}; its outputs are {', '.join(known)}.")
    return known if wanted is None else list(wanted)


def _fit(spec: TensorSpec, value: object) -> Array:
    if isinstance(value, np.ndarray):
        array: Array = value
    else:
        try:
            array = np.asarray(value, dtype=numpy_dtype(spec.datatype))
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"input {spec.name!r} can't be read as {spec.datatype}: {error}.") from error
    if datatype_of(array) != spec.datatype:
        raise InputError(f"input {spec.name!r} has datatype {datatype_of(array)}; the model wants {spec.datatype}.")
    if spec.shape is not None and not _shape_fits(spec.shape, array.shape):
        raise InputError(
            f"input {spec.name!r} has shape {list(array.shape)}; the model wants {list(spec.shape)} (-1: any size)."
        )
    return array.astype(np.object_) if spec.datatype == BYTES and array.dtype.kind in "SU" else array


def _shape_fits(wanted: tuple[int, ...], given: tuple[int, ...]) -> bool:
    return len(wanted) == len(given) and all(w in (-1, g) for w, g in zip(wanted, given, strict=True))
