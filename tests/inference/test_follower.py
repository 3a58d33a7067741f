"""What the follower promises about pointers, one look at a time and without threads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modelsync_inference.errors import NotServingError, RunError
from modelsync_inference.follow.follower import Follower
from modelsync_inference.model.pointer import PointerRead
from modelsync_inference.model.serving_model import Serving
from tests.support.datadir import DataDir, Installed
from tests.support.tiny_models import scaler_probe
from tests.support.toy_runtime import ToyRuntime, toy

X = {"X": [[1, 2, 3]]}


class Device:
    """A data directory, a toy runtime and a follower whose clock stands still unless told."""

    def __init__(self, root: Path) -> None:
        self.data = DataDir(root)
        self.runtime = ToyRuntime()
        self.now = 0.0
        self.restart()

    def restart(self) -> None:
        self.serving = Serving(lambda: None)
        self.follower = Follower(
            self.data.folder, "anomaly", self.runtime, self.serving, lambda: None, lambda: self.now
        )

    def install(self, version: int, probe_factor: float | None = None) -> Installed:
        factor = version if probe_factor is None else probe_factor
        return self.data.install(version, {"model.onnx": toy(version)}, scaler_probe(factor))

    def broken(self, version: int) -> Installed:
        return self.data.install(version, {"model.onnx": b"no model"})

    def look(self) -> None:
        self.follower.reconcile()

    def answer(self) -> int:
        with self.serving.lease() as lease:
            prediction = lease.run(X)
            assert prediction.outputs["tag"][0] == lease.version
            return lease.version

    def outcome(self, kind: str) -> tuple[int, int, str]:
        outcome = self.follower.current if kind == "current" else self.follower.candidate
        assert outcome is not None
        return outcome.generation, outcome.ref.version, outcome.state


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_nothing_serves_before_there_is_a_pointer(device: Device) -> None:
    device.look()
    with pytest.raises(NotServingError, match="try again"):
        device.serving.lease()


def test_the_pointer_is_followed_forward_and_back(device: Device) -> None:
    one, two = device.install(1), device.install(2)
    for generation, installed in enumerate([one, two, one], start=1):
        device.data.point("current", installed, generation)
        device.look()
        assert device.answer() == installed.version
        assert device.outcome("current") == (generation, installed.version, "serving")


def test_a_look_without_news_loads_nothing(device: Device) -> None:
    device.data.point("current", device.install(1), 1)
    for _ in range(3):
        device.look()
    assert device.runtime.loads == [1]


def test_a_new_generation_of_the_serving_version_is_reported_without_a_reload(device: Device) -> None:
    one = device.install(1)
    device.data.point("current", one, 1)
    device.look()
    device.answer()
    device.data.point("current", one, 2)
    device.look()
    assert device.outcome("current") == (2, 1, "serving")
    assert device.runtime.loads == [1]
    assert device.serving.counters().requests == 0


@pytest.mark.parametrize("kind", ["current", "candidate"])
def test_a_version_that_does_not_load_leaves_the_old_one_serving(device: Device, kind: str) -> None:
    one = device.install(1)
    device.data.point("current", one, 1)
    device.look()
    device.data.point(kind, device.broken(2), 2, one)
    device.look()
    device.look()
    assert device.answer() == 1
    assert device.outcome(kind) == (2, 2, "refused")
    assert device.follower.refusals == 1


def test_a_wrong_probe_is_refused_with_the_tensor_and_the_numbers(device: Device) -> None:
    one = device.install(1)
    device.data.point("current", one, 1)
    device.look()
    device.data.point("current", device.install(2, probe_factor=2.5), 2, one)
    device.look()
    assert device.answer() == 1
    assert device.follower.current is not None
    assert "output 'y' differs in 3 of 3 values" in device.follower.current.reason
    assert "is 6.0 where 7.5 was recorded" in device.follower.current.reason
    assert [model.closed for model in device.runtime.models] == [False, True]


def test_the_switch_to_a_ready_candidate_loads_nothing(device: Device) -> None:
    one, two = device.install(1), device.install(2)
    device.data.point("current", one, 1)
    device.look()
    device.data.point("candidate", two, 2, one)
    device.look()
    assert device.outcome("candidate") == (2, 2, "ready")
    assert device.answer() == 1
    device.data.point("current", two, 2, one)
    device.look()
    assert device.answer() == 2
    device.data.remove_candidate()
    device.look()
    assert device.follower.candidate is None
    assert device.runtime.loads == [1, 2]
    assert [model.closed for model in device.runtime.models] == [True, False]


def test_a_switch_seen_only_after_candidate_json_is_gone_loads_nothing_either(device: Device) -> None:
    one, two = device.install(1), device.install(2)
    device.data.point("current", one, 1)
    device.data.point("candidate", two, 2, one)
    device.look()
    device.data.point("current", two, 2, one)
    device.data.remove_candidate()
    device.look()
    assert device.answer() == 2
    assert device.runtime.loads == [1, 2]


class Interrupted(Follower):
    """The daemon takes the candidate between this follower's two looks."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def _read(self, kind: str) -> PointerRead:
        read = super()._read(kind)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return read


def test_a_switch_in_the_middle_of_a_look_loads_nothing(device: Device) -> None:
    one, two = device.install(1), device.install(2)
    follower = Interrupted(device.data.folder, "anomaly", device.runtime, device.serving, lambda: None)
    device.data.point("current", one, 1)
    device.data.point("candidate", two, 2, one)
    follower.reconcile()

    def switch() -> None:
        device.data.point("current", two, 2, one)
        device.data.remove_candidate()

    follower.meanwhile = switch
    follower.reconcile()
    follower.reconcile()
    assert device.answer() == 2
    assert device.runtime.loads == [1, 2]


