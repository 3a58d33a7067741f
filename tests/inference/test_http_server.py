"""The Open Inference Protocol as answered over HTTP, statuses and errors included (server in this process)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from onnx import TensorProto

from modelsync_inference import HotModel, Label, Settings, TrialRules
from modelsync_inference.handle.repository import Repository
from modelsync_inference.http.server import build_app
from tests.support.datadir import DataDir
from tests.support.tiny_models import echo, picky, scaler, scaler_probe, zipmap
from tests.support.toy_runtime import ToyRuntime, toy
from tests.support.waiting import wait_until

POLLING = Settings(poll_seconds=0.02, watch=False, link=False)
INFER = "/v2/models/anomaly/infer"
X = {"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}


class Server:
    """A data directory, its model, and a client of the server in front of it."""

    def __init__(self, data: DataDir, model: HotModel, client: TestClient[Any, Any]) -> None:
        self.data, self.model, self.client = data, model, client

    async def serve(self, model: bytes, version: int = 1) -> None:
        self.data.point("current", self.data.install(version, {"model.onnx": model}), version)
        await asyncio.to_thread(self.model.wait_ready, 30)

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client.get(path) as response:
            return response.status, await response.json()

    async def infer(self, document: Any, path: str = INFER) -> tuple[int, Any]:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        async with self.client.post(path, data=body) as response:
            return response.status, await response.json()


async def _server(
    tmp_path: Path, runtime: ToyRuntime | None = None, settings: Settings = POLLING
) -> AsyncIterator[Server]:
    data = DataDir(tmp_path)
    models = Repository(tmp_path, lambda name: HotModel(tmp_path, name, runtime=runtime, settings=settings))
    model = models.add("anomaly")
    app = build_app(models, workers=2, max_request_bytes=100_000)
    async with TestClient(TestServer(app)) as client:
        yield Server(data, model, client)
    await asyncio.to_thread(models.close)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async for server in _server(tmp_path):
        yield server


async def test_before_the_first_version_it_lives_but_asks_to_come_back_later(server: Server) -> None:
    assert await server.get("/v2/health/live") == (200, {"live": True})
    for path in ("/v2/health/ready", "/v2/models/anomaly", "/v2/models/anomaly/ready"):
        async with server.client.get(path) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
    status, answer = await server.infer({"inputs": [X]})
    assert status == 503
    assert "no version" in answer["error"]
    await server.serve(scaler(2))
    assert await server.get("/v2/health/ready") == (200, {"ready": True})


async def test_metadata_says_what_the_model_takes_and_gives(server: Server) -> None:
    await server.serve(scaler(2), version=42)
    status, answer = await server.get("/v2")
    assert (status, answer["extensions"]) == (
        200,
        ["binary_tensor_data", "model_configuration", "model_repository", "statistics"],
    )
    expected = {
        "name": "anomaly",
        "versions": ["42"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "tag", "datatype": "INT64", "shape": [1]},
        ],
    }
    assert await server.get("/v2/models/anomaly") == (200, expected)
    assert await server.get("/v2/models/anomaly/versions/42") == (200, expected)
    assert (await server.get("/v2/models/anomaly/ready"))[0] == 200
    assert (await server.get("/v2/models/anomaly/versions/42/ready"))[0] == 200


async def test_an_answer_has_the_version_the_id_and_every_output(server: Server) -> None:
    await server.serve(scaler(2), version=7)
    expected = {
        "model_name": "anomaly",
        "model_version": "7",
        "id": "r-1",
        "outputs": [
            {"name": "y", "shape": [1, 3], "datatype": "FP32", "data": [2.0, 4.0, 6.0]},
            {"name": "tag", "shape": [1], "datatype": "INT64", "data": [2]},
        ],
    }
    assert await server.infer({"id": "r-1", "inputs": [X]}) == (200, expected)
    assert await server.infer({"id": "r-1", "inputs": [X]}, "/v2/models/anomaly/versions/7/infer") == (200, expected)
    expected["outputs"] = [{"name": "tag", "shape": [1], "datatype": "INT64", "data": [2]}]
    del expected["id"]
    assert await server.infer({"inputs": [X], "outputs": [{"name": "tag"}]}) == (200, expected)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 50_000, "not JSON"),
        ([], "list 'inputs'"),
        ({}, "list 'inputs'"),
        ({"inputs": [5]}, "'name'"),
        ({"inputs": []}, "'X' (FP32) is missing"),
        ({"inputs": [X, X]}, "twice"),
        ({"inputs": [X | {"name": "Z"}]}, "no input 'Z'"),
        ({"inputs": [X | {"shape": [3]}]}, "wants [-1, 3]"),
        ({"inputs": [X | {"shape": [1, 4]}]}, "'data' holds 3"),
        ({"inputs": [X | {"shape": [3, 1]}]}, "wants [-1, 3]"),
        ({"inputs": [X | {"datatype": "FP64"}]}, "wants FP32"),
        ({"inputs": [X | {"datatype": "FP31"}]}, "not a datatype"),
        ({"inputs": [X | {"data": [1, 2, "3"]}]}, "numbers only"),
        ({"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32"}]}, "needs its values"),
        ({"inputs": [X], "outputs": [{"name": "z"}]}, "no output 'z'"),
        ({"inputs": [X], "outputs": 5}, "must be a list"),
        ({"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}, "classification"),
        ({"inputs": [X], "id": 5}, "'id'"),
        ({"inputs": [X], "parameters": 5}, "'parameters'"),
        ({"inputs": [X | {"parameters": {"shared_memory_region": "r"}}]}, "shared memory"),
        ({"inputs": [X | {"parameters": {"binary_data_size": 12}}]}, "claims 12"),
    ],
)
async def test_a_wrong_request_gets_400_and_a_sentence(server: Server, document: Any, reason: str) -> None:
    await server.serve(scaler(2))
    status, answer = await server.infer(document)
    assert (status, list(answer)) == (400, ["error"])
    assert reason in answer["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999", "², "])
async def test_a_wrong_header_length_gets_400(server: Server, length: str) -> None:
    await server.serve(scaler(2))
    headers = {"Inference-Header-Content-Length": length}
    async with server.client.post(INFER, data=json.dumps({"inputs": [X]}), headers=headers) as response:
        assert response.status == 400


async def test_bytes_that_belong_to_nobody_get_400(server: Server) -> None:
    await server.serve(scaler(2))
    head = json.dumps({"inputs": [X]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    async with server.client.post(INFER, data=head + b"more", headers=headers) as response:
        assert response.status == 400
        assert "4 bytes" in (await response.json())["error"]


async def test_what_is_not_here_gets_404_in_json(server: Server) -> None:
    await server.serve(scaler(2))
    for path in ("/v2/models/other", "/v2/models/anomaly/versions/9", "/v2/models/anomaly/versions/9/ready", "/x"):
        status, answer = await server.get(path)
        assert status == 404
        assert answer["error"]
    assert (await server.infer({"inputs": [X]}, "/v2/models/anomaly/versions/9/infer"))[0] == 404
    assert (await server.get(INFER))[0] == 405


async def test_too_large_a_request_gets_413(server: Server) -> None:
    await server.serve(scaler(2))
    status, answer = await server.infer(b" " * 100_001)
    assert status == 413
    assert "too large" in answer["error"]


def _is_on_trial(model: HotModel) -> bool:
    return Label.CANARY in model.labels


async def test_the_version_on_trial_can_be_asked_for_by_label_and_number(tmp_path: Path) -> None:
    rules = replace(POLLING, trials=TrialRules(canary=0.01, seconds=600))
    async for server in _server(tmp_path, settings=rules):
        await server.serve(scaler(1), version=1)
        server.data.point("candidate", server.data.install(2, {"model.onnx": scaler(2)}), 2)
        await asyncio.to_thread(wait_until, partial(_is_on_trial, server.model), "the trial")
        for path, version in (("canary", "2"), ("2", "2"), ("stable", "1"), ("1", "1")):
            status, answer = await server.infer({"inputs": [X]}, f"/v2/models/anomaly/versions/{path}/infer")
            assert (status, answer["model_version"], answer["outputs"][1]["data"]) == (200, version, [int(version)])
        assert (await server.get("/v2/models/anomaly"))[1]["versions"] == ["1", "2"]
        assert (await server.get("/v2/models/anomaly/versions/2/ready"))[1]["version"] == "2"
        assert (await server.get("/v2/models/anomaly/versions/shadow"))[0] == 404
        assert (await server.get("/status"))[1]["labels"] == {"stable": 1, "canary": 2}


async def test_damaged_compression_gets_400(server: Server) -> None:
    await server.serve(scaler(2))
    headers = {"Content-Encoding": "gzip"}
    async with server.client.post(INFER, data=b"this is not gzip", headers=headers) as response:
        assert response.status == 400


async def test_a_model_that_breaks_gets_500_and_is_counted(server: Server) -> None:
    await server.serve(picky())
    index = {"name": "index", "shape": [1], "datatype": "INT64", "data": [2]}
    assert (await server.infer({"inputs": [index]}))[0] == 200
    status, answer = await server.infer({"inputs": [index | {"data": [99]}]})
    assert status in (400, 500)
    assert "out" in answer["error"]


async def test_text_goes_in_and_out_as_json(server: Server) -> None:
    await server.serve(echo(TensorProto.STRING))
    text = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["grün", ""]}
    status, answer = await server.infer({"inputs": [text]})
    assert (status, answer["outputs"]) == (200, [text | {"name": "echo"}])


async def test_outputs_that_are_no_tensors_stay_out_of_metadata_and_answers(server: Server) -> None:
    await server.serve(zipmap(only=False))
    _, metadata = await server.get("/v2/models/anomaly")
    assert [output["name"] for output in metadata["outputs"]] == ["scores"]
    status, answer = await server.infer({"inputs": [X | {"shape": [1, 2], "data": [0.25, 0.75]}]})
    assert (status, [output["data"] for output in answer["outputs"]]) == (200, [[0.25, 0.75]])
    assert (await server.infer({"inputs": [X], "outputs": [{"name": "maps"}]}))[0] == 400


async def test_metrics_count_requests_swaps_and_refusals(server: Server) -> None:
    await server.serve(scaler(2), version=3)
    await server.infer({"inputs": [X]})
    await server.infer({"inputs": []})
    server.data.point("current", server.data.install(4, {"model.onnx": scaler(4)}, scaler_probe(5)), 4)
    await asyncio.to_thread(wait_until, lambda: server.model.refusals, "the refusal")
    async with server.client.get("/metrics") as response:
        text = await response.text()
    for line in (
        'modelsync_inference_requests_total{model="anomaly",status="200"} 1.0',
        'modelsync_inference_requests_total{model="anomaly",status="400"} 1.0',
        'modelsync_inference_failures_total{model="anomaly"} 0.0',
        'modelsync_inference_request_seconds_count{model="anomaly"} 2.0',
        'modelsync_inference_swaps_total{model="anomaly"} 1.0',
        'modelsync_inference_refused_total{model="anomaly"} 1.0',
        'modelsync_inference_ready{model="anomaly"} 1.0',
        'nv_inference_request_success{model="anomaly",version="3"} 1',
        'nv_inference_request_failure{model="anomaly",version="3"} 1',
        'nv_inference_exec_count{model="anomaly",version="3"} 1',
    ):
        assert line in text.splitlines()
    assert 'version="3"' in text
    status, document = await server.get("/status")
    assert (status, document["serving"]["version"], document["current"]["state"]) == (200, 3, "refused")


async def test_the_event_loop_answers_while_models_run(tmp_path: Path) -> None:
    runtime = ToyRuntime()
    async for server in _server(tmp_path, runtime):
        await server.serve(toy(2))
        runtime.run_gate.clear()
        running = [asyncio.ensure_future(server.infer({"inputs": [X]})) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert await server.get("/v2/health/ready") == (200, {"ready": True})
        assert not any(task.done() for task in running)
        runtime.run_gate.set()
        assert [status for status, _ in await asyncio.gather(*running)] == [200] * 5


async def test_a_client_that_hangs_up_in_mid_request_hurts_nobody(server: Server) -> None:
    await server.serve(scaler(2))
    reader, writer = await asyncio.open_connection(server.client.host, server.client.port)
    writer.write(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    del reader
    async with ClientSession() as session, session.post(server.client.make_url(INFER), json={"inputs": [X]}) as answer:
        assert answer.status == 200


async def test_models_are_indexed_loaded_and_unloaded(server: Server) -> None:
    other = DataDir(server.data.root, "other")
    other.point("current", other.install(7, {"model.onnx": scaler(7)}), 1)
    await server.serve(scaler(2), 2)

    async def post(path: str, body: str = "") -> tuple[int, Any]:
        async with server.client.post(f"/v2/repository/{path}", data=body.encode()) as response:
            return response.status, await response.json()

    anomaly = {"name": "anomaly", "version": "2", "state": "READY", "reason": ""}
    unloaded = {"name": "other", "version": "7", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert await post("index") == (200, [anomaly, unloaded])
    assert await post("index", '{"ready": true}') == (200, [anomaly])
    assert (await server.infer({"inputs": [X]}, "/v2/models/other/infer"))[0] == 404
    assert await post("models/other/load") == (200, {})
    assert (await server.infer({"inputs": [X]}, "/v2/models/other/infer"))[1]["model_version"] == "7"
    assert set((await server.get("/status"))[1]["models"]) == {"anomaly", "other"}
    assert await post("models/other/unload") == (200, {})
    assert await post("index") == (200, [anomaly, unloaded])
    assert (await post("models/other/unload"))[0] == 404
    assert (await post("models/nowhere/load"))[0] == 404
    assert (await post("models/other/load", '{"parameters": {"config": "{}"}}'))[0] == 400
    assert (await post("index", "["))[0] == 400
