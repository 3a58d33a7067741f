"""Every runtime behind the port, each with models that do the same: for the contract suite and whoever needs both.

The models take one row, a number n in its first place, and answer n * factor. -1 is no input for them, -2 makes them
raise, -3 crashes their process, -4 takes for ever; of these each kind has what `can` names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from modelsync_inference import LoadedModel, Runtime
from modelsync_inference.processes.code_runtime import CodeRuntime
from modelsync_inference.processes.process_model import Limits
from modelsync_inference.processes.process_runtime import ProcessRuntime
from modelsync_inference.runtimes.datatypes import Array
from modelsync_inference.runtimes.engines import EngineRuntime
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from modelsync_inference.runtimes.onnx_sessions import Choice, OnnxBy
from modelsync_inference.runtimes.port import check_inputs
from tests.support import tiny_gguf
from tests.support.tiny_models import model_bytes
from tests.support.toy_runtime import ToyRuntime, toy

BAD, RAISES, CRASHES, HANGS = -1, -2, -3, -4
LIMITS = Limits(load_seconds=20, run_seconds=1)

_ESTIMATOR = """
import ctypes, time
import numpy as np

class Scaler:
    n_features_in_ = 1

    def __init__(self, factor):
        self.factor = factor
        self.ballast = np.ones(4 << 20)

    def predict(self, X):
        n = int(X[0, 0])
        if n == -1:
            raise ValueError("-1 is not a number that is scaled")
        if n == -2:
            raise KeyError("broken")
        if n == -3:
            ctypes.string_at(0)
        while n == -4:
            time.sleep(1)
        return X[:, 0] * self.factor
"""

_SCRIPT = """
import json
import numpy as np
from estimator import Scaler

def init():
    global model
    model = Scaler({factor})

def run(raw_data):
    return model.predict(np.array(json.loads(raw_data))).tolist()
"""


class Kind(Protocol):
    """A runtime, and its models."""

    runtime: Runtime
    file: str
    can: frozenset[int]

    def write(self, folder: Path, factor: int) -> Path:
        """Lay a model out in `folder`; the path of its model file."""

    def feeds(self, n: int) -> Mapping[str, object]:
        """Inputs that are `n`."""

    def result(self, outputs: Mapping[str, Array]) -> float:
        """The number that is in the outputs."""


def ask(kind: Kind, model: LoadedModel, n: int) -> float:
    """Run once, with the check that every caller makes."""
    return kind.result(model.run(check_inputs(model.inputs, kind.feeds(n)), [spec.name for spec in model.outputs]))


@dataclass(slots=True)
class Onnx:
    """y = X * factor in integers; deadly only in a process of its own."""

    runtime: Runtime
    can: frozenset[int]
    file: str = "model.onnx"

    def write(self, folder: Path, factor: int) -> Path:
        """See Kind."""
        path = folder / self.file
        path.write_bytes(_onnx(factor, deadly=CRASHES in self.can))
        return path

    def feeds(self, n: int) -> Mapping[str, object]:
        """See Kind. What is bad does not fit the shape."""
        return {"X": [[[n]]] if n == BAD else [n]}

    def result(self, outputs: Mapping[str, Array]) -> float:
        """See Kind."""
        return float(outputs["y"].ravel()[0])


@dataclass(slots=True)
class Pickle:
    """An estimator of a class that lies beside it, written without that class."""

    runtime: Runtime
    file: str = "model.pkl"
    can: frozenset[int] = frozenset({RAISES, CRASHES, HANGS})

    def write(self, folder: Path, factor: int) -> Path:
        """See Kind."""
        (folder / "estimator.py").write_text(_ESTIMATOR)
        path = folder / self.file
        path.write_bytes(b"cestimator\nScaler\n(I%d\ntR." % factor)
        return path

    def feeds(self, n: int) -> Mapping[str, object]:
        """See Kind."""
        return {"X": [[float(n)]]}

    def result(self, outputs: Mapping[str, Array]) -> float:
        """See Kind."""
        return float(outputs["predict"][0])


@dataclass(slots=True)
class Script:
    """A scoring script that uses the module beside it."""

    runtime: Runtime
    file: str = "score.py"
    can: frozenset[int] = frozenset({RAISES, CRASHES, HANGS})

    def write(self, folder: Path, factor: int) -> Path:
        """See Kind."""
        (folder / "estimator.py").write_text(_ESTIMATOR)
        path = folder / self.file
        path.write_text(_SCRIPT.format(factor=factor))
        return path

    def feeds(self, n: int) -> Mapping[str, object]:
        """See Kind."""
        return {"raw_data": ["no JSON" if n == BAD else f"[[{n}]]"]}

    def result(self, outputs: Mapping[str, Array]) -> float:
        """See Kind."""
        return float(outputs["result"][0].strip("[]"))


@dataclass(slots=True)
class TfLite:
    """y = X * factor in integers, by LiteRT."""

    runtime: Runtime
    can: frozenset[int]
    file: str = "model.tflite"

    def write(self, folder: Path, factor: int) -> Path:
        """See Kind."""
        from tests.support.tiny_tflite import scaler  # its schema comes with LiteRT

        return scaler(folder / self.file, factor)

    def feeds(self, n: int) -> Mapping[str, object]:
        """See Kind."""
        return {"X": [[[n]]] if n == BAD else [n]}

    def result(self, outputs: Mapping[str, Array]) -> float:
        """See Kind."""
        return float(outputs["y"][0])


@dataclass(slots=True)
class OpenVino(Onnx):
    """The same graph as ONNX, as OpenVINO's own files."""

    file: str = "model.xml"

    def write(self, folder: Path, factor: int) -> Path:
        """See Kind."""
        import openvino

        source, path = folder / "source.onnx", folder / self.file
        source.write_bytes(_onnx(factor, deadly=False))
        openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
        source.unlink()
        return path


