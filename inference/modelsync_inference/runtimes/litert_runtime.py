"""The runtime port on LiteRT (TensorFlow Lite), by its Python interpreter. Its types and shapes are the file's own.

Source: https://ai.google.dev/edge/litert/inference
"""

from __future__ import annotations

import contextlib
import importlib
import queue
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelsync_inference.errors import InputError, ModelRefusedError, RunError
from modelsync_inference.runtimes.datatypes import BYTES, Array, datatype_of, numpy_dtype
from modelsync_inference.runtimes.onnx_sessions import Choice
from modelsync_inference.runtimes.port import LoadedModel, Stated, TensorSpec

_PACKAGES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
"""The second is its predecessor, which has wheels where the first has none; both have the same interface."""

_DEFAULT_SIGNATURE = "serving_default"
_CUSTOM = re.compile(r"(?:unresolved custom op|custom op\w*):? *'?([\w.]+)", re.IGNORECASE)
_FLEX = re.compile(r"\bFlex[A-Z]\w*")
_RESOURCES = frozenset({"VAR_HANDLE", "HASHTABLE"})
"""Operators by which a graph keeps something that no reset brings back to what the file has."""


class LiteRtEngine:
    """Makes interpreters: `runs` for each model, because one runs one request at a time."""

    def __init__(self, choice: Choice) -> None:
        """ImportError if there is no LiteRT here."""
        self._choice = choice
        self._interpreter = _interpreter_class()

    def load_from(self, path: Path, data: bytes | None, stated: Stated) -> LoadedModel:
        """See Engine. The path is mapped by LiteRT; `data` is not copied."""
        threads, runs = self._choice.threads, self._choice.runs

        def make(content: bytes | None, threads: int) -> _Interpreter:
            source: dict[str, Any] = {"model_path": str(path)} if content is None else {"model_content": content}
            try:
                return _Interpreter(self._interpreter(**source, num_threads=threads), stated)
            except (ValueError, RuntimeError) as error:
                raise ModelRefusedError(_why_not(path.name, error)) from error

        first = make(data, threads)
        if not first.keeps_resources:
            # All now: later no thread can be started.
            return LiteRtModel((first, *(make(data, threads) for _ in range(runs - 1))))
        # It will be made again and again, by then with the file out of reach and no threads to be started.
        content = path.read_bytes() if data is None else data
        return LiteRtModel((make(content, 1),), again=lambda: make(content, 1))


