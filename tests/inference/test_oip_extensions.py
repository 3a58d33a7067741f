"""What the Open Inference Protocol and Triton's extensions say beyond the plain request, as tritonclient sees it."""

from __future__ import annotations

import asyncio
import gzip
import json
import urllib.request
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from onnx import TensorProto
from prometheus_client.parser import text_string_to_metric_families

from tests.support.datadir import DataDir
from tests.support.infer_process import InferProcess
from tests.support.tiny_models import echo, row_scaler, scaler_probe
from tests.support.waiting import wait_until

X = np.arange(1200, dtype=np.float32).reshape(400, 3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferProcess]:
    """Two models: `anomaly` (y is X twice, version 42), and `half`, which gives FP16 back."""
    data = DataDir(tmp_path_factory.mktemp("data"))
    data.point("current", data.install(42, {"model.onnx": row_scaler(2)}, scaler_probe(2)), 1)
    half = DataDir(data.root, "half")
    half.point("current", half.install(7, {"model.onnx": echo(TensorProto.FLOAT16, "X")}), 1)
    options = ("--model", "half", "--log-level", "error", "--max-batch-size", "4")
    with InferProcess(data.root, *options, "--max-queue-delay-microseconds", "100") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: InferProcess) -> Iterator[Any]:
    client = triton.InferenceServerClient(server.address)
    wait_until(client.is_server_ready, "the server to be ready")
    yield client
    client.close()


def _input(array: np.ndarray[Any, Any], datatype: str = "FP32", binary: bool = True) -> Any:
    value = triton.InferInput("X", list(array.shape), datatype)
    value.set_data_from_numpy(array, binary_data=binary)
    return value


def test_statistics_count_requests_rows_and_runs(client: Any) -> None:
    before = client.get_inference_statistics("anomaly")["model_stats"]
    client.infer("anomaly", [_input(X)])
    (after,) = client.get_inference_statistics("anomaly", "42")["model_stats"]
    assert (after["name"], after["version"]) == ("anomaly", "42")
    was = before[0]["inference_count"] if before else 0
    assert after["inference_count"] - was == 400
    parts = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}
    assert set(after["inference_stats"]) == parts
    assert all(set(part) == {"count", "ns"} for part in after["inference_stats"].values())
    assert after["inference_stats"]["compute_infer"]["ns"] > 0
    assert 400 in [batch["batch_size"] for batch in after["batch_stats"]]
    everything = client.get_inference_statistics()["model_stats"]
    assert {entry["name"] for entry in everything} >= {"anomaly"}


def test_the_configuration_says_what_is_batched(client: Any) -> None:
    assert client.get_model_config("anomaly") == {
        "name": "anomaly",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 4,
        "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [3]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [3]}],
        "dynamic_batching": {"max_queue_delay_microseconds": 100},
    }


@pytest.mark.parametrize(("version", "there"), [("42", True), ("stable", True), ("canary", False), ("41", False)])
def test_versions_by_number_and_label(client: Any, version: str, there: bool) -> None:
    assert client.is_model_ready("anomaly", version) is there
    if there:
        assert client.get_model_metadata("anomaly", version)["versions"] == ["42"]
        assert client.infer("anomaly", [_input(X)], model_version=version).get_response()["model_version"] == "42"
    else:
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer("anomaly", [_input(X)], model_version=version)
        assert caught.value.status() == "404"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_long_answers_are_compressed_for_those_who_ask(server: InferProcess, client: Any, encoding: str) -> None:
    result = client.infer("anomaly", [_input(X)], response_compression_algorithm=encoding)
    assert (result.as_numpy("y") == 2 * X).all()
    body = {"inputs": [{"name": "X", "shape": [400, 3], "datatype": "FP32", "data": X.ravel().tolist()}]}
    request = urllib.request.Request(f"{server.url}/v2/models/anomaly/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request) as plain:
        assert plain.headers["Content-Encoding"] is None
        expected = plain.read()
    request.add_header("Accept-Encoding", f"br, {encoding};q=0.5, identity;q=0.1")
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Content-Encoding"] == encoding
        raw = answer.read()
    assert len(raw) < len(expected)
    assert (gzip.decompress(raw) if encoding == "gzip" else zlib.decompress(raw)) == expected


@pytest.mark.parametrize("binary", [True, False])
def test_tensors_without_values_pass(client: Any, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
    result = client.infer("anomaly", [_input(np.empty((0, 3), dtype=np.float32), binary=binary)], outputs=outputs)
    assert result.as_numpy("y").shape == (0, 3)


def test_half_precision_passes_in_binary_and_json(server: InferProcess, client: Any) -> None:
    halves = np.array([0.5, -2.0, 65504.0], dtype=np.float16)
    result = client.infer("half", [_input(halves, "FP16")])
    assert result.as_numpy("echo").dtype == np.float16
    assert (result.as_numpy("echo") == halves).all()
    body = {"inputs": [{"name": "X", "shape": [3], "datatype": "FP16", "data": [0.5, -2, 65504]}]}
    with urllib.request.urlopen(f"{server.url}/v2/models/half/infer", json.dumps(body).encode()) as answer:
        assert json.load(answer)["outputs"][0]["data"] == [0.5, -2.0, 65504.0]


def test_the_repository_is_indexed_loaded_and_unloaded(client: Any) -> None:
    entry = {"name": "half", "version": "7", "state": "READY", "reason": ""}
    assert entry in client.get_model_repository_index()
    client.unload_model("half")
    assert not client.is_model_ready("half")
    assert entry | {"state": "UNAVAILABLE", "reason": "unloaded"} in client.get_model_repository_index()
    client.load_model("half")
    assert client.is_model_ready("half")


def test_the_asyncio_client_gets_all_of_its_answers(server: InferProcess) -> None:
    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(server.address) as client:
            assert await client.is_server_live() and await client.is_model_ready("anomaly", "42")
            assert (await client.get_server_metadata())["name"] == "modelsync-infer"
            requests = [_input(np.full((1, 3), number, dtype=np.float32)) for number in range(20)]
            answers = [client.infer("anomaly", [request], request_id=str(n)) for n, request in enumerate(requests)]
            return list(await asyncio.gather(*answers))

    for number, result in enumerate(asyncio.run(ask())):
        assert result.get_response()["id"] == str(number)
        assert (result.as_numpy("y") == 2 * number).all()


def test_metrics_are_prometheus_text_with_the_fields_names(server: InferProcess, client: Any) -> None:
    client.infer("anomaly", [_input(X)])
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    triton_names = (
        "request_success", "request_failure", "count", "exec_count", "request_duration_us", "queue_duration_us",
        "compute_input_duration_us", "compute_infer_duration_us", "compute_output_duration_us",
    )  # fmt: skip
    for name in triton_names:
        family = families[f"nv_inference_{name}"]
        assert family.type == "counter"
        assert {"model": "anomaly", "version": "42"} in [sample.labels for sample in family.samples]
    for name in ("requests", "failures", "request_seconds", "batch_rows", "swaps", "refused", "ready", "model_info"):
        assert families[f"modelsync_inference_{name}"].samples