def test_a_withdrawn_candidate_is_freed(device: Device) -> None:
    one = device.install(1)
    device.data.point("current", one, 1)
    device.data.point("candidate", device.install(2), 2, one)
    device.look()
    device.data.remove_candidate()
    device.look()
    assert [model.closed for model in device.runtime.models] == [False, True]
    assert device.answer() == 1


def test_another_candidate_takes_the_place_of_the_first(device: Device) -> None:
    device.data.point("candidate", device.install(2), 2)
    device.look()
    device.data.point("candidate", device.install(3), 3)
    device.look()
    assert device.outcome("candidate") == (3, 3, "ready")
    assert [model.closed for model in device.runtime.models] == [True, False]


def test_a_candidate_that_serves_already_is_ready_at_once(device: Device) -> None:
    one = device.install(1)
    device.data.point("current", one, 1)
    device.look()
    device.data.point("candidate", one, 2)
    device.look()
    assert device.outcome("candidate") == (2, 1, "ready")
    assert device.runtime.loads == [1]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format":2}',
        b'{"format":1,"name":"other"}',
        b'{"format":1,"name":"anomaly","generation":true}',
        b'{"format":1,"name":"anomaly","generation":3,"version":0,"digest":"00","path":"x"}',
        b'{"format":1,"name":"anomaly","generation":3,"version":2,"digest":"%s","path":"../2"}' % (b"a" * 64),
        b'{"format":1,"name":"anomaly","generation":3,"version":2,"digest":"%s"}' % (b"a" * 64),
        b'{"format":1,"x":"%s"}' % (b"x" * 5000),
        b"[" * 4000,
    ],
)
@pytest.mark.parametrize("kind", ["current", "candidate"])
def test_a_pointer_of_garbage_is_no_news_and_is_reported(device: Device, garbage: bytes, kind: str) -> None:
    one, two = device.install(1), device.install(2)
    device.data.point("current", one, 1)
    device.data.point("candidate", two, 2, one)
    device.look()
    device.data.write_pointer(kind, garbage)
    device.look()
    assert device.answer() == 1
    assert device.outcome("candidate") == (2, 2, "ready")
    assert f"{kind}.json is not a pointer" in device.follower.problems[kind]
    device.data.point("current", two, 2, one)
    device.data.point("candidate", two, 2, one)
    device.look()
    assert device.answer() == 2
    assert device.follower.problems == {}
    assert device.runtime.loads == [1, 2]


def test_unknown_keys_of_a_pointer_are_ignored(device: Device) -> None:
    one = device.install(1)
    document = {"format": 1, "name": "anomaly", **one.as_json(), "generation": 1, "previous": None, "new": [1.5]}
    device.data.write_pointer("current", json.dumps(document).encode())
    device.look()
    assert device.answer() == 1


def test_a_pointer_that_vanishes_takes_nothing_away(device: Device) -> None:
    device.data.point("current", device.install(1), 1)
    device.look()
    (device.data.folder / "current.json").unlink()
    device.look()
    assert device.answer() == 1


def test_previous_serves_if_current_cannot_be_loaded_at_start(device: Device) -> None:
    one = device.install(1)
    device.data.point("current", device.broken(2), 5, one)
    device.look()
    assert device.answer() == 1
    assert device.outcome("current") == (5, 2, "refused")
    device.data.point("current", one, 6)
    device.look()
    assert device.outcome("current") == (6, 1, "serving")
    assert device.runtime.loads == [1]


def test_if_nothing_loads_the_reason_names_both_and_it_is_tried_again_later(device: Device) -> None:
    one, two = device.broken(1), device.broken(2)
    device.data.point("current", two, 2, one)
    device.look()
    assert device.follower.current is not None
    assert "Version 1, the previous one, can't serve either" in device.follower.current.reason
    model = device.data.folder / two.path / "model.onnx"
    model.write_bytes(toy(2))
    device.look()
    with pytest.raises(NotServingError):
        device.serving.lease()
    device.now = 31.0
    device.look()
    assert device.answer() == 2
    assert device.outcome("current") == (2, 2, "serving")


def test_a_lease_pins_its_version_until_it_is_released(device: Device) -> None:
    one, two = device.install(1), device.install(2)
    device.data.point("current", one, 1)
    device.look()
    lease = device.serving.lease()
    second = device.serving.lease()
    device.data.point("current", two, 2, one)
    device.look()
    assert device.answer() == 2
    assert lease.run(X).version == 1
    lease.release()
    lease.release()
    device.look()
    assert second.run(X).version == 1
    second.release()
    device.look()
    assert [model.closed for model in device.runtime.models] == [True, False]


def test_a_version_that_breaks_while_it_serves_is_reported_as_failed(device: Device) -> None:
    device.data.point("current", device.install(1), 1)
    device.look()
    device.runtime.models[0].broken = True
    for _ in range(3):
        with device.serving.lease() as lease, pytest.raises(RunError):
            lease.run(X)
    device.look()
    assert device.outcome("current") == (1, 1, "failed")
    assert device.serving.counters().errors == 3


def test_errors_of_some_requests_do_not_make_a_healthy_version_fail(device: Device) -> None:
    device.data.point("current", device.install(1), 1)
    device.look()
    device.runtime.models[0].broken = True
    for _ in range(3):
        with device.serving.lease() as lease, pytest.raises(RunError):
            lease.run(X)
    device.runtime.models[0].broken = False
    device.look()
    assert device.outcome("current") == (1, 1, "serving")
