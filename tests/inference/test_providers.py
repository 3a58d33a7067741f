"""Execution providers of ONNX Runtime: asked for, available, in use, told, required; libraries that fail or crash."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from modelsync_inference import ModelRefusedError
from modelsync_inference.confinement import reader
from modelsync_inference.confinement.reader import Reader, mapped_bytes
from modelsync_inference.processes.process_model import Limits
from modelsync_inference.processes.process_runtime import ProcessRuntime
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from modelsync_inference.runtimes.onnx_sessions import Choice
from modelsync_inference.runtimes.port import LoadedModel, Telling
from modelsync_inference.runtimes.providers import Provider, Providers, Taken, full_name
from modelsync_protocol.errors import UsageError
from tests.support.datadir import DataDir
from tests.support.infer_process import InferProcess, run_infer
from tests.support.tiny_models import scaler
from tests.support.waiting import wait_until

CUDA, CPU, AZURE = (f"{name}ExecutionProvider" for name in ("CUDA", "CPU", "Azure"))
PLUGIN = "hardware"
TAKES_PLUGINS = hasattr(onnxruntime, "register_execution_provider_library")
"""From 1.22 on."""


def providers(*names: str, required: bool = False, library: str = "") -> Providers:
    return Providers(tuple(Provider(name, {}, library if name == PLUGIN else "") for name in names), required)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(scaler(2))
    return path


@pytest.fixture
def crashing(tmp_path: Path) -> str:
    """A provider's library that crashes while it is loaded, as a driver's may."""
    if not TAKES_PLUGINS:
        pytest.skip(f"A CRASHING LIBRARY IS NOT TESTED: ONNX Runtime {onnxruntime.__version__} takes no plugins")
    if shutil.which("cc") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("A CRASHING LIBRARY IS NOT TESTED: there is no cc")
    source, library = tmp_path / "crash.c", tmp_path / "libcrash.so"
    source.write_text("#include <stdlib.h>\n__attribute__((constructor)) static void start(void) { abort(); }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def taken(model: LoadedModel) -> dict[str, Any]:
    assert isinstance(model, Telling)
    found: dict[str, Any] = model.facts["providers"]
    return found


def _answers(model: LoadedModel) -> None:
    (spec,) = model.inputs
    ones = np.ones([max(size, 1) for size in spec.shape or ()], dtype=np.float32)
    assert np.array_equal(model.run({spec.name: ones}, ["y"])["y"], 2 * ones)


@pytest.mark.parametrize("isolated", [False, True])
def test_what_is_not_there_is_left_out_in_order_and_said(model: Path, isolated: bool) -> None:
    choice = Choice(providers=providers(CUDA, AZURE))
    runtime = ProcessRuntime(choice, limits=Limits(20, 10)) if isolated else OnnxRuntime(choice)
    loaded = runtime.load(model)
    _answers(loaded)
    found = taken(loaded)
    assert found["asked"] == [CUDA, AZURE]
    assert found["available"] == sorted(onnxruntime.get_available_providers())
    assert found["in_use"][-1] == CPU and CUDA not in found["in_use"]
    assert found["fallback"] == f"{CUDA} is not in use (this build of ONNX Runtime does not have it)."
    if isinstance(runtime, ProcessRuntime):
        runtime.close()


def test_nothing_is_said_of_a_fallback_where_nothing_was_asked_for_or_the_first_is_in_use(model: Path) -> None:
    for asked in ((), (CPU,)):
        found = taken(OnnxRuntime(Choice(providers=providers(*asked))).load(model))
        assert (found["asked"], found["in_use"], found["fallback"]) == (list(asked), [CPU], None)


def test_a_provider_that_is_required_and_not_there_refuses_the_version(model: Path) -> None:
    with pytest.raises(ModelRefusedError, match=f"^--require-provider: {CUDA} is not in use .this build"):
        OnnxRuntime(Choice(providers=providers(CUDA, required=True))).load(model)


def test_a_library_that_is_no_provider_is_left_out_with_its_reason(model: Path, tmp_path: Path) -> None:
    library = tmp_path / "libnothing.so"
    library.write_bytes(b"no library")
    found = taken(OnnxRuntime(Choice(providers=providers(PLUGIN, library=str(library)))).load(model))
    told = "its library can't be loaded: .*libnothing.so" if TAKES_PLUGINS else "ONNX Runtime .* takes no plugins"
    assert re.match(f"{PLUGIN} is not in use .{told}", found["fallback"])


def test_a_library_that_crashes_at_load_costs_a_worker_and_the_model_runs_on_the_cpu(
    model: Path, crashing: str
) -> None:
    runtime = ProcessRuntime(Choice(providers=providers(PLUGIN, library=crashing)), limits=Limits(20, 10))
    loaded = runtime.load(model)
    _answers(loaded)
    found = taken(loaded)
    assert (found["asked"], found["in_use"]) == ([PLUGIN], [CPU])
    assert found["fallback"] == f"{PLUGIN} is not in use (the process that loaded it was killed by SIGABRT)."
    runtime.close()
    required = ProcessRuntime(Choice(providers=providers(PLUGIN, required=True, library=crashing)))
    with pytest.raises(ModelRefusedError, match=f"--require-provider: {PLUGIN} is not in use: .*SIGABRT"):
        required.load(model)
    required.close()


def test_a_server_tells_it_in_its_status_and_metrics(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"model.onnx": scaler(2)}), 1)
    with InferProcess(tmp_path, "--providers", "anomaly:cuda", "--provider-option", "cuda.device_id=1") as server:

        def status() -> dict[str, Any]:
            document: dict[str, Any] = json.load(urllib.request.urlopen(f"{server.url}/status"))
            return document

        wait_until(lambda: status()["serving"], "the version")
        assert status()["providers"]["asked"] == [CUDA]
        assert "does not have it" in status()["providers"]["fallback"]
        metrics = urllib.request.urlopen(f"{server.url}/metrics").read().decode()
    assert f'modelsync_inference_provider{{model="anomaly",provider="{CUDA}",state="asked"}} 1.0' in metrics
    assert f'modelsync_inference_provider{{model="anomaly",provider="{CPU}",state="in_use"}} 1.0' in metrics
    assert 'modelsync_inference_provider_fallback{model="anomaly"} 1.0' in metrics


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--providers", "cudda"], r"'cudda' is no execution provider of ONNX Runtime.*did you mean.*cuda"),
        (["--providers", "other:cuda"], "for a model 'other' that is not served"),
        (["--providers", "cuda", "--providers", "cpu"], "once for each model"),
        (["--provider-option", "cuda.device_id=1"], f"--provider-option is for {CUDA}, which no --providers asks for"),
        (["--providers", "cuda", "--provider-option", "device_id=1"], r"is not NAME\.KEY=VALUE"),
        (["--provider-library", "hardware=/nowhere.so"], "is not NAME=PATH with the path of a file"),
        (["--require-provider"], "--require-provider needs --providers"),
        (["--onnx-runtime", "tensorflow"], "is not one of onnxruntime, openvino"),
        (["--context-tokens", "0"], "must be positive"),
    ],
)
def test_what_can_not_be_meant_is_refused_at_the_start(tmp_path: Path, options: list[str], told: str) -> None:
    done = run_infer("--data", str(tmp_path), "--model", "anomaly", *options)
    assert done.returncode == 2
    assert re.search(told, done.stderr), done.stderr


def test_providers_are_called_as_people_call_them() -> None:
    names = {"cuda": CUDA, "TensorRT": "TensorrtExecutionProvider", "XNNPACK": "XnnpackExecutionProvider"}
    names |= {
        "QNN": "QNNExecutionProvider",
        "OpenVINO": "OpenVINOExecutionProvider",
        "coreml": "CoreMLExecutionProvider",
    }
    assert {name: full_name(name) for name in names} == names
    for name in set(onnxruntime.get_all_providers()) - {"JsExecutionProvider"}:  # which is for browsers
        assert full_name(name.removesuffix("ExecutionProvider")) == full_name(name) == name
    with pytest.raises(UsageError, match="no execution provider"):
        full_name("gpu")


def test_providers_go_to_a_worker_and_back_unchanged() -> None:
    asked = Providers((Provider(CUDA, {"device_id": "1"}), Provider(PLUGIN, {}, "/opt/lib.so")), True)
    assert Providers.of(json.loads(json.dumps(asked.document()))) == asked
    assert Taken([CUDA], [], [CPU], {}).fallback == f"{CUDA} is not in use (ONNX Runtime left it out)."


def test_a_drivers_devices_are_opened_for_writing_and_nothing_else_is(tmp_path: Path) -> None:
    """By what stands for a device of an accelerator: a file of its name."""
    if not reader.available().landlock:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("DEVICES ARE NOT TESTED: this kernel has no Landlock")
    folder = tmp_path / "dev"
    (folder / "dri").mkdir(parents=True)
    for name in ("nvidia0", "nvidiactl", "sda", "dri/renderD128"):
        (folder / name).touch()
    found = providers(CUDA, "OpenVINOExecutionProvider").devices(folder)
    assert [path.name for path in found] == ["nvidia0", "nvidiactl", "renderD128"]
    assert providers(CPU).devices(folder) == ()
    (tmp_path / "artifact").mkdir()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            Reader((), tmp_path / "artifact", 1 << 28, mapped_bytes(), found).close((), in_memory=False)
            os.close(os.open(found[0], os.O_RDWR))
            refused = 0
            for path in (folder / "sda", tmp_path / "artifact" / "new"):
                try:
                    os.open(path, os.O_RDWR | os.O_CREAT)
                except OSError:
                    refused += 1
            code = 0 if refused == 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
