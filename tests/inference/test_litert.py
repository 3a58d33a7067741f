"""LiteRT behind the port: shapes, quantised tensors, signatures, state, operators that it lacks, real models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelsync_inference import HotModel, InputError, ModelRefusedError, RunError, Settings
from modelsync_inference.model.batch_rules import obstacle
from modelsync_inference.processes.process_model import Limits
from modelsync_inference.processes.process_runtime import ProcessRuntime
from modelsync_inference.runtimes.engines import engine_for
from modelsync_inference.runtimes.onnx_sessions import Choice
from modelsync_inference.runtimes.port import LoadedModel, Settling, Stated, TensorSpec, check_inputs
from tests.support.corpus import corpus_folder
from tests.support.datadir import DataDir
from tests.support.tiny_tflite import Model


@pytest.fixture(scope="module")
def corpus() -> Path:
    folder = corpus_folder()
    if folder is None:
        pytest.skip("THE REAL MODELS ARE NOT HERE (MODELSYNC_CORPUS)")
    return folder


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime(limits=Limits(20, 10))
    yield runtime
    runtime.close()


def load(path: Path, stated: Stated | None = None, **choice: Any) -> LoadedModel:
    return engine_for(path, Choice(**choice)).load_from(path, None, stated or Stated())


def run(model: LoadedModel, **inputs: Any) -> Mapping[str, Any]:
    return model.run(check_inputs(model.inputs, inputs), [spec.name for spec in model.outputs])


def adder(path: Path, shape: list[int], *, signature: bool) -> Path:
    """a + b, FP32."""
    model = Model()
    graph = model.graph()
    a, b, total = (graph.tensor(f"t_{name}", np.float32, shape) for name in ("a", "b", "sum"))
    graph.operator("ADD", [a, b], [total])
    graph.ends([a, b], [total])
    if signature:
        model.signature("serving_default", graph, {"a": a, "b": b}, {"sum": total})
    return model.write(path)


def test_any_size_of_a_free_dimension_is_run_and_requests_may_be_run_together(tmp_path: Path) -> None:
    for signature, names in ((True, ("a", "b", "sum")), (False, ("t_a", "t_b", "t_sum"))):
        model = load(adder(tmp_path / "model.tflite", [-1, 2], signature=signature))
        assert [(spec.name, spec.shape) for spec in model.inputs] == [(name, (-1, 2)) for name in names[:2]]
        for rows in (1, 3, 2, 3):
            ones = np.ones((rows, 2), dtype=np.float32)
            assert run(model, **{names[0]: ones, names[1]: 2 * ones})[names[2]].tolist() == [[3, 3]] * rows
        assert obstacle(model, None) is None
        with pytest.raises(InputError, match=r"has shape \[2, 3\]; the model wants \[-1, 2\]"):
            run(model, **dict.fromkeys(names[:2], np.ones((2, 3), dtype=np.float32)))


@pytest.mark.parametrize("signature", [True, False])
def test_shapes_that_do_not_fit_each_other_are_the_callers_fault_and_the_model_answers_on(
    tmp_path: Path, signature: bool
) -> None:
    model = load(adder(tmp_path / "model.tflite", [-1, 2], signature=signature), runs=1)
    first, second = (spec.name for spec in model.inputs)
    good = np.ones((2, 2), dtype=np.float32)
    for _ in range(3):
        with pytest.raises((InputError, RunError)):
            run(model, **{first: np.ones((2, 2), dtype=np.float32), second: np.ones((3, 2), dtype=np.float32)})
        assert next(iter(run(model, **{first: good, second: good}).values())).tolist() == [[2, 2], [2, 2]]


def test_a_fixed_size_stays_fixed(tmp_path: Path) -> None:
    model = load(adder(tmp_path / "model.tflite", [1, 2], signature=True))
    assert "its first dimension is not free" in (obstacle(model, None) or "")
    with pytest.raises(InputError, match=r"wants \[1, 2\]"):
        run(model, a=np.ones((2, 2), dtype=np.float32), b=np.ones((2, 2), dtype=np.float32))


def test_quantised_tensors_are_served_as_they_are_with_what_they_stand_for(
    tmp_path: Path, processes: ProcessRuntime
) -> None:
    made = Model()
    graph = made.graph()
    x = graph.tensor("x", np.int8, [1, 2], scale=0.5, zero=-3)
    y = graph.tensor("y", np.float32, [1, 2])
    graph.operator("DEQUANTIZE", [x], [y])
    graph.ends([x], [y])
    path = made.write(tmp_path / "model.tflite")
    for model in (load(path), processes.load(path)):
        assert model.inputs == (TensorSpec("x", "INT8", (1, 2), (0.5, -3)),)
        assert model.outputs[0].quantization is None
        assert run(model, x=np.array([[-3, 1]], dtype=np.int8))["y"].tolist() == [[0, 2]]
        model.close()


def test_of_several_signatures_the_default_serves_or_the_one_that_the_probe_is_about(tmp_path: Path) -> None:
    def write(first: str) -> Path:
        made = Model()
        for name, operator, label in ((first, "ADD", "a"), ("double", "MUL", "b")):
            graph = made.graph()
            x, y = graph.tensor("x", np.float32, [1]), graph.tensor("y", np.float32, [1])
            graph.operator(operator, [x, graph.tensor("two", np.float32, [1], [2])], [y])
            made.signature(name, graph.ends([x], [y]), {label: x}, {"y": y})
        return made.write(tmp_path / f"{first}.tflite")

    assert run(load(write("serving_default")), a=[5])["y"].tolist() == [7]
    about = Stated(inputs=(TensorSpec("b", "FP32", (1,)),))
    assert run(load(write("serving_default"), about), b=[5])["y"].tolist() == [10]
    assert run(load(write("other"), about), b=[5])["y"].tolist() == [10]
    with pytest.raises(ModelRefusedError, match=r"2 signatures \(double, other\).*publish it with a probe"):
        load(write("other"))


def test_strings_go_through(tmp_path: Path) -> None:
    made = Model()
    graph = made.graph()
    words = graph.tensor("words", np.object_, [-1])
    ids = graph.tensor("ids", np.int32, [1], [1])
    taken = graph.tensor("taken", np.object_, [1])
    graph.operator("GATHER", [words, ids], [taken])
    graph.ends([words], [taken])
    model = load(made.write(tmp_path / "model.tflite"))
    assert model.inputs[0].datatype == "BYTES"
    assert run(model, words=["grün", "blau"])["taken"].tolist() == [b"blau"]


@pytest.mark.parametrize(
    ("operator", "told"),
    [
        ("FlexErf", r"model\.tflite needs TensorFlow's own operators \(FlexErf\).*TFLITE_BUILTINS"),
        ("MyOwn", r"model\.tflite needs the custom operator MyOwn.*allow_custom_ops"),
    ],
)
def test_an_operator_that_is_not_there_is_refused_by_name_with_the_cure(
    tmp_path: Path, processes: ProcessRuntime, operator: str, told: str
) -> None:
    made = Model()
    graph = made.graph()
    x, y = graph.tensor("x", np.float32, [1]), graph.tensor("y", np.float32, [1])
    graph.operator(f"custom:{operator}", [x], [y])
    graph.ends([x], [y])
    path = made.write(tmp_path / "model.tflite")
    for how in (load, processes.load):
        with pytest.raises(ModelRefusedError, match=told):
            how(path)


@pytest.mark.parametrize("isolated", [False, True])
def test_a_model_that_keeps_state_answers_everybody_as_if_they_were_the_first(
    processes: ProcessRuntime, isolated: bool, corpus: Path
) -> None:
    """A wake word: its ring buffers are resources, which no reset of LiteRT brings back."""
    path = corpus / "esphome_oknabu_v1" / "new.tflite"
    model = processes.load(path) if isolated else load(path)
    sound = np.full((1, 3, 40), 5, dtype=np.int8)
    answers = [run(model, input_audio=sound)["dense"].tolist() for _ in range(2)]
    if isinstance(model, Settling):
        model.settle()
    answers += [run(model, input_audio=sound)["dense"].tolist() for _ in range(6)]
    assert answers == [[[5]]] * 8
    model.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_real_quantised_model_answers_the_same_in_its_process_and_swaps(
    corpus: Path, threads: int, tmp_path: Path
) -> None:
    folder = corpus / "haver_c100q_0164-0165"
    picture = np.random.default_rng(7).integers(0, 256, (2, 32, 20, 3)).astype(np.float32)
    here = run(load(folder / "new.tflite"), batch_normalization_input=picture)["dense_1"]
    runtime = ProcessRuntime(Choice(threads=threads), limits=Limits(20, 10))
    model = runtime.load(folder / "new.tflite")
    assert np.array_equal(run(model, batch_normalization_input=picture)["dense_1"], here)
    model.settle()  # type: ignore[attr-defined]
    assert np.array_equal(run(model, batch_normalization_input=picture)["dense_1"], here)
    runtime.close()
    data = DataDir(tmp_path)
    with HotModel(tmp_path, "anomaly", settings=Settings(link=False, poll_seconds=0.05)) as hot:
        for version, name in enumerate(("old", "new"), start=1):
            files = {"model.tflite": (folder / f"{name}.tflite").read_bytes()}
            data.point("current", data.install(version, files), version)
            hot.wait_ready(20)
        while hot.version != 2:
            assert hot.predict({"batch_normalization_input": picture}).version in (1, 2)
        assert np.array_equal(hot.predict({"batch_normalization_input": picture}).outputs["dense_1"], here)
