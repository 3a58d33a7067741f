"""The last good version comes up by itself, without network and daemon, whatever the newest one did to its process."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from modelsync_inference.errors import RunError
from modelsync_inference.follow.attempts import Attempts
from modelsync_inference.follow.follower import Follower
from modelsync_inference.model.pointer import CURRENT, Pointer, read_pointer
from modelsync_inference.model.serving_model import Serving
from tests.support.datadir import DataDir
from tests.support.deadly_models import crashes_while_loading, divider
from tests.support.infer_process import InferProcess
from tests.support.tiny_models import scaler_probe
from tests.support.toy_runtime import ToyRuntime, toy
from tests.support.waiting import wait_until


class Device:
    """A data directory whose current version is 2 and whose previous one is 1; `boot` is a process's start."""

    def __init__(self, root: Path, *, two: bytes | None = None) -> None:
        self.data, self.records, self.now = DataDir(root), root / "inference" / "anomaly", 0.0
        one = self.data.install(1, {"model.onnx": toy(1)}, scaler_probe(1))
        self.two = self.data.install(2, {"model.onnx": two or toy(2)}, scaler_probe(2))
        self.data.point("current", self.two, 7, one)

    def boot(self) -> tuple[Follower, Serving, ToyRuntime]:
        serving, runtime = Serving(lambda: None), ToyRuntime()
        attempts = Attempts(self.records)
        follower = Follower(
            self.data.folder, "anomaly", runtime, serving, lambda: None, lambda: self.now, attempts=attempts
        )
        return follower, serving, runtime

    def pointer(self) -> Pointer:
        pointer = read_pointer(self.data.folder, "anomaly", CURRENT).pointer
        assert pointer is not None
        return pointer

    def dies_while_loading(self) -> None:
        Attempts(self.records).begin(self.pointer())


def serves(serving: Serving) -> int:
    with serving.lease() as lease:
        return lease.version


def test_a_version_that_ended_its_process_twice_is_not_tried_a_third_time(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.dies_while_loading()
    device.dies_while_loading()
    follower, serving, runtime = device.boot()
    follower.reconcile()
    assert (serves(serving), runtime.loads) == (1, [1])
    assert follower.current is not None
    assert (follower.current.state, follower.current.ref.version) == ("refused", 2)
    assert "its process ended 2 times" in follower.current.reason
    # Another activation of the same version is another chance.
    device.data.point("current", device.two, 8, None)
    follower.reconcile()
    assert serves(serving) == 2


def test_one_death_is_forgiven_and_so_are_ends_in_good_order(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.dies_while_loading()
    follower, serving, _ = device.boot()
    follower.reconcile()
    assert serves(serving) == 2
    for _ in range(3):
        follower.close()
        follower, serving, _ = device.boot()
        follower.reconcile()
        assert serves(serving) == 2


def test_a_version_that_has_served_for_a_while_is_not_to_blame_for_ends(tmp_path: Path) -> None:
    device = Device(tmp_path)
    follower, _, _ = device.boot()
    follower.reconcile()
    device.now = 11.0
    follower.reconcile()
    for _ in range(4):  # killed, each time
        follower, serving, runtime = device.boot()
        follower.reconcile()
        assert (serves(serving), runtime.loads) == (2, [2])


def test_after_a_refusal_the_next_start_begins_with_the_version_that_is_good(tmp_path: Path) -> None:
    device = Device(tmp_path, two=b"no model")
    for expected in ([1], [1]):
        follower, serving, runtime = device.boot()
        follower.reconcile()
        assert (serves(serving), runtime.loads) == (1, expected)
        assert follower.current is not None and follower.current.state == "refused"
        follower.close()


def test_a_version_that_broke_while_it_served_is_not_begun_with_again(tmp_path: Path) -> None:
    device = Device(tmp_path)
    follower, serving, runtime = device.boot()
    follower.reconcile()
    runtime.models[0].broken = True
    for _ in range(3):
        with serving.lease() as lease, pytest.raises(RunError):
            lease.run({"X": [[1, 2, 3]]})
    follower.reconcile()
    assert follower.current is not None and follower.current.state == "failed"
    reason = follower.current.reason
    follower, serving, runtime = device.boot()
    follower.reconcile()
    assert (serves(serving), runtime.loads) == (1, [1])
    assert follower.current is not None
    assert (follower.current.state, follower.current.reason) == ("refused", reason)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"generation": 7}', b'{"generation":"7","digest":5}', b"\0" * 9000]
)
def test_a_damaged_record_is_no_record(tmp_path: Path, text: bytes) -> None:
    device = Device(tmp_path)
    device.records.mkdir(parents=True)
    (device.records / "attempts.json").write_bytes(text)
    follower, serving, _ = device.boot()
    follower.reconcile()
    assert serves(serving) == 2


def test_a_model_that_crashes_its_process_in_threads_mode_ends_with_the_previous_one_serving(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    good = data.install(7, {"model.onnx": divider(7)})
    data.point("current", data.install(8, {"model.onnx": crashes_while_loading()}), 2, good)
    with InferProcess(tmp_path, "--isolation", "thread", "--log-level", "error") as server:

        def answer() -> str | None:
            connection = http.client.HTTPConnection(server.address, timeout=30)
            try:
                body = {"inputs": [{"name": "X", "shape": [1], "datatype": "INT64", "data": [1]}]}
                connection.request("POST", "/v2/models/anomaly/infer", json.dumps(body))
                return str(json.loads(connection.getresponse().read()).get("model_version"))
            except (OSError, http.client.HTTPException):
                return None
            finally:
                connection.close()

        wait_until(lambda: answer() == "7", "the previous version")
        assert server.stop() == 0
