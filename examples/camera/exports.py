"""Exports as Custom Vision makes them, of a network that was trained here: a zip with ONNX, and one with TFLite.

The same network makes the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

from examples.camera.pictures import SIZE

HERE = Path(__file__).parent
ONNX, TFLITE = "ONNX", "TensorFlow"
"""Custom Vision's names of platforms."""

_MODEL_NAMES = {ONNX: "model.onnx", TFLITE: "model.tflite"}
_ZIP_TIME = (2026, 1, 1, 0, 0, 0)


def export(version: int, platform: str, folder: Path = HERE) -> bytes:
    """The zip of a version (v1/, v2/ below `folder`) for a platform."""
    data = (folder / f"v{version}" / "model.onnx").read_bytes()
    labels = (folder / f"v{version}" / "labels.txt").read_bytes()
    return packed(data if platform == ONNX else to_tflite(data), labels, platform)


def nudged(data: bytes, seed: int, by: float = 1e-3) -> bytes:
    """The network after another night of training: each weight moved a little."""
    made, rng = onnx.load_from_string(data), np.random.default_rng(seed)
    for each in made.graph.initializer:
        if each.name.endswith((".weight", ".bias")):
            value = numpy_helper.to_array(each)
            moved = value + rng.normal(0, by, value.shape).astype(value.dtype)
            each.CopyFrom(numpy_helper.from_array(moved, each.name))
    found: bytes = made.SerializeToString(deterministic=True)
    return found


def packed(model: bytes, labels: bytes, platform: str) -> bytes:
    """Model and labels with their cvexport.manifest, zipped."""
    name = _MODEL_NAMES[platform]
    said = {
        "DomainType": "Classification", "Platform": platform, "Flavor": None if platform == ONNX else "TensorFlowLite",
        "ExporterVersion": "2.0", "ModelFileName": name, "LabelFileName": "labels.txt",
        "ModelFileSHA1": _sha1(model), "LabelFileSHA1": _sha1(labels), "SchemaVersion": "1.0",
    }  # fmt: skip
    files = {name: model, "labels.txt": labels, "cvexport.manifest": json.dumps(said, indent=2).encode()}
    return zipped(files)


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip file of these, deflated."""
    with io.BytesIO() as out:
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), data, zipfile.ZIP_DEFLATED)
        return out.getvalue()


def to_tflite(data: bytes) -> bytes:
    """The network of our ONNX file as TFLite: Placeholder (1, SIZE, SIZE, BGR) → model_output (1, classes).

    Written by the schema's own classes; TensorFlow's converter would make the same operators.
    """
    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load_from_string(data).graph.initializer}
    graph = _Graph()
    placeholder = graph.tensor("Placeholder", [1, SIZE, SIZE, 3])
    scale, shift = (graph.constant(name, np.array([value])) for name, value in (("scale", 1 / 127.5), ("shift", -1)))
    x, side, number = graph.tensor("x0", [1, SIZE, SIZE, 3]), SIZE, 1
    halves = graph.tensor("halves", [1, SIZE, SIZE, 3])
    graph.operator("MUL", [placeholder, scale], [halves], schema.BuiltinOptions.MulOptions, schema.MulOptionsT())
    graph.operator("ADD", [halves, shift], [x], schema.BuiltinOptions.AddOptions, schema.AddOptionsT())
    while f"conv{number}.weight" in weights:
        weight = weights[f"conv{number}.weight"].transpose(0, 2, 3, 1)  # out, h, w, in
        kernel, side = weight.shape[1], side // 2
        pad = kernel // 2
        # TFLite's SAME would pad the other side of an even picture: ONNX's padding is written as its own operator.
        paddings = graph.integers(f"pads{number}", [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        padded = graph.tensor(f"padded{number}", [1, 2 * (side + pad), 2 * (side + pad), int(weight.shape[3])])
        graph.operator("PAD", [x, paddings], [padded], schema.BuiltinOptions.PadOptions, schema.PadOptionsT())
        convolution = schema.Conv2DOptionsT()
        convolution.padding, convolution.strideW, convolution.strideH = schema.Padding.VALID, 2, 2
        convolution.dilationWFactor = convolution.dilationHFactor = 1
        convolution.fusedActivationFunction = schema.ActivationFunctionType.RELU
        x = graph.tensor(f"x{number}", [1, side, side, int(weight.shape[0])])
        inputs = [
            padded, graph.constant(f"conv{number}.weight", weight),
            graph.constant(f"conv{number}.bias", weights[f"conv{number}.bias"]),
        ]  # fmt: skip
        graph.operator("CONV_2D", inputs, [x], schema.BuiltinOptions.Conv2DOptions, convolution)
        number += 1
    classes, features = weights["fc.weight"].shape
    pooled = graph.tensor("features", [1, features])
    reduced = schema.ReducerOptionsT()
    reduced.keepDims = False
    over = graph.integers("over", [1, 2])
    graph.operator("MEAN", [x, over], [pooled], schema.BuiltinOptions.ReducerOptions, reduced)
    scores, output = graph.tensor("scores", [1, classes]), graph.tensor("model_output", [1, classes])
    dense = schema.FullyConnectedOptionsT()
    inputs = [pooled, graph.constant("fc.weight", weights["fc.weight"]), graph.constant("fc.bias", weights["fc.bias"])]
    graph.operator("FULLY_CONNECTED", inputs, [scores], schema.BuiltinOptions.FullyConnectedOptions, dense)
    soft = schema.SoftmaxOptionsT()
    soft.beta = 1.0
    graph.operator("SOFTMAX", [scores], [output], schema.BuiltinOptions.SoftmaxOptions, soft)
    return graph.file([placeholder], [output])


class _Graph:
    """A TFLite file's one graph while it is written; tensors are numbers."""

    def __init__(self) -> None:
        self._model, self._graph = schema.ModelT(), schema.SubGraphT()
        self._model.version, self._model.description = 3, "parts"
        self._model.buffers, self._model.operatorCodes = [schema.BufferT()], []
        self._model.subgraphs, self._graph.name = [self._graph], "main"
        self._graph.tensors, self._graph.operators = [], []
        self._codes: dict[str, int] = {}

    def tensor(self, name: str, shape: list[int], buffer: int = 0, kind: int = schema.TensorType.FLOAT32) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def constant(self, name: str, value: npt.NDArray[Any]) -> int:
        return self.tensor(name, list(value.shape), self._buffer(np.ascontiguousarray(value, np.float32)))

    def integers(self, name: str, value: Any) -> int:
        array = np.array(value, np.int32)
        return self.tensor(name, list(array.shape), self._buffer(array), schema.TensorType.INT32)

    def _buffer(self, value: npt.NDArray[Any]) -> int:
        made = schema.BufferT()
        made.data = np.frombuffer(value.tobytes(), np.uint8)
        self._model.buffers.append(made)
        return len(self._model.buffers) - 1

    def operator(self, name: str, inputs: list[int], outputs: list[int], kind: int, options: Any) -> None:
        if name not in self._codes:
            code, number = schema.OperatorCodeT(), getattr(schema.BuiltinOperator, name)
            code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
            self._codes[name] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self._codes[name], inputs, outputs
        made.builtinOptionsType, made.builtinOptions = kind, options
        self._graph.operators.append(made)

    def file(self, inputs: list[int], outputs: list[int]) -> bytes:
        self._graph.inputs, self._graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