class LiteRtModel:
    """A loaded TFLite model: one of its signatures if it has any, else its tensors by their names.

    A model that keeps something from one run for the next would answer one client with another's past; so each run
    begins with the state that the file has.
    """

    platform = "litert_tflite"

    def __init__(self, interpreters: Sequence[_Interpreter], again: Callable[[], _Interpreter] | None = None) -> None:
        """`again` makes one anew after each run, where a reset would not do."""
        self.inputs, self.outputs = interpreters[0].inputs, interpreters[0].outputs
        self._again = again
        self._free: queue.SimpleQueue[_Interpreter | None] = queue.SimpleQueue()
        for interpreter in interpreters:
            self._free.put(interpreter)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """See LoadedModel."""
        interpreter = self._free.get()
        if interpreter is None:
            self._free.put(None)
            raise RunError("the model is closed.")
        try:
            answers = interpreter.run(inputs)
        finally:
            self._free.put(interpreter if self._again is None else self._again())
        return {name: answers[name] for name in outputs}

    def close(self) -> None:
        """Drop the interpreters, which frees arenas, packed weights and the mapping."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait()
        self._free.put(None)
        self._again = None


class _Interpreter:
    """One interpreter. For one thread at a time."""

    def __init__(self, interpreter: Any, stated: Stated) -> None:
        """ValueError or RuntimeError, as LiteRT has them; ModelRefusedError for tensors that can't be served."""
        self._interpreter = interpreter
        signature = _signature(interpreter.get_signature_list(), stated)
        operators = {str(entry.get("op_name")) for entry in interpreter._get_ops_details()}
        self.keeps_resources = not operators.isdisjoint(_RESOURCES)
        # LiteRT lays tensors out and finds missing operators here, not in the constructor.
        interpreter.allocate_tensors()
        self._runner = None if signature is None else interpreter.get_signature_runner(signature)
        if self._runner is not None:
            inputs, outputs = self._runner.get_input_details(), self._runner.get_output_details()
        else:
            inputs, outputs = (_named(entries) for entries in (interpreter.get_input_details(), _outputs(interpreter)))
        self._indices = {name: entry["index"] for name, entry in (inputs | outputs).items()}
        self.inputs = tuple(_spec("input", name, entry) for name, entry in inputs.items())
        self.outputs = tuple(_spec("output", name, entry) for name, entry in outputs.items())
        self._shapes = {name: tuple(entry["shape"]) for name, entry in inputs.items()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """InputError if LiteRT can't lay the shapes out, RunError if the run breaks."""
        feeds = {spec.name: _feed(spec, inputs[spec.name]) for spec in self.inputs}
        shapes = {name: feed.shape for name, feed in feeds.items()}
        if shapes != self._shapes:
            self._resize(shapes)
        try:
            self._interpreter.reset_all_variables()
            if self._runner is not None:
                answers = self._runner(**feeds)
            else:
                for name, feed in feeds.items():
                    self._interpreter.set_tensor(self._indices[name], feed)
                self._interpreter.invoke()
                answers = {spec.name: self._interpreter.get_tensor(self._indices[spec.name]) for spec in self.outputs}
        except (ValueError, RuntimeError) as error:
            raise RunError(f"the model broke while it ran: {_told(error)}.") from error
        return {spec.name: _answer(spec, answers[spec.name]) for spec in self.outputs}

    def _resize(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        try:
            self._lay_out(shapes)
        except (ValueError, RuntimeError) as error:
            with contextlib.suppress(ValueError, RuntimeError):  # it is in no usable state after a failure
                self._lay_out(self._shapes)
            raise InputError(f"LiteRT can't run inputs of these shapes: {_told(error)}.") from error
        self._shapes = dict(shapes)

    def _lay_out(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if self._runner is not None:
            wrapper, graph = self._interpreter._interpreter, self._runner._subgraph_index
            for name, shape in shapes.items():
                index = self._runner._inputs[name]
                wrapper.ResizeInputTensor(index, np.array(shape, dtype=np.int32), False, graph)
            wrapper.AllocateTensors(graph)
            return
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._indices[name], shape)
        self._interpreter.allocate_tensors()


def _interpreter_class() -> Any:
    problem: ImportError | None = None
    for package in _PACKAGES:
        try:
            return importlib.import_module(package).Interpreter
        except ImportError as error:
            problem = problem or error
    raise problem or ImportError(_PACKAGES[0])


def _signature(signatures: Mapping[str, Mapping[str, Sequence[str]]], stated: Stated) -> str | None:
    """The signature to serve: the only one, the one with the stated inputs, or the default; None: there are none."""
    if len(signatures) <= 1:
        return next(iter(signatures), None)
    wanted = {spec.name for spec in stated.inputs}
    fitting = [name for name, parts in signatures.items() if wanted and set(parts["inputs"]) == wanted]
    if len(fitting) == 1:
        return fitting[0]
    if _DEFAULT_SIGNATURE in signatures:
        return _DEFAULT_SIGNATURE
    raise ModelRefusedError(
        f"the model has {len(signatures)} signatures ({', '.join(sorted(signatures))}), and none is called "
        f"{_DEFAULT_SIGNATURE}; publish it with a probe whose inputs are those of the signature to serve."
    )


def _outputs(interpreter: Any) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = interpreter.get_output_details()
    return found


def _named(entries: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """By name; a number follows names that are empty or taken, which the format allows."""
    named: dict[str, Mapping[str, Any]] = {}
    for number, entry in enumerate(entries):
        name = str(entry["name"]) or "tensor"
        named[name if name not in named else f"{name}:{number}"] = entry
    return named


def _spec(what: str, name: str, entry: Mapping[str, Any]) -> TensorSpec:
    dtype = np.dtype(entry["dtype"])
    try:
        datatype = BYTES if dtype.kind in "SUO" else datatype_of(np.empty(0, dtype=dtype))
    except InputError:
        raise ModelRefusedError(f"{what} {name!r:.80} is of type {dtype}, which can't be served.") from None
    sizes = entry.get("shape_signature", entry["shape"])
    # A graph that was never given a shape has an empty signature beside the shape of its default.
    shape = tuple(int(size) for size in (sizes if len(sizes) == len(entry["shape"]) else entry["shape"]))
    parameters = entry.get("quantization_parameters") or {}
    scales, zeros = parameters.get("scales", ()), parameters.get("zero_points", ())
    quantization = (float(scales[0]), int(zeros[0])) if len(scales) == len(zeros) == 1 else None
    return TensorSpec(name, datatype, shape if what == "input" else _free(shape), quantization)


def _free(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Of an output: a scalar and an output whose rank only a run tells look the same."""
    return shape or None


def _feed(spec: TensorSpec, array: Array) -> Array:
    if spec.datatype != BYTES:
        return np.require(array, dtype=numpy_dtype(spec.datatype), requirements=["C", "A"])
    items = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel().tolist()]
    text = np.empty(len(items), dtype=np.object_)
    text[:] = items
    return text.reshape(array.shape)


def _answer(spec: TensorSpec, array: Array) -> Array:
    # A copy: LiteRT's own memory is the next run's.
    return array.astype(np.object_) if spec.datatype == BYTES else np.array(array, copy=True)


def _why_not(name: str, error: Exception) -> str:
    """Of the ways in which LiteRT says that an operator is missing, the sentence that helps."""
    told = str(error)
    flex = sorted(set(_FLEX.findall(told)))
    if flex or "Select TensorFlow op" in told:
        return (
            f"{name} needs TensorFlow's own operators ({', '.join(flex) or 'select TF ops'}), which LiteRT does not "
            "have; convert it with builtin operators only (target_spec.supported_ops = [TFLITE_BUILTINS])."
        )
    custom = _CUSTOM.search(told)
    if custom is not None:
        return (
            f"{name} needs the custom operator {custom[1]}, whose library is nobody's to load here; convert it "
            "without custom operators (allow_custom_ops = False), or publish an ONNX form."
        )
    return f"LiteRT can't load {name}: {_told(error)}."


def _told(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:400] or type(error).__name__
