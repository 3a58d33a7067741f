"""SIGTERM in the middle of a long upload or a long run: the request is answered, new connections are not taken."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from pathlib import Path

import numpy as np

from tests.support.datadir import DataDir
from tests.support.deadly_models import looper
from tests.support.infer_process import InferProcess
from tests.support.tiny_models import row_scaler
from tests.support.waiting import wait_until

ROUNDS = 400_000
"""Of the looping model: most of a second."""


def refuses(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.connect()
    except ConnectionRefusedError:
        return True
    finally:
        connection.close()
    return False


def ready(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", "/v2/health/ready")
    status = connection.getresponse().status
    connection.close()
    return status == 200


def test_a_long_upload_is_taken_to_its_end(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"m.onnx": row_scaler(2)}), 1)
    rows = np.arange(3_000_000, dtype=np.float32)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "X",
                    "shape": [1_000_000, 3],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": 12_000_000},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    body = head + rows.tobytes()
    with InferProcess(tmp_path, "--log-level", "error") as server:
        wait_until(lambda: ready(server.address), "the server to be ready")
        connection = http.client.HTTPConnection(server.address, timeout=60)
        connection.putrequest("POST", "/v2/models/anomaly/infer")
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Inference-Header-Content-Length", str(len(head)))
        connection.endheaders(body[:6_000_000])
        # More than what sockets buffer has been taken, so the server is reading it.
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(server.address), "the server to stop listening")
        connection.send(body[6_000_000:])
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200
        values = np.frombuffer(answer[int(response.headers["Inference-Header-Content-Length"]) :], dtype=np.float32)
        assert (values == rows * 2).all()
        connection.close()
        assert server.process.wait(30) == 0


def test_a_long_run_is_waited_for(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    probe = {"format": 1, "cases": [{"inputs": {"X": {"shape": [1], "datatype": "INT64", "data": [ROUNDS // 10]}}}]}
    data.point("current", data.install(1, {"m.onnx": looper()}, probe), 1)
    with InferProcess(tmp_path, "--log-level", "error") as server:
        wait_until(lambda: ready(server.address), "the server to be ready")
        answers: list[object] = []

        def ask() -> None:
            connection = http.client.HTTPConnection(server.address, timeout=60)
            body = {"inputs": [{"name": "X", "shape": [1], "datatype": "INT64", "data": [ROUNDS]}]}
            connection.request("POST", "/v2/models/anomaly/infer", json.dumps(body))
            answers.append(json.loads(connection.getresponse().read())["outputs"][0]["data"])
            connection.close()

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: _begun(server.address), "the run to begin")
        assert server.stop() == 0
        asking.join()
        assert answers == [[ROUNDS]]


def _begun(address: str) -> bool:
    """Whether the request has come in: it is still counted as waiting."""
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return "modelsync_inference_pending_requests 1.0" in text.splitlines()
