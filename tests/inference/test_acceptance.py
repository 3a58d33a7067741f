"""Signature, tolerances of single outputs, top-1 agreement, and limits: a refusal names the tensor and the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelsync_inference import ModelRefusedError, Runtime
from modelsync_inference.model.loader import load_version
from modelsync_inference.model.pointer import VersionRef
from modelsync_inference.processes.process_runtime import ProcessRuntime
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from tests.support.datadir import DataDir
from tests.support.tiny_models import heavy, scaler, scaler_probe


@pytest.fixture(params=["thread", "process"], scope="module")
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    if request.param == "thread":
        yield OnnxRuntime()
        return
    processes = ProcessRuntime()
    yield processes
    processes.close()


def accept(root: Path, runtime: Runtime, model: bytes, probe: dict[str, Any]) -> None:
    data = DataDir(root)
    installed = data.install(1, {"model.onnx": model}, probe)
    load_version(data.folder, VersionRef(1, installed.digest, installed.path), runtime).model.close()


def tensor(datatype: str, *shape: int) -> dict[str, Any]:
    return {"datatype": datatype, "shape": list(shape)}


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"signature": {"inputs": {"X": tensor("FP32", -1, 3)}, "outputs": {"y": {"datatype": "FP32"}}}}, None),
        ({"signature": {"inputs": {"X": tensor("FP64", -1, 3)}}}, "input 'X' has datatype FP32; .* says FP64"),
        ({"signature": {"inputs": {"X": tensor("FP32", -1, 4)}}}, r"shape \[-1, 3\]; its signature says \[-1, 4\]"),
        ({"signature": {"inputs": {}}}, "wants an input 'X', which its signature has not"),
        ({"signature": {"outputs": {"z": tensor("FP32")}}}, "no output 'z'"),
        ({"signature": {"outputs": {"z": 5}}}, "datatype of 'z'"),
        ({"signature": []}, "signature is not an object"),
        ({"limits": {"latency_ms": "60000", "memory_mib": "1000"}}, None),
        ({"limits": {"latency_ms": "0.0001"}}, r"probe case 1 of 1 takes .* ms .* limit is 0.0001 ms"),
        ({"limits": {"latency_ms": 5}}, "decimal string"),
        ({"tolerances": {"y": {"absolute": "0"}}}, None),
        ({"tolerances": {"y": 5}}, "tolerance is not an object"),
    ],
)
def test_what_the_probe_file_asks_for_is_kept(
    tmp_path: Path, runtime: Runtime, extra: dict[str, Any], reason: str | None
) -> None:
    probe = {**scaler_probe(2), **extra}
    if reason is None:
        accept(tmp_path, runtime, scaler(2), probe)
    else:
        with pytest.raises(ModelRefusedError, match=reason):
            accept(tmp_path, runtime, scaler(2), probe)


def test_a_model_that_takes_too_much_memory_is_refused_with_the_numbers(tmp_path: Path, runtime: Runtime) -> None:
    case = {"inputs": {"X": {"shape": [1, 1024], "datatype": "FP32", "data": [1] * 1024}}}
    probe = {"format": 1, "cases": [case], "limits": {"memory_mib": "4"}}
    with pytest.raises(ModelRefusedError, match=r"takes \d+\.\d MiB of memory; the limit is 4\.0 MiB"):
        accept(tmp_path, runtime, heavy(1, side=1024, layers=4), probe)


@pytest.mark.parametrize(("recorded", "share", "passes"), [([1, 2, 9], "1", True), ([9, 2, 1], "0.6", False)])
def test_top_1_agreement_alone_ignores_the_values(
    tmp_path: Path, runtime: Runtime, recorded: list[float], share: str, passes: bool
) -> None:
    probe = scaler_probe(2)
    rows = [*recorded, 0, 1, 5]
    probe["cases"][0]["inputs"]["X"] = {"shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 1, 2, 3]}
    probe["cases"][0]["outputs"]["y"] = {"shape": [2, 3], "datatype": "FP32", "data": rows}
    probe["tolerances"] = {"y": {"top1": share}}
    if passes:
        accept(tmp_path, runtime, scaler(2), probe)
    else:
        with pytest.raises(ModelRefusedError, match=r"output 'y' agrees .* in 1 of 2 rows \(top 1\); 0.6 of them"):
            accept(tmp_path, runtime, scaler(2), probe)
