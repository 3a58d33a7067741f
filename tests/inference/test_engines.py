"""Runtimes that are extras: what is said where one is missing, and that none is imported which no model needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_inference import ModelRefusedError
from modelsync_inference.model.artifact import open_artifact
from modelsync_inference.model.pointer import VersionRef
from modelsync_inference.runtimes.engines import engine_for
from modelsync_inference.runtimes.onnx_sessions import Choice, OnnxBy
from tests.support.datadir import DataDir
from tests.support.tiny_models import scaler

PACKAGES = {"ai_edge_litert", "tflite_runtime", "openvino", "xllamacpp"}


@pytest.mark.parametrize(
    ("file", "onnx_by", "told"),
    [
        ("model.tflite", OnnxBy.ONNX_RUNTIME, r"TensorFlow Lite model that LiteRT .*'modelsync-inference\[litert\]'"),
        ("model.xml", OnnxBy.ONNX_RUNTIME, r"OpenVINO model that OpenVINO .*'modelsync-inference\[openvino\]'"),
        ("model.onnx", OnnxBy.OPENVINO, r"an ONNX model that OpenVINO .*'modelsync-inference\[openvino\]'"),
        ("model.gguf", OnnxBy.ONNX_RUNTIME, r"for llama\.cpp .*'modelsync-inference\[llama\]'"),
    ],
)
def test_a_runtime_that_is_not_installed_is_one_sentence_with_the_command(
    monkeypatch: pytest.MonkeyPatch, file: str, onnx_by: OnnxBy, told: str
) -> None:
    for name in list(sys.modules):
        if name.startswith("modelsync_inference.runtimes.") and name.endswith(("litert_runtime", "_runtime")):
            monkeypatch.delitem(sys.modules, name)
    for name in PACKAGES:
        for loaded in [module for module in sys.modules if module.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelRefusedError, match=told) as refused:
        engine_for(Path(file), Choice(onnx_by=onnx_by))
    assert "\n" not in str(refused.value)


def test_a_server_of_onnx_models_imports_none_of_them(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"model.onnx": scaler(2)}), 1)
    program = """
import json, os, sys
from modelsync_inference import HotModel, Isolation, Settings
from modelsync_inference.http.server import build_app
for isolation in (Isolation.THREAD, Isolation.PROCESS):
    with HotModel(sys.argv[1], "anomaly", settings=Settings(link=False, isolation=isolation)) as model:
        model.wait_ready(30)
        mapped = [open(f"/proc/{pid}/maps").read() for pid in (os.getpid(), *getattr(model._runtime, "pids")())]
packages = json.loads(sys.argv[2])
found = {name for name in packages if name in sys.modules or any(f"/{name}/" in text for text in mapped)}
print(json.dumps(sorted(found)))
"""
    command = [sys.executable, "-c", program, str(tmp_path), json.dumps(sorted(PACKAGES))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("files", "served"),
    [
        (["a.tflite"], "a.tflite"),
        (["model.tflite", "b.tflite", "labels.txt"], "model.tflite"),
        (["net/a.xml", "net/a.bin", "labels.xml"], "net/a.xml"),
        (["a.tflite", "b.onnx"], "b.onnx"),
        (["a.gguf", "a.tflite"], "a.tflite"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "m-00001-of-00002.gguf"),
    ],
)
def test_the_file_that_is_served(tmp_path: Path, files: list[str], served: str) -> None:
    data = DataDir(tmp_path)
    installed = data.install(1, dict.fromkeys(files, b""))
    ref = VersionRef(installed.version, installed.digest, installed.path)
    artifact = open_artifact(data.folder, ref)
    assert artifact.model.relative_to(artifact.folder).as_posix() == served


@pytest.mark.parametrize(
    ("files", "told"), [(["labels.xml"], "it holds no .onnx"), (["a.gguf", "b.gguf"], "2 .gguf files")]
)
def test_what_is_no_model_or_too_many_is_refused(tmp_path: Path, files: list[str], told: str) -> None:
    data = DataDir(tmp_path)
    installed = data.install(1, dict.fromkeys(files, b""))
    with pytest.raises(ModelRefusedError, match=told):
        open_artifact(data.folder, VersionRef(installed.version, installed.digest, installed.path))
