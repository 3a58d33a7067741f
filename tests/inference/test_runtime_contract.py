"""The contract of the runtime port: ONNX Runtime here and in workers, and the tests' toy runtime, all keep it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from modelsync_inference import ModelRefusedError, Runtime, TensorSpec
from modelsync_inference.onnx_runtime import OnnxRuntime
from modelsync_inference.process_runtime import ProcessRuntime
from modelsync_inference.runtime import check_inputs
from tests.support import tiny_models
from tests.support.toy_runtime import ToyRuntime, toy

ONES = np.ones((2, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime()
    yield runtime
    runtime.close()


@pytest.fixture(params=["onnx", "process", "toy"])
def kind(
    request: pytest.FixtureRequest, tmp_path: Path, processes: ProcessRuntime
) -> tuple[Runtime, Callable[[int], Path]]:
    path = tmp_path / "model.onnx"
    build = toy if request.param == "toy" else tiny_models.scaler

    def write(factor: int) -> Path:
        path.write_bytes(build(factor))
        return path

    runtimes: dict[str, Runtime] = {"onnx": OnnxRuntime(), "process": processes, "toy": ToyRuntime()}
    return runtimes[request.param], write


Kind = tuple[Runtime, Callable[[int], Path]]


def test_a_model_tells_its_inputs_and_outputs(kind: Kind) -> None:
    model = kind[0].load(kind[1](2))
    assert tuple(model.inputs) == (TensorSpec("X", "FP32", (-1, 3)),)
    assert tuple(model.outputs) == (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("tag", "INT64", (1,)))


def test_a_run_gives_the_outputs_asked_for_and_no_others(kind: Kind) -> None:
    model = kind[0].load(kind[1](2))
    assert model.run({"X": ONES}, ["y"])["y"].tolist() == [[2, 2, 2], [2, 2, 2]]
    assert list(model.run({"X": ONES}, ["tag", "y"])) == ["tag", "y"]


def test_several_threads_run_one_model(kind: Kind) -> None:
    model = kind[0].load(kind[1](3))
    with ThreadPoolExecutor(4) as pool:
        sums = pool.map(lambda n: float(model.run({"X": ONES * n}, ["y"])["y"].sum()), range(50))
        assert list(sums) == [18.0 * n for n in range(50)]


def test_a_damaged_file_is_refused(kind: Kind) -> None:
    path = kind[1](2)
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(ModelRefusedError, match=r"model\.onnx"):
        kind[0].load(path)


def test_a_model_can_be_closed(kind: Kind) -> None:
    model = kind[0].load(kind[1](2))
    model.run({"X": ONES}, ["y"])
    model.close()


def _load(tmp_path: Path, data: bytes) -> object:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    return OnnxRuntime().load(path)


def test_map_outputs_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_models.zipmap(only=False))
    model = OnnxRuntime().load(path)
    assert [spec.name for spec in model.outputs] == ["scores"]
    assert model.run({"X": np.ones((1, 2), dtype=np.float32)}, ["scores"])["scores"].shape == (1, 2)


def test_a_model_with_map_outputs_only_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ModelRefusedError, match="zipmap=False"):
        _load(tmp_path, tiny_models.zipmap(only=True))


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize(
    ("element", "values"),
    [
        (TensorProto.BOOL, np.array([True, False])),
        (TensorProto.INT8, np.array([-128, 127], dtype=np.int8)),
        (TensorProto.UINT16, np.array([0, 65535], dtype=np.uint16)),
        (TensorProto.UINT64, np.array([0, 2**64 - 1], dtype=np.uint64)),
        (TensorProto.FLOAT16, np.array([0.5, -2], dtype=np.float16)),
        (TensorProto.DOUBLE, np.array([0.1, 1e300])),
        (TensorProto.STRING, np.array(["grün", b"blue"], dtype=np.object_)),
    ],
)
def test_every_datatype_passes_through(
    tmp_path: Path,
    processes: ProcessRuntime,
    isolated: bool,
    element: int,
    values: np.ndarray[tuple[int], np.dtype[np.generic]],
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_models.echo(element))
    model = (processes if isolated else OnnxRuntime()).load(path)
    echoed = model.run(check_inputs(model.inputs, {"text": values}), ["echo"])["echo"]
    assert [v.decode() if isinstance(v, bytes) else v for v in values.tolist()] == echoed.tolist()
