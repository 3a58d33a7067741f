"""The contract of the runtime port: ONNX Runtime here and in workers, pickles, scoring scripts and a toy keep it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from modelsync_inference import InputError, LoadedModel, ModelRefusedError, RunError, WorkerDiedError
from modelsync_inference.model.memory import give_back, resident_bytes
from modelsync_inference.processes.process_model import ProcessModel
from modelsync_inference.processes.process_runtime import ProcessRuntime
from modelsync_inference.runtimes.datatypes import datatype_of
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from modelsync_inference.runtimes.port import Processes, Settling, check_inputs
from tests.support import tiny_models
from tests.support.runtime_kinds import BAD, CRASHES, HANGS, RAISES, Kind, all_kinds, ask


@pytest.fixture(scope="module")
def kinds() -> Iterator[dict[str, Kind]]:
    made = all_kinds()
    yield made
    for kind in made.values():
        if isinstance(kind.runtime, Processes):
            kind.runtime.close()


@pytest.fixture(scope="module")
def processes(kinds: dict[str, Kind]) -> ProcessRuntime:
    runtime = kinds["onnx in a process"].runtime
    assert isinstance(runtime, ProcessRuntime)
    return runtime


IN_PROCESSES = [
    "onnx in a process",
    "tflite in a process",
    "openvino in a process",
    "gguf in a process",
    pytest.param("onnx by openvino", marks=pytest.mark.long),
]
"""Models that are data, in processes."""

KINDS = ["onnx in a thread", "pickle", "script", "toy", "tflite in a thread", "openvino in a thread", *IN_PROCESSES]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, kinds: dict[str, Kind]) -> Kind:
    return kinds[request.param]


@pytest.fixture(params=["onnx in a process", "pickle", "script"])
def process_kind(request: pytest.FixtureRequest, kinds: dict[str, Kind]) -> Kind:
    """Those that survive what a model does to its process."""
    return kinds[request.param]


@pytest.fixture(params=["onnx in a process", "pickle", "script", "tflite in a process"])
def hanging_kind(request: pytest.FixtureRequest, kinds: dict[str, Kind]) -> Kind:
    """Those whose models can run without end."""
    return kinds[request.param]


@pytest.fixture(params=IN_PROCESSES)
def killed_kind(request: pytest.FixtureRequest, kinds: dict[str, Kind]) -> Kind:
    """Those whose process can be ended from here."""
    return kinds[request.param]


@contextlib.contextmanager
def serving(kind: Kind, folder: Path, factor: int = 2) -> Iterator[LoadedModel]:
    """A model after its probe, as requests find it."""
    model = kind.runtime.load(kind.write(folder, factor))
    try:
        ask(kind, model, 1)
        if isinstance(model, Settling):
            model.settle()
        yield model
    finally:
        model.close()


def test_a_model_tells_its_platform_inputs_and_outputs_and_gives_those_it_is_asked_for(
    kind: Kind, tmp_path: Path
) -> None:
    with serving(kind, tmp_path) as model:
        assert model.platform
        (first, *_) = model.inputs
        assert list(kind.feeds(1)) == [spec.name for spec in model.inputs]
        assert first.datatype and first.shape is not None
        for spec in model.outputs:
            answers = model.run(check_inputs(model.inputs, kind.feeds(1)), [spec.name])
            assert list(answers) == [spec.name]
            assert datatype_of(answers[spec.name]) == spec.datatype


def test_several_threads_run_one_model(kind: Kind, tmp_path: Path) -> None:
    with serving(kind, tmp_path, 3) as model, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: ask(kind, model, n), range(50))) == [3 * n for n in range(50)]


def test_two_models_are_loaded_side_by_side_and_answer_for_themselves(kind: Kind, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    with serving(kind, folders[0], 2) as old:
        with serving(kind, folders[1], 5) as new:
            assert (ask(kind, old, 7), ask(kind, new, 7)) == (14, 35)
        assert ask(kind, old, 8) == 16


def test_a_damaged_file_is_refused_and_named(kind: Kind, tmp_path: Path) -> None:
    path = kind.write(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(ModelRefusedError, match=re.escape(kind.file)):
        kind.runtime.load(path)


def test_a_wrong_input_is_the_callers_fault_and_the_model_answers_on(kind: Kind, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as model:
        with pytest.raises(InputError):
            ask(kind, model, BAD)
        assert ask(kind, model, 4) == 8


def test_a_run_that_breaks_is_told_and_the_model_answers_on(kind: Kind, tmp_path: Path) -> None:
    if RAISES not in kind.can:
        pytest.skip("no request breaks this one: the toy breaks on a test's demand, test_openvino.py breaks OpenVINO")
    with serving(kind, tmp_path) as model:
        with pytest.raises(RunError) as caught:
            ask(kind, model, RAISES)
        assert not isinstance(caught.value, WorkerDiedError)
        assert ask(kind, model, 4) == 8


def test_a_crash_costs_its_run_is_told_and_the_model_answers_on(process_kind: Kind, tmp_path: Path) -> None:
    with serving(process_kind, tmp_path) as model:
        with pytest.raises(WorkerDiedError, match=r"was killed by SIG(FPE|SEGV)"):
            ask(process_kind, model, CRASHES)
        assert ask(process_kind, model, 4) == 8


def test_a_process_that_is_killed_is_started_again_and_no_request_is_lost(killed_kind: Kind, tmp_path: Path) -> None:
    with serving(killed_kind, tmp_path) as model:
        assert isinstance(model, ProcessModel)
        os.kill(model.pid, signal.SIGKILL)
        assert [ask(killed_kind, model, n) for n in range(1, 5)] == [2, 4, 6, 8]
        assert model.deaths == 1


def test_a_run_without_end_is_ended_told_and_the_model_answers_on(hanging_kind: Kind, tmp_path: Path) -> None:
    with serving(hanging_kind, tmp_path) as model:
        with pytest.raises(WorkerDiedError, match="did not answer within 1 s; its process was ended"):
            ask(hanging_kind, model, HANGS)
        assert ask(hanging_kind, model, 4) == 8


def test_a_closed_model_gives_its_memory_and_its_processes_back(kind: Kind, tmp_path: Path) -> None:
    pids = kind.runtime.pids if isinstance(kind.runtime, Processes) else tuple
    with serving(kind, tmp_path):
        pass
    for more in (2, 1, 0):  # what is kept once, such as a library that is loaded, is no leak
        give_back()
        before, held = set(pids()), resident_bytes(pids())
        with serving(kind, tmp_path):
            during = set(pids())
        give_back()
        assert set(pids()) == before
        assert not any(Path(f"/proc/{pid}").exists() for pid in during - before)
        given_back = resident_bytes(pids()) < held + (8 << 20)  # of 32 MiB that the code models hold
        if given_back:
            break
        assert more, "each time it is closed less is given back than it took"


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