@dataclass(slots=True)
class Language:
    """A language model that continues the number n with n * factor."""

    runtime: Runtime
    file: str = "model.gguf"
    can: frozenset[int] = frozenset()

    def write(self, folder: Path, factor: int) -> Path:
        """See Kind."""
        return tiny_gguf.write(folder / self.file, factor)

    def feeds(self, n: int) -> Mapping[str, object]:
        """See Kind. What is bad has no prompt."""
        asked = {} if n == BAD else {"prompt": str(n)}
        return {"request": [json.dumps({**asked, "max_tokens": 1, "temperature": 0})]}

    def result(self, outputs: Mapping[str, Array]) -> float:
        """See Kind."""
        return float(outputs["text"][0])


@dataclass(slots=True)
class Toy:
    """The tests' own runtime."""

    runtime: Runtime
    file: str = "model.toy"
    can: frozenset[int] = frozenset()

    def write(self, folder: Path, factor: int) -> Path:
        """See Kind."""
        path = folder / self.file
        path.write_bytes(toy(factor))
        return path

    def feeds(self, n: int) -> Mapping[str, object]:
        """See Kind."""
        return {"X": [[n]] if n == BAD else [[n, n, n]]}

    def result(self, outputs: Mapping[str, Array]) -> float:
        """See Kind."""
        return float(outputs["y"][0, 0])


def all_kinds() -> dict[str, Kind]:
    """One of each; the caller closes the runtimes."""
    choice, by_openvino = Choice(context=128), Choice(onnx_by=OnnxBy.OPENVINO)
    here, elsewhere = EngineRuntime(choice, OnnxRuntime()), ProcessRuntime(choice, limits=LIMITS)
    return {
        "tflite in a thread": TfLite(here, frozenset({RAISES})),
        "tflite in a process": TfLite(elsewhere, frozenset({RAISES, HANGS})),
        "openvino in a thread": OpenVino(here, frozenset()),
        "openvino in a process": OpenVino(elsewhere, frozenset()),
        "onnx by openvino": Onnx(ProcessRuntime(by_openvino, limits=LIMITS), frozenset()),
        "gguf in a process": Language(elsewhere),
        "onnx in a thread": Onnx(OnnxRuntime(), frozenset({RAISES})),
        "onnx in a process": Onnx(ProcessRuntime(limits=LIMITS), frozenset({RAISES, CRASHES, HANGS})),
        "pickle": Pickle(CodeRuntime("anomaly", limits=LIMITS)),
        "script": Script(CodeRuntime("anomaly", limits=LIMITS)),
        "toy": Toy(ToyRuntime()),
    }


def _onnx(factor: int, *, deadly: bool) -> bytes:
    """X (INT64 [1]) to y = X * factor, and what is to happen at -2, -3 and -4.

    -2: a Reshape to another size. -3: the least integer / (2 (X + 3) - 1), which overflows. -4: a loop of 2^61 rounds.
    """
    constants = {"factor": factor, "two": 2, "three": 3, "one": 1}
    nodes = [
        helper.make_node("Mul", ["X", "factor"], ["scaled"]),
        # The shape is [1] for all but -2, for which it is [2].
        helper.make_node("Add", ["X", "two"], ["from_two"]),
        helper.make_node("Equal", ["from_two", "zero"], ["breaks"]),
        helper.make_node("Cast", ["breaks"], ["more"], to=TensorProto.INT64),
        helper.make_node("Add", ["more", "one"], ["shape"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["y" if not deadly else "whole"]),
    ]
    initial = [numpy_helper.from_array(np.array([value], dtype=np.int64), name) for name, value in constants.items()]
    initial.append(numpy_helper.from_array(np.array([0], dtype=np.int64), "zero"))
    if deadly:
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "one"], ["next"])],
            "body",
            [
                helper.make_tensor_value_info("round", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("sum", TensorProto.INT64, [1]),
            ],
            [
                helper.make_tensor_value_info("on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", TensorProto.INT64, [1]),
            ],
        )
        initial += [
            numpy_helper.from_array(np.array([4], dtype=np.int64), "four"),
            numpy_helper.from_array(np.array([-(2**63)], dtype=np.int64), "least"),
            numpy_helper.from_array(np.array([2**61], dtype=np.int64), "ages"),
            numpy_helper.from_array(np.array(True), "true"),
        ]
        nodes += [
            helper.make_node("Add", ["X", "three"], ["from_three"]),
            helper.make_node("Mul", ["from_three", "two"], ["twice"]),
            helper.make_node("Sub", ["twice", "one"], ["divisor"]),
            helper.make_node("Div", ["least", "divisor"], ["divided"]),
            helper.make_node("Mul", ["divided", "zero"], ["nothing"]),
            helper.make_node("Add", ["X", "four"], ["from_four"]),
            helper.make_node("Equal", ["from_four", "zero"], ["hangs"]),
            helper.make_node("Cast", ["hangs"], ["once"], to=TensorProto.INT64),
            helper.make_node("Mul", ["once", "ages"], ["turns"]),
            helper.make_node("Squeeze", ["turns"], ["rounds"]),
            helper.make_node("Loop", ["rounds", "true", "nothing"], ["counted"], body=body),
            helper.make_node("Mul", ["counted", "zero"], ["nothing_again"]),
            helper.make_node("Add", ["whole", "nothing_again"], ["y"]),
        ]
    return model_bytes(
        nodes,
        [helper.make_tensor_value_info("X", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1])],
        initial,
    )
