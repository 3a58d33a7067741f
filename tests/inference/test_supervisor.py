"""`modelsync-infer` keeps serving when the process that serves is killed, and tells the daemon why (ADR 10)."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types and is only read here
import pytest

from tests.support.datadir import DataDir
from tests.support.fake_daemon import FakeDaemon
from tests.support.infer_process import InferProcess
from tests.support.tiny_models import scaler, scaler_probe
from tests.support.waiting import wait_until

BODY = json.dumps({"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}).encode()
QUIET = ("--log-level", "error")


def ask(address: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("POST", "/v2/models/anomaly/infer", BODY)
    response = connection.getresponse()
    document = json.loads(response.read())
    connection.close()
    return str(document.get("model_version"))


def serving_process(server: InferProcess) -> psutil.Process:
    """The child that accepts connections; workers have no network socket."""
    children = psutil.Process(server.process.pid).children()
    return next(child for child in children if child.net_connections("tcp"))


def test_a_killed_server_serves_on_and_the_daemon_learns_what_killed_it(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"m.onnx": scaler(1)}, scaler_probe(1)), 1)
    daemon = FakeDaemon(tmp_path).start()
    with InferProcess(tmp_path, *QUIET) as server:
        wait_until(lambda: ask(server.address) == "1", "the first version")
        assert daemon.expect(state="serving")["ended"] == ""
        victims = psutil.Process(server.process.pid).children(recursive=True)
        killed = serving_process(server)
        killed.kill()
        wait_until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE, "the kill")
        # The very next connection is answered by a version: it is neither refused nor told to come back later.
        assert ask(server.address) == "1"
        report = daemon.expect(state="serving", restarts=1)
        assert report["ended"] == "was killed by SIGKILL"
        assert report["pid"] == serving_process(server).pid
        wait_until(lambda: not any(victim.is_running() for victim in victims), "the old workers to be gone")
        assert server.stop() == 0
    daemon.stop()


def test_sigterm_during_the_start_ends_with_0_and_leaves_nobody_behind(tmp_path: Path) -> None:
    with InferProcess(tmp_path, *QUIET) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert server.stop() == 0
        assert not any(child.is_running() for child in children)


STOPPED_WHILE_FORKING = """
import os, signal, socket, sys, time
from modelsync_inference.processes import supervisor

fork = os.fork
def stopped_fork():
    pid = fork()
    os.kill(os.getpid(), signal.SIGTERM)  # to both, at the first moment at which there are two
    return pid
os.fork = stopped_fork
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
sys.exit(supervisor.supervise(listener, lambda start: time.sleep(60) or 1))
"""


def test_sigterm_between_fork_and_the_servers_own_handlers_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED_WHILE_FORKING], timeout=30, check=False)
    assert done.returncode == 0


def test_a_killed_supervisor_takes_the_server_with_it(tmp_path: Path) -> None:
    with InferProcess(tmp_path, *QUIET) as server:
        server.process.kill()
        server.process.wait()
        # Not at once: a process's last thread closes its sockets, after its first one is a zombie already.
        wait_until(lambda: _refuses(server.address), "the server's end")


def _refuses(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_server_that_ends_again_and_again_is_given_up_with_5_and_a_sentence(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("modelsync-infer")
    process = subprocess.Popen(
        [command, "--data", str(tmp_path), "--model", "anomaly", *QUIET],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    killed = set[int]()
    while process.poll() is None:
        for child in psutil.Process(process.pid).children():
            if child.pid not in killed:
                killed.add(child.pid)
                os.kill(child.pid, signal.SIGSEGV)
        wait_until(lambda: process.poll() is not None or _others(process.pid, killed), "the next server")
    _, errors = process.communicate()
    assert process.returncode == 5
    assert len(killed) == 5
    assert "ended 5 times within 60 s, at last it was killed by SIGSEGV" in errors.splitlines()[-1]


def _others(pid: int, known: set[int]) -> bool:
    try:
        return any(child.pid not in known for child in psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("option", ["--supervise", "--no-supervise"])
def test_the_ready_line_is_printed_once(tmp_path: Path, option: str) -> None:
    with InferProcess(tmp_path, *QUIET, option) as server:
        if option == "--supervise":
            first = serving_process(server).pid
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: serving_process_or_none(server) not in (None, first), "the next server")
        assert server.stop() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""


def serving_process_or_none(server: InferProcess) -> int | None:
    try:
        return int(serving_process(server).pid)
    except (StopIteration, psutil.NoSuchProcess):
        return None
