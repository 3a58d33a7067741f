"""Models that are code are swapped, limited and drained like any other: resource policy, acceptance limits, SIGTERM."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from modelsync_inference import HotModel, Policy, Settings
from tests.support.datadir import DataDir
from tests.support.infer_process import InferProcess
from tests.support.waiting import wait_until

SCRIPT = """
import json, time
from pathlib import Path
import os

def init():
    global version, ballast
    version = int((Path(os.environ["AZUREML_MODEL_DIR"]) / "version.txt").read_text())
    ballast = bytes(range(256)) * (32 << 12)

def run(raw_data):
    time.sleep(json.loads(raw_data))
    return version
"""


def artifact(version: int) -> dict[str, bytes]:
    return {"score.py": SCRIPT.encode(), "version.txt": str(version).encode()}


def probe(version: int, **limits: str) -> dict[str, Any]:
    case = {
        "inputs": {"raw_data": {"shape": [1], "datatype": "BYTES", "data": ["0.002"]}},
        "outputs": {"result": {"shape": [1], "datatype": "BYTES", "data": [str(version)]}},
    }
    return {"format": 1, "cases": [case], "limits": limits}


def settings(policy: Policy = Policy.AUTO) -> Settings:
    return Settings(
        poll_seconds=0.05, watch=False, link=False, allow_code=frozenset({"anomaly"}), policy=policy, queue_seconds=20
    )


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"memory_mib": "5"}, "MiB of memory; the limit is 5.0 MiB"),
        ({"latency_ms": "1"}, "the limit is 1 ms"),
    ],
)
def test_a_script_beyond_its_limits_is_refused_and_the_old_one_serves(
    tmp_path: Path, limits: dict[str, str], reason: str
) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, artifact(1), probe(1)), 1)
    with HotModel(tmp_path, "anomaly", settings=settings()) as model:
        model.wait_ready(20)
        data.point("current", data.install(2, artifact(2), probe(2, **limits)), 2)
        wait_until(lambda: model.status()["current"]["state"] == "refused", "the refusal")
        assert reason in model.status()["current"]["reason"]
        assert model.predict({"raw_data": ["0"]}).version == 1


def test_with_the_resource_policy_a_script_makes_room_and_requests_wait(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, artifact(1), probe(1)), 1)
    with HotModel(tmp_path, "anomaly", settings=settings(Policy.RESOURCE)) as model:
        model.wait_ready(20)
        data.point("current", data.install(2, artifact(2), probe(2)), 2)
        seen: list[int] = []

        def asked() -> bool:
            prediction = model.predict({"raw_data": ["0"]})
            assert json.loads(prediction.outputs["result"][0]) == prediction.version
            seen.append(prediction.version)
            return seen[-1] == 2

        wait_until(asked, "version 2")
        assert seen == sorted(seen)


def test_a_run_of_a_script_is_waited_for_at_the_end(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, artifact(1), probe(1)), 1)
    with InferProcess(tmp_path, "--allow-code", "anomaly", "--log-level", "error") as server:
        answers: list[bytes] = []

        def score(seconds: str) -> bytes:
            connection = http.client.HTTPConnection(server.address, timeout=30)
            connection.request("POST", "/score", seconds)
            answer = connection.getresponse().read()
            connection.close()
            return answer

        def ready() -> bool:
            try:
                urllib.request.urlopen(f"{server.url}/v2/health/ready").close()
            except OSError:
                return False
            return True

        def begun() -> bool:
            with urllib.request.urlopen(f"{server.url}/metrics") as response:
                return b"modelsync_inference_pending_requests 1.0" in response.read().splitlines()

        wait_until(ready, "the server to be ready")
        asking = threading.Thread(target=lambda: answers.append(score("0.7")))
        asking.start()
        wait_until(begun, "the run to begin")
        assert server.stop() == 0
        asking.join()
        assert answers == [b"1"]
