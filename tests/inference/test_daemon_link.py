"""What goes over the daemon's socket, and that the model serves whatever happens to the daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelsync_inference import HotModel, Settings
from tests.support.datadir import DataDir
from tests.support.fake_daemon import FakeDaemon
from tests.support.tiny_models import scaler_probe
from tests.support.toy_runtime import ToyRuntime, toy
from tests.support.waiting import wait_until

X = {"X": [[1, 2, 3]]}
# No watchdog and practically no polling: what arrives, arrived over the socket.
LINKED = Settings(poll_seconds=3600, heartbeat_seconds=0.1, watch=False)
POLLING = Settings(poll_seconds=0.02, heartbeat_seconds=0.1, watch=False)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path).start()
    yield daemon
    daemon.stop()


def test_an_activation_goes_through_ready_and_serving(tmp_path: Path, daemon: FakeDaemon) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    one, two = (data.install(n, {"model.onnx": toy(n)}, scaler_probe(n)) for n in (1, 2))
    data.point("current", one, 1)
    with HotModel(tmp_path, "anomaly", runtime=runtime, settings=LINKED) as model:
        daemon.expect(pointer="current", generation=1, version=1, digest=one.digest, state="serving")
        assert daemon.pids == [os.getpid()]
        data.point("candidate", two, 2, one)
        daemon.hint("candidate")
        ready = daemon.expect(pointer="candidate", generation=2, version=2, state="ready", reason="")
        assert model.predict(X).version == 1
        data.point("current", two, 2, one)
        data.remove_candidate()
        daemon.hint("current")
        serving = daemon.expect(pointer="current", generation=2, version=2, state="serving")
        assert runtime.loads == [1, 2]
        assert model.predict(X).version == 2
        counted = daemon.expect(pointer="current", generation=2, state="serving", requests=1, errors=0)
    expected = {"pid", "pointer", "generation", "version", "digest", "state", "reason", "load_ms", "probe_ms"}
    for report in (ready, serving, counted):
        expected |= {"requests", "errors", "run_us", "rss_bytes", "trial", "restarts", "ended", "confined_by"}
        assert set(report) == expected
        assert report["pid"] == os.getpid()
        assert report["rss_bytes"] > 1_000_000


def test_a_refusal_is_reported_with_its_reason(tmp_path: Path, daemon: FakeDaemon) -> None:
    data = DataDir(tmp_path)
    one, two = data.install(1, {"model.onnx": toy(1)}), data.install(2, {"model.onnx": toy(2)}, scaler_probe(3))
    data.point("current", one, 1)
    with HotModel(tmp_path, "anomaly", runtime=ToyRuntime(), settings=LINKED) as model:
        daemon.expect(state="serving")
        data.point("candidate", two, 2, one)
        daemon.hint("candidate")
        report = daemon.expect(pointer="candidate", generation=2, version=2, state="refused")
        assert "'y' differs" in report["reason"]
        assert model.predict(X).version == 1


def test_a_broken_current_at_start_is_reported_while_previous_serves(tmp_path: Path, daemon: FakeDaemon) -> None:
    data = DataDir(tmp_path)
    one, two = data.install(1, {"model.onnx": toy(1)}), data.install(2, {"model.onnx": b"?"})
    data.point("current", two, 2, one)
    with HotModel(tmp_path, "anomaly", runtime=ToyRuntime(), settings=LINKED) as model:
        daemon.expect(pointer="current", generation=2, version=2, state="refused")
        assert model.predict(X).version == 1
        data.point("current", one, 3)
        daemon.hint("current")
        daemon.expect(pointer="current", generation=3, version=1, state="serving")


def test_a_daemon_that_comes_and_goes_is_found_again(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"model.onnx": toy(1)}), 1)
    with HotModel(tmp_path, "anomaly", runtime=ToyRuntime(), settings=POLLING) as model:
        model.wait_ready(30)
        wait_until(lambda: model.status()["daemon"]["problem"], "the missing daemon to be noticed")
        for _ in range(2):
            daemon = FakeDaemon(tmp_path).start()
            daemon.expect(pointer="current", state="serving", version=1)
            assert model.status()["daemon"] == {"connected": True, "problem": None}
            daemon.stop()
            wait_until(lambda: not model.status()["daemon"]["connected"], "the end to be noticed")
            assert model.predict(X).version == 1


def test_a_socket_that_nobody_listens_on_is_survived(tmp_path: Path) -> None:
    (tmp_path / "daemon.sock").write_bytes(b"")
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"model.onnx": toy(1)}), 1)
    with HotModel(tmp_path, "anomaly", runtime=ToyRuntime(), settings=POLLING) as model:
        model.wait_ready(30)
        wait_until(lambda: "connect" in str(model.status()["daemon"]["problem"]), "the problem to show")


def test_a_data_directory_with_a_long_path_is_reached(tmp_path: Path) -> None:
    root = tmp_path / ("d" * 60) / ("e" * 60)
    data = DataDir(root)
    data.point("current", data.install(1, {"model.onnx": toy(1)}), 1)
    daemon = FakeDaemon(root).start()
    try:
        with HotModel(root, "anomaly", runtime=ToyRuntime(), settings=LINKED):
            daemon.expect(state="serving")
    finally:
        daemon.stop()


def test_odd_lines_from_the_daemon_do_not_end_the_line(tmp_path: Path, daemon: FakeDaemon) -> None:
    data = DataDir(tmp_path)
    one, two = (data.install(n, {"model.onnx": toy(n)}) for n in (1, 2))
    data.point("current", one, 1)
    with HotModel(tmp_path, "anomaly", runtime=ToyRuntime(), settings=LINKED):
        daemon.expect(state="serving")
        for line in (b"", b"{", b"[1]", b'{"event":"keepalive"}', b'{"event":"news"}', b"\xff"):
            daemon.say(line)
        data.point("current", two, 2, one)
        daemon.hint("current")
        daemon.expect(state="serving", version=2)
        assert len(daemon.pids) == 1
