"""Memory policies, holds and listeners of a HotModel, on the toy runtime."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from modelsync_inference import HotModel, NotServingError, Outcome, Policy, Settings
from modelsync_inference.follow.memory_policy import MemoryPolicy
from tests.support.datadir import DataDir
from tests.support.tiny_models import scaler_probe
from tests.support.toy_runtime import ToyRuntime, toy
from tests.support.waiting import wait_until

X = {"X": [[1, 2, 3]]}
ALONE = Settings(poll_seconds=0.02, watch=False, link=False)
RESOURCE = Settings(poll_seconds=0.02, watch=False, link=False, policy=Policy.RESOURCE, queue_seconds=20)
MIB = 1 << 20


def test_with_the_resource_policy_the_old_version_goes_first_and_requests_wait(tmp_path: Path) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    one, two = (data.install(n, {"model.onnx": toy(n)}, scaler_probe(n)) for n in (1, 2))
    data.point("current", one, 1)
    with HotModel(tmp_path, "anomaly", runtime=runtime, settings=RESOURCE) as model:
        model.wait_ready(10)
        runtime.gate.clear()
        data.point("current", two, 2)
        wait_until(lambda: runtime.models[0].closed, "the old version to be unloaded")
        answers: list[int] = []
        waiting = [threading.Thread(target=lambda: answers.append(model.predict(X).version)) for _ in range(3)]
        for thread in waiting:
            thread.start()
        runtime.gate.set()
        for thread in waiting:
            thread.join(20)
        assert answers == [2, 2, 2]
        assert len(runtime.models) == 2


def test_with_the_resource_policy_a_refused_version_brings_the_old_one_back(tmp_path: Path) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    one, two = data.install(1, {"model.onnx": toy(1)}), data.install(2, {"model.onnx": toy(2)}, scaler_probe(9))
    data.point("current", one, 1)
    with HotModel(tmp_path, "anomaly", runtime=runtime, settings=RESOURCE) as model:
        model.wait_ready(10)
        data.point("current", two, 2)
        wait_until(lambda: model.refusals == 1, "the refusal")
        assert model.predict(X).version == 1
        assert runtime.loads == [1, 2, 1]


def test_who_waits_too_long_is_told_to_come_back(tmp_path: Path) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    one, two = (data.install(n, {"model.onnx": toy(n)}) for n in (1, 2))
    data.point("current", one, 1)
    impatient = Settings(poll_seconds=0.02, watch=False, link=False, policy=Policy.RESOURCE, queue_seconds=0.05)
    with HotModel(tmp_path, "anomaly", runtime=runtime, settings=impatient) as model:
        model.wait_ready(10)
        runtime.gate.clear()
        data.point("current", two, 2)
        wait_until(lambda: runtime.models[0].closed, "the old version to be unloaded")
        with pytest.raises(NotServingError, match="still being loaded"):
            model.predict(X)
        runtime.gate.set()


def test_a_version_in_use_is_not_unloaded_for_lack_of_memory(tmp_path: Path) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    one, two = (data.install(n, {"model.onnx": toy(n)}) for n in (1, 2))
    data.point("current", one, 1)
    with HotModel(tmp_path, "anomaly", runtime=runtime, settings=RESOURCE) as model:
        model.wait_ready(10)
        with model.lease() as lease:
            data.point("current", two, 2)
            assert lease.run(X).version == 1
            assert not runtime.models[0].closed
        wait_until(lambda: model.predict(X).version == 2, "version 2")


@pytest.mark.parametrize(
    ("policy", "fits"),
    [
        (MemoryPolicy(Policy.AVAILABILITY, budget=0), True),
        (MemoryPolicy(Policy.RESOURCE), False),
        (MemoryPolicy(Policy.AUTO, budget=100 * MIB, held=lambda: 50 * MIB), True),
        (MemoryPolicy(Policy.AUTO, budget=100 * MIB, held=lambda: 84 * MIB), False),
        (MemoryPolicy(Policy.AUTO, budget=100 * MIB, held=lambda: 50 * MIB, factor=30.0), False),
    ],
)
def test_the_policy_follows_the_budget(tmp_path: Path, policy: MemoryPolicy, fits: bool) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "model.onnx").write_bytes(bytes(2 * MIB))
    assert policy.fits_beside(tmp_path) is fits


def _broken_listener(_: Outcome) -> None:
    raise RuntimeError("a listener's own trouble")


def test_a_hold_defers_the_switch_and_listeners_hear_of_it(tmp_path: Path) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    one, two = (data.install(n, {"model.onnx": toy(n)}) for n in (1, 2))
    data.point("current", one, 1)
    heard: list[Outcome] = []
    model = HotModel(tmp_path, "anomaly", runtime=runtime, settings=ALONE)
    model.subscribe(_broken_listener)
    unsubscribe = model.subscribe(heard.append)
    with model:
        model.wait_ready(10)
        with model.hold(), model.hold():
            data.point("current", two, 2, one)
            wait_until(lambda: [o.state for o in heard] == ["serving", "deferred"], "the deferral")
            assert model.predict(X).version == 1
        wait_until(lambda: model.predict(X).version == 2, "version 2")
        wait_until(lambda: heard[-1].state == "serving" and heard[-1].generation == 2, "the listener")
        unsubscribe()
        data.point("current", one, 3)
        wait_until(lambda: model.predict(X).version == 1, "version 1")
        assert heard[-1].generation == 2
