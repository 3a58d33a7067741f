"""`modelsync-infer` as a process: its ready line, tritonclient unchanged, SIGTERM, bad arguments."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from onnx import TensorProto

from tests.support.datadir import DataDir
from tests.support.infer_process import InferProcess, run_infer
from tests.support.tiny_models import echo, scaler, scaler_probe
from tests.support.waiting import wait_until

X = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DataDir, Any]]:
    """A server that was started before there was a version, and a tritonclient for it."""
    data = DataDir(tmp_path_factory.mktemp("data"))
    with InferProcess(data.root, "--port", "0", "--json") as server:
        client = triton.InferenceServerClient(server.address)
        assert client.is_server_live()
        assert not client.is_server_ready()
        data.point("current", data.install(1, {"anomaly.onnx": scaler(1)}, scaler_probe(1)), 1)
        wait_until(client.is_server_ready, "the server to be ready")
        yield data, client
        client.close()


def _input(array: np.ndarray[Any, Any], binary: bool, name: str = "X", datatype: str = "FP32") -> Any:
    value = triton.InferInput(name, list(array.shape), datatype)
    value.set_data_from_numpy(array, binary_data=binary)
    return value


def test_tritonclient_reads_health_and_metadata(served: tuple[DataDir, Any]) -> None:
    _, client = served
    assert client.is_model_ready("anomaly")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "modelsync-infer"
    assert client.get_model_metadata("anomaly")["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.parametrize("answer_binary", [True, False, None])
@pytest.mark.parametrize("ask_binary", [True, False])
def test_tritonclient_infers_in_json_and_binary(
    served: tuple[DataDir, Any], ask_binary: bool, answer_binary: bool | None
) -> None:
    _, client = served
    outputs = None
    if answer_binary is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=answer_binary) for name in ("tag", "y")]
    result = client.infer("anomaly", [_input(X, ask_binary)], outputs=outputs, request_id="r 1")
    response = result.get_response()
    assert response["id"] == "r 1"
    factor = int(response["model_version"])
    assert (result.as_numpy("y") == X * factor).all()
    assert result.as_numpy("tag").tolist() == [factor]
    assert ("data" in response["outputs"][0]) is (answer_binary is False)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_tritonclient_may_compress(served: tuple[DataDir, Any], compression: str) -> None:
    _, client = served
    result = client.infer(
        "anomaly",
        [_input(X, True)],
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert (result.as_numpy("y") == X * int(result.get_response()["model_version"])).all()


def test_tritonclient_gets_the_servers_sentence(served: tuple[DataDir, Any]) -> None:
    _, client = served
    with pytest.raises(triton.InferenceServerException, match="has shape"):
        client.infer("anomaly", [_input(X[0], True)])
    with pytest.raises(triton.InferenceServerException, match="version '99' does not serve"):
        client.infer("anomaly", [_input(X, True)], model_version="99")


def test_a_swap_is_seen_by_a_client_that_stays_connected(served: tuple[DataDir, Any]) -> None:
    data, client = served
    data.point("current", data.install(2, {"anomaly.onnx": scaler(2)}, scaler_probe(2)), 2)

    def version() -> str:
        result = client.infer("anomaly", [_input(X, True)])
        assert (result.as_numpy("y") == X * int(result.get_response()["model_version"])).all()
        return str(result.get_response()["model_version"])

    wait_until(lambda: version() == "2", "version 2")


def test_twenty_swaps_fail_no_request_of_several_clients(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    versions = [data.install(n, {"m.onnx": scaler(n)}, scaler_probe(n)) for n in range(1, 22)]
    data.point("current", versions[0], 1)
    stop, wrong, seen = threading.Event(), list[str](), set[int]()

    def ask(address: str) -> None:
        client = triton.InferenceServerClient(address)
        while not stop.is_set():
            try:
                result = client.infer("anomaly", [_input(X, True)])
                version = int(result.get_response()["model_version"])
                if not (result.as_numpy("y") == X * version).all() or result.as_numpy("tag")[0] != version:
                    wrong.append(f"version {version} answered {result.as_numpy('y')}")
                seen.add(version)
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")
        client.close()

    with InferProcess(tmp_path) as server:
        client = triton.InferenceServerClient(server.address)
        wait_until(client.is_server_ready, "the server to be ready")
        client.close()
        clients = [threading.Thread(target=ask, args=(server.address,)) for _ in range(3)]
        for thread in clients:
            thread.start()
        for installed in versions[1:]:
            data.point("current", installed, installed.version, versions[installed.version - 2])
            wait_until(partial(seen.__contains__, installed.version), f"version {installed.version} to answer")
        stop.set()
        for thread in clients:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_sends_text(tmp_path: Path, binary: bool) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"m.onnx": echo(TensorProto.STRING)}), 1)
    texts = np.array(["grün".encode(), b"", b"x" * 300], dtype=np.object_)
    with InferProcess(tmp_path) as server:
        client = triton.InferenceServerClient(server.address)
        wait_until(client.is_server_ready, "the server to be ready")
        outputs = [triton.InferRequestedOutput("echo", binary_data=binary)]
        result = client.infer("anomaly", [_input(texts, binary, "text", "BYTES")], outputs=outputs)
        echoed = [item if isinstance(item, bytes) else item.encode() for item in result.as_numpy("echo").tolist()]
        assert echoed == texts.tolist()
        client.close()


def test_sigterm_lets_requests_finish_and_exits_with_0(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"m.onnx": scaler(2)}), 1)
    body = json.dumps({"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}).encode()
    with InferProcess(tmp_path) as server:
        client = triton.InferenceServerClient(server.address)
        wait_until(client.is_server_ready, "the server to be ready")
        client.close()
        connection = http.client.HTTPConnection(server.address, timeout=30)
        connection.putrequest("POST", "/v2/models/anomaly/infer")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:10])
        # The handler has begun once the server has seen the head; a second connection's answer shows that it has.
        other = http.client.HTTPConnection(server.address, timeout=30)
        other.request("GET", "/v2/health/live")
        assert other.getresponse().status == 200
        other.close()
        codes: list[int] = []
        ending = threading.Thread(target=lambda: codes.append(server.stop()))
        ending.start()
        wait_until(lambda: not _accepts(server.address), "the server to stop listening")
        connection.send(body[10:])
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["outputs"][0]["data"] == [2, 4, 6]
        connection.close()
        ending.join()
        assert codes == [0]


def _accepts(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--data"),
        (["--data", "."], "--model"),
        (["--data", ".", "--model", "../x"], "model name"),
        (["--data", ".", "--model", "a", "--port", "70000"], "70000"),
        (["--data", ".", "--model", "a", "--port", "x"], "invalid int"),
        (["--data", ".", "--model", "a", "--workers", "0"], "--workers"),
        (["--data", "/dev/null", "--model", "a"], "not a directory"),
        (["--data", ".", "--model", "a", "--colour"], "--colour"),
    ],
)
def test_bad_arguments_end_with_2_and_one_sentence(arguments: list[str], reason: str) -> None:
    ended = run_infer(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert reason in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_taken_port_ends_with_5_and_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_infer("--data", str(tmp_path), "--model", "a", "--port", str(port), "--log-level", "error")
    assert ended.returncode == 5
    assert f"port {port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_where_confinement_is_demanded_and_missing_the_server_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("seccomp", "pyseccomp"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('hidden by a test')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_infer("--data", str(tmp_path), "--model", "anomaly", "--require-confinement")
    assert done.returncode == 3 and "libseccomp is missing" in done.stderr and "Traceback" not in done.stderr
    done = run_infer("--data", str(tmp_path), "--model", "anomaly", "--require-confinement", "--isolation", "thread")
    assert done.returncode == 2 and "--isolation process" in done.stderr
