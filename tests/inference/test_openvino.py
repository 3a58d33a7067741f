"""OpenVINO behind the port: an artifact of two files, ONNX files by setting, shapes, types, state, damage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from onnx import TensorProto, helper
from openvino import opset13 as ops

from modelsync_inference import HotModel, InputError, Isolation, ModelRefusedError, RunError, Settings
from modelsync_inference.handle.settings import EngineRules
from modelsync_inference.model.batch_rules import obstacle
from modelsync_inference.processes.process_model import Limits
from modelsync_inference.processes.process_runtime import ProcessRuntime
from modelsync_inference.runtimes.datatypes import Array
from modelsync_inference.runtimes.engines import engine_for
from modelsync_inference.runtimes.onnx_sessions import Choice, OnnxBy
from modelsync_inference.runtimes.port import LoadedModel, Stated, check_inputs
from tests.support.datadir import DataDir
from tests.support.tiny_models import model_bytes, scaler


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime(limits=Limits(20, 10))
    yield runtime
    runtime.close()


def load(path: Path, **choice: Any) -> LoadedModel:
    return engine_for(path, Choice(**choice)).load_from(path, None, Stated())


def run(model: LoadedModel, **inputs: Any) -> Mapping[str, Any]:
    return model.run(check_inputs(model.inputs, inputs), [spec.name for spec in model.outputs])


def product(path: Path) -> Path:
    """a [-1, -1] times b [-1, 2], FP32."""
    a = ops.parameter([-1, -1], np.float32, name="a")
    b = ops.parameter([-1, 2], np.float32, name="b")
    for node, name in ((a, "a"), (b, "b")):
        node.output(0).set_names({name})
    y = ops.matmul(a, b, False, False)
    y.output(0).set_names({"y"})
    openvino.save_model(openvino.Model([y], [a, b], "product"), path)
    return path


def multiple(path: Path, factor: float) -> Path:
    """x [-1, 4] times a constant of four."""
    x = ops.parameter([-1, 4], np.float32, name="x")
    x.output(0).set_names({"x"})
    y = ops.multiply(x, ops.constant(np.array([[factor, factor, factor, factor]], dtype=np.float32)))
    y.output(0).set_names({"y"})
    openvino.save_model(openvino.Model([y], [x], "m"), path, compress_to_fp16=False)
    return path


def test_any_shape_that_fits_is_run_and_one_that_does_not_breaks_its_own_run_only(
    tmp_path: Path, processes: ProcessRuntime
) -> None:
    path = product(tmp_path / "model.xml")
    for model in (load(path), processes.load(path)):
        assert [(spec.name, spec.shape) for spec in model.inputs] == [("a", (-1, -1)), ("b", (-1, 2))]
        for size in (2, 3, 2):
            a, b = np.ones((1, size), dtype=np.float32), np.ones((size, 2), dtype=np.float32)
            assert run(model, a=a, b=b)["y"].tolist() == [[size, size]]
        with pytest.raises((RunError, InputError), match=r"MatMul|dimension|shape"):
            run(model, a=np.ones((1, 3), dtype=np.float32), b=np.ones((2, 2), dtype=np.float32))
        assert run(model, a=a, b=b)["y"].tolist() == [[2, 2]]
        model.close()


@pytest.mark.long
def test_an_artifact_of_two_files_is_found_served_and_swapped(tmp_path: Path) -> None:
    def files(factor: float) -> dict[str, bytes]:
        path = multiple(tmp_path / "m.xml", factor)
        return {"net/m.xml": path.read_bytes(), "net/m.bin": path.with_suffix(".bin").read_bytes()}

    data = DataDir(tmp_path / "data")
    settings = Settings(link=False, poll_seconds=0.05, isolation=Isolation.PROCESS)
    data.point("current", data.install(1, {**files(2), "labels.xml": b"<labels/>"}), 1)
    with HotModel(data.root, "anomaly", settings=settings) as model:
        model.wait_ready(30)
        with model.lease() as lease:
            assert obstacle(model._serving.loaded.model, None) is None  # type: ignore[union-attr]
            data.point("current", data.install(2, files(3)), 2)
            while model.version != 2:
                assert lease.run({"x": [[1, 2, 3, 4]]}).outputs["y"].tolist() == [[2, 4, 6, 8]]
        assert model.predict({"x": [[1, 2, 3, 4]]}).outputs["y"].tolist() == [[3, 6, 9, 12]]
        data.point("current", data.install(3, {"m.xml": files(4)["net/m.xml"]}, requires={"model": "m.xml"}), 3)
        while model.refusals == 0:
            assert model.predict({"x": [[1, 2, 3, 4]]}).version == 2


@pytest.mark.parametrize("missing", ["m.xml", "m.bin"])
def test_half_of_it_is_no_model(tmp_path: Path, missing: str) -> None:
    multiple(tmp_path / "m.xml", 2)
    (tmp_path / missing).write_bytes(b"")
    with pytest.raises(ModelRefusedError, match=r"OpenVINO can't load m\.xml"):
        load(tmp_path / "m.xml")


@pytest.mark.long
def test_onnx_files_run_by_openvino_where_that_is_set_and_by_onnx_runtime_elsewhere(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"model.onnx": scaler(2)}), 1)
    for name, platform in (("anomaly", "openvino"), ("another", "onnxruntime_onnx")):
        rules = EngineRules(onnx_by={name: OnnxBy.OPENVINO})
        settings = Settings(link=False, isolation=Isolation.PROCESS, engines=rules)
        with HotModel(tmp_path, "anomaly", settings=settings) as model:
            model.wait_ready(30)
            assert model.platform == platform
            with model.lease() as lease:
                (spec,) = lease.inputs
                ones = np.ones([max(size, 1) for size in spec.shape or ()], dtype=np.float32)
                answer = lease.run({spec.name: ones}).outputs["y"]
            assert np.array_equal(answer, 2 * ones)


def test_small_types_go_through_and_strings_are_refused(tmp_path: Path) -> None:
    types: list[tuple[int, Array]] = [
        (TensorProto.INT8, np.array([-128, 127], dtype=np.int8)),
        (TensorProto.FLOAT16, np.array([0.5, -2], dtype=np.float16)),
        (TensorProto.BOOL, np.array([True, False])),
    ]
    for number, (element, values) in enumerate(types):
        x, y = (helper.make_tensor_value_info(name, element, [None]) for name in ("x", "y"))
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(model_bytes([helper.make_node("Identity", ["x"], ["y"])], [x], [y], []))
        answer = run(load(path, onnx_by=OnnxBy.OPENVINO), x=values)["y"]
        assert answer.dtype == values.dtype
        assert answer.tolist() == values.tolist()
    text = [helper.make_tensor_value_info(name, TensorProto.STRING, [None]) for name in ("x", "y")]
    path.write_bytes(model_bytes([helper.make_node("Identity", ["x"], ["y"])], text[:1], text[1:], []))
    with pytest.raises(ModelRefusedError, match="input 'x' is of type string; what is served by OpenVINO is BOOL"):
        load(path, onnx_by=OnnxBy.OPENVINO)


def test_state_is_nobodys_elses(tmp_path: Path) -> None:
    x = ops.parameter([1], np.float32, name="x")
    x.output(0).set_names({"x"})
    before = ops.read_value(ops.constant(np.zeros(1, dtype=np.float32)), "sum", np.float32, [1])
    total = ops.add(before, x)
    total.output(0).set_names({"y"})
    result = ops.result(total)
    openvino.save_model(openvino.Model([result], [ops.assign(total, "sum")], [x], "m"), tmp_path / "m.xml")
    model = load(tmp_path / "m.xml")
    assert [run(model, x=[1])["y"].tolist() for _ in range(5)] == [[1]] * 5


def test_a_damaged_pair_is_refused_in_one_sentence(tmp_path: Path, processes: ProcessRuntime) -> None:
    path = product(tmp_path / "m.xml")
    shutil.copy(path, tmp_path / "n.xml")
    (tmp_path / "n.xml").write_bytes(path.read_bytes()[:400])
    for how in (load, processes.load):
        with pytest.raises(ModelRefusedError, match=r"^OpenVINO can't load n\.xml: [^\n]+\.$"):
            how(tmp_path / "n.xml")
