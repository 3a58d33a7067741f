"""Azure ML scoring scripts as their authors and clients know them: init and run, and the route /score."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput

from modelsync_inference import HotModel, Isolation, Settings
from modelsync_inference.model.probe import Tolerance, difference
from modelsync_inference.model.trial import TrialRules
from tests.support.datadir import DataDir
from tests.support.infer_process import InferProcess
from tests.support.waiting import wait_until

SCRIPT = '''
"""Answers with its version, and with what it was given."""
import json
import os
from pathlib import Path

from .greeting import greet
import greeting

calls = 0

def init():
    global version
    version = int((Path(os.environ["AZUREML_MODEL_DIR"]) / "weights" / "version.txt").read_text())
    print("init of version", version)

def run(raw_data):
    global calls
    calls += 1
    assert isinstance(raw_data, str) and greeting.greet('x') == greet('x')
    kind = json.loads(raw_data)
    if kind == "list":
        return [version, 0.25]
    if kind == "text":
        return json.dumps({"version": version})
    if kind == "nothing":
        return None
    if kind == "bytes":
        return b"no JSON"
    if kind == "error":
        raise ValueError("this request breaks it")
    return {"version": version, "given": kind, "says": greet("ü"), "calls": calls}
'''


def artifact(version: int) -> dict[str, bytes]:
    return {
        "score.py": SCRIPT.encode(),
        "greeting.py": b"def greet(name):\n    return 'hello ' + name\n",
        "weights/version.txt": str(version).encode(),
    }


def probe(version: int, tolerance: str = "0.01", wanted: float = 0.25) -> dict[str, Any]:
    def text(value: object) -> dict[str, Any]:
        return {"shape": [1], "datatype": "BYTES", "data": [json.dumps(value)]}

    case = {"inputs": {"raw_data": text("list")}, "outputs": {"result": text([version, wanted])}}
    return {"format": 1, "cases": [case], "tolerance": {"absolute": tolerance}, "limits": {"memory_mib": "300"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferProcess]:
    data = DataDir(tmp_path_factory.mktemp("data"))
    data.point("current", data.install(1, artifact(1), probe(1)), 1)
    with InferProcess(data.root, "--allow-code", "anomaly") as server:
        wait_until(lambda: call(f"{server.url}/v2/health/ready")[0] == 200, "readiness")
        yield server


def call(url: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data=body, headers=named)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)


def test_a_client_of_azure_gets_what_azure_would_give_it(server: InferProcess) -> None:
    url = f"{server.url}/score"
    status, answer, headers = call(url, '{"x": "ü"}'.encode(), Content_Type="application/json", x_request_id="7")
    assert (status, answer["given"], answer["says"]) == (200, {"x": "ü"}, "hello ü")
    assert headers["Content-Type"].startswith("application/json")
    assert (headers["x-ms-run-function-failed"], headers["x-request-id"]) == ("False", "7")
    assert headers["modelsync-model-version"] == "1"
    assert call(url, b'"list"')[1] == [1, 0.25]
    assert call(url, b'"text"')[1] == '{"version": 1}'  # a string becomes a JSON string, as there
    assert call(url, b'"nothing"')[1] == {}
    assert call(f"{url}?a=1&b=[1,2]&c=x&c=y")[1]["given"] == {"a": 1, "b": [1, 2], "c": ["x", "y"]}


@pytest.mark.parametrize(
    ("body", "status", "failed", "message"),
    [
        (b'"error"', 500, "True", "run() raised ValueError: this request breaks it."),
        (b'"bytes"', 500, "True", "run() returned what JSON can't hold"),
        (b"no JSON", 400, "False", "the request is not JSON, and run() raised JSONDecodeError"),
        (b"\xff", 400, "False", "Input cannot be decoded as UTF-8"),
    ],
)
def test_errors_have_azures_form_and_the_script_serves_on(
    server: InferProcess, body: bytes, status: int, failed: str, message: str
) -> None:
    code, answer, headers = call(f"{server.url}/score", body)
    assert (code, headers["x-ms-run-function-failed"]) == (status, failed)
    assert message in answer["message"]
    assert call(f"{server.url}/score", b"1")[0] == 200


def test_the_header_of_azures_endpoints_names_the_model(server: InferProcess) -> None:
    assert call(f"{server.url}/score", b"1", azureml_model_deployment="anomaly")[0] == 200
    assert call(f"{server.url}/score", b"1", azureml_model_deployment="other")[0] == 404


def test_the_open_inference_protocol_reaches_it_too(server: InferProcess) -> None:
    with InferenceServerClient(server.address) as client:
        metadata = client.get_model_metadata("anomaly")
        assert metadata["platform"] == "azureml_scoring_script"
        assert metadata["inputs"] == [{"name": "raw_data", "datatype": "BYTES", "shape": [1]}]
        tensor = InferInput("raw_data", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b'"list"'], dtype=np.object_))
        result = client.infer("anomaly", [tensor])
        assert json.loads(result.as_numpy("result")[0]) == [1, 0.25]
        assert result.get_response()["model_version"] == "1"


def test_the_status_says_what_confines_it(server: InferProcess) -> None:
    layers = call(f"{server.url}/status")[1]["confined_by"]
    assert {"seccomp", "no_new_privs", "rlimits"} <= set(layers)


QUICK = Settings(poll_seconds=0.05, watch=False, link=False, allow_code=frozenset({"anomaly"}))


def test_a_script_whose_probe_fails_is_refused_with_the_texts_and_the_old_one_serves(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, artifact(1), probe(1, wanted=0.2501)), 1)
    with HotModel(tmp_path, "anomaly", settings=QUICK) as model:
        model.wait_ready(20)
        data.point("current", data.install(2, artifact(2), probe(2, wanted=0.3)), 2)
        wait_until(lambda: model.status()["current"]["state"] == "refused", "the refusal")
        assert "output 'result' differs in 1 of 1 values" in model.status()["current"]["reason"]
        assert "[2, 0.25]" in model.status()["current"]["reason"]
        assert json.loads(model.predict({"raw_data": ['"list"']}).outputs["result"][0])[0] == 1


@pytest.mark.parametrize("trials", [TrialRules(canary=0.5, seconds=0.5), TrialRules(shadow=1.0, seconds=0.5)])
def test_scripts_are_tried_as_canary_and_shadow(tmp_path: Path, trials: TrialRules) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, artifact(1), probe(1)), 1)
    settings = Settings(
        poll_seconds=0.05,
        watch=False,
        link=False,
        isolation=Isolation.THREAD,
        allow_code=frozenset({"anomaly"}),
        trials=trials,
    )
    with HotModel(tmp_path, "anomaly", settings=settings) as model:
        model.wait_ready(20)
        data.point("current", data.install(2, artifact(2), probe(2)), 2)
        seen: set[int] = set()

        def swapped() -> bool:
            prediction = model.predict({"raw_data": ['"list"']})
            version = int(json.loads(prediction.outputs["result"][0])[0])
            assert version == prediction.version
            seen.add(version)
            return bool(model.status()["current"]["state"] == "serving" and version == 2)

        wait_until(swapped, "the end of the trial")
        assert seen == {1, 2}


@pytest.mark.parametrize(
    ("recorded", "given", "same"),
    [
        ('{"p": [0.1, 1], "l": "a"}', '{"l": "a", "p": [0.1004, 1]}', True),
        ('{"p": [0.1, 1]}', '{"p": [0.2, 1]}', False),
        ('{"p": [0.1, 1]}', '{"p": [0.1]}', False),
        ('{"p": 1}', '{"q": 1}', False),
        ("[true]", "[1]", False),
        ("[null]", "[null]", True),
        ('"[0.5]"', '"[0.5001]"', True),
        ("a", "b", False),
    ],
)
def test_json_answers_are_compared_number_by_number_within_the_tolerance(recorded: str, given: str, same: bool) -> None:
    arrays = [np.array([text], dtype=np.object_) for text in (recorded, given)]
    assert (difference(arrays[0], arrays[1], Tolerance(absolute=0.001)) is None) == same
    assert (difference(arrays[0], arrays[1], Tolerance()) is None) == (recorded == given)
