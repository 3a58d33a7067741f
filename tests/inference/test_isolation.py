"""Versions that crash or hang in their worker process: the old one serves, and the reason is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelsync_inference import HotModel, Isolation, Outcome, Settings, WorkerDiedError
from modelsync_inference.processes.process_model import Limits, ProcessModel
from modelsync_inference.processes.process_runtime import ProcessRuntime
from tests.support.datadir import DataDir
from tests.support.deadly_models import crashes_while_loading, divider, looper
from tests.support.tiny_models import scaler
from tests.support.waiting import wait_until

ISOLATED = Settings(
    poll_seconds=0.05, watch=False, link=False, isolation=Isolation.PROCESS, load_seconds=2.0, run_seconds=1.0
)
FOR_EVER = 2**62


def probe(x: int, y: int | None = None) -> dict[str, Any]:
    case: dict[str, Any] = {"inputs": {"X": {"shape": [1], "datatype": "INT64", "data": [x]}}}
    if y is not None:
        case["outputs"] = {"y": {"shape": [1], "datatype": "INT64", "data": [y]}}
    return {"format": 1, "cases": [case]}


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


@pytest.fixture
def model(data: DataDir) -> Iterator[HotModel]:
    """Serves version 7, which answers 7 to 1."""
    data.point("current", data.install(7, {"model.onnx": divider(7)}, probe(1, 7)), 1)
    with HotModel(data.root, "anomaly", settings=ISOLATED) as model:
        model.wait_ready(30)
        yield model


def outcome(model: HotModel, state: str) -> str:
    wait_until(lambda: (model.status()["current"] or {}).get("state") == state, f"the state {state}")
    return str(model.status()["current"]["reason"])


@pytest.mark.parametrize(
    ("model_file", "case", "reason"),
    [
        (crashes_while_loading(), probe(1), "the process that loaded it was killed by SIGFPE"),
        (divider(8), probe(0), "was killed by SIGFPE"),
        (looper(), probe(FOR_EVER), "did not answer within 2 s"),
    ],
)
def test_a_version_that_kills_or_hangs_its_process_is_refused_and_the_old_one_serves(
    data: DataDir, model: HotModel, model_file: bytes, case: dict[str, Any], reason: str
) -> None:
    data.point("current", data.install(8, {"model.onnx": model_file}, case), 2)
    assert reason in outcome(model, "refused")
    assert model.predict({"X": [1]}).version == 7


@pytest.mark.parametrize(
    ("model_file", "deadly", "reason"),
    [(divider(8), 0, "killed by SIGFPE"), (looper(), FOR_EVER, "did not answer within 1 s")],
)
def test_a_version_that_dies_of_requests_is_left_for_the_previous_one(
    data: DataDir, model: HotModel, model_file: bytes, deadly: int, reason: str
) -> None:
    before = data.install(7, {"model.onnx": divider(7)}, probe(1, 7))
    data.point("current", data.install(8, {"model.onnx": model_file}, probe(1)), 2, before)
    wait_until(lambda: model.predict({"X": [1]}).version == 8, "version 8")
    with pytest.raises(WorkerDiedError, match=reason):
        model.predict({"X": [deadly]})
    assert reason in outcome(model, "failed")
    assert model.predict({"X": [1]}).version == 7


def test_a_killed_worker_fails_no_request(tmp_path: Path) -> None:
    runtime = ProcessRuntime(limits=Limits(10, 10))
    (tmp_path / "model.onnx").write_bytes(scaler(2))
    model = runtime.load(tmp_path / "model.onnx")
    assert isinstance(model, ProcessModel)
    model.settle()
    zygote = next(pid for pid in runtime.pids() if pid != model.pid)
    ones = {"X": np.ones((1, 3), dtype=np.float32)}
    for victim in (model.pid, zygote):
        os.kill(victim, signal.SIGKILL)
        assert model.run(ones, ["y"])["y"].tolist() == [[2, 2, 2]]
    model.close()
    runtime.close()


def test_workers_end_with_the_model(data: DataDir) -> None:
    data.point("current", data.install(7, {"model.onnx": divider(7)}, probe(1, 7)), 1)
    runtime = ProcessRuntime()
    seen: list[Outcome] = []
    with HotModel(data.root, "anomaly", runtime=runtime, settings=ISOLATED) as model:
        model.subscribe(seen.append)
        model.wait_ready(30)
        pids = runtime.pids()
        assert len(pids) == 2
    assert runtime.pids() == ()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of the processes")
