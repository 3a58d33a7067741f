"""What HotModel promises to the application around it: no request waits, fails or gets a mixed answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from modelsync_inference import HotModel, InputError, NotServingError, Settings
from modelsync_protocol.errors import UsageError
from tests.support.datadir import DataDir
from tests.support.tiny_models import scaler, scaler_probe
from tests.support.toy_runtime import ToyRuntime, toy
from tests.support.waiting import wait_until

POLLING = Settings(poll_seconds=0.02, watch=False, link=False)
X = np.ones((2, 3), dtype=np.float32)


class Callers:
    """Threads that call `model` until stopped, and what went wrong with their answers."""

    def __init__(self, model: HotModel, count: int = 2) -> None:
        self._model, self._stop = model, threading.Event()
        self.wrong: list[str] = []
        self.seen: set[int] = set()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def saw(self, version: int) -> bool:
        """Whether `version` has answered."""
        return version in self.seen

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                prediction = self._model.predict({"X": X})
            except Exception as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
                continue
            tag = int(prediction.outputs["tag"][0])
            if not (prediction.outputs["y"] == X * tag).all() or tag != prediction.version:
                self.wrong.append(f"version {prediction.version}, tag {tag}, y {prediction.outputs['y']}")
            self.seen.add(prediction.version)


@pytest.mark.parametrize("through_candidate", [False, True])
def test_twenty_swaps_under_load_fail_no_request_and_mix_no_answer(tmp_path: Path, through_candidate: bool) -> None:
    data = DataDir(tmp_path)
    versions = [data.install(n, {"model.onnx": scaler(n)}, scaler_probe(n)) for n in range(1, 22)]
    data.point("current", versions[0], 1)
    with HotModel(tmp_path, "anomaly", settings=POLLING) as model:
        model.wait_ready(30)
        with Callers(model) as callers:
            for generation, installed in enumerate(versions[1:], start=2):
                previous = versions[generation - 2]
                if through_candidate:
                    data.point("candidate", installed, generation, previous)
                    wait_until(lambda: (model.status()["candidate"] or {}).get("state") == "ready", "ready")
                data.point("current", installed, generation, previous)
                if through_candidate:
                    data.remove_candidate()
                wait_until(partial(callers.saw, installed.version), "the new version to answer")
                wait_until(lambda: model.status()["candidate"] is None, "the candidate to be taken")
        assert model.swaps == 21
    assert callers.wrong == []
    assert callers.seen >= set(range(2, 22))


def test_requests_do_not_wait_while_a_version_loads(tmp_path: Path) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    one, two = (data.install(n, {"model.onnx": toy(n)}) for n in (1, 2))
    data.point("current", one, 1)
    with HotModel(tmp_path, "anomaly", runtime=runtime, settings=POLLING) as model:
        model.wait_ready(30)
        runtime.gate.clear()
        data.point("current", two, 2, one)
        for _ in range(100):
            assert model.predict({"X": X}).version == 1
        runtime.gate.set()
        wait_until(lambda: model.predict({"X": X}).version == 2, "version 2")


def test_the_old_version_is_closed_only_after_its_last_request(tmp_path: Path) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    one, two = (data.install(n, {"model.onnx": toy(n)}) for n in (1, 2))
    data.point("current", one, 1)
    with HotModel(tmp_path, "anomaly", runtime=runtime, settings=POLLING) as model:
        model.wait_ready(30)
        with model.lease() as lease:
            data.point("current", two, 2, one)
            wait_until(lambda: model.predict({"X": X}).version == 2, "version 2")
            assert lease.run({"X": X}).version == 1
            assert not runtime.models[0].closed
        wait_until(lambda: runtime.models[0].closed, "version 1 to be freed")
        with pytest.raises(InputError, match="released"):
            lease.run({"X": X})


@pytest.fixture
def sleepy(tmp_path: Path) -> Iterator[tuple[DataDir, HotModel]]:
    """A model that practically never polls, so that only hints bring news."""
    with ExitStack() as stack:
        data = DataDir(tmp_path)
        settings = Settings(poll_seconds=3600, watch=True, link=False)
        yield data, stack.enter_context(HotModel(tmp_path, "anomaly", runtime=ToyRuntime(), settings=settings))


def test_a_replaced_pointer_is_noticed_without_polling(sleepy: tuple[DataDir, HotModel]) -> None:
    data, model = sleepy
    one, two = (data.install(n, {"model.onnx": toy(n)}) for n in (1, 2))

    def first() -> bool:
        data.point("current", one, 1)  # repeated, as the watch may begin after the first time
        return model.ready

    wait_until(first, "version 1")
    data.point("current", two, 2, one)
    wait_until(lambda: model.predict({"X": X}).version == 2, "version 2")


def test_a_model_folder_that_comes_later_is_followed(tmp_path: Path) -> None:
    settings = Settings(poll_seconds=0.02, link=False)
    with HotModel(tmp_path / "later", "anomaly", runtime=ToyRuntime(), settings=settings) as model:
        with pytest.raises(NotServingError, match=r"no current\.json"):
            model.wait_ready(0.1)
        data = DataDir(tmp_path / "later")
        data.point("current", data.install(1, {"model.onnx": toy(1)}), 1)
        model.wait_ready(30)


def test_waiting_in_vain_says_what_stands_in_the_way(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"model.onnx": b"?"}), 1)
    with HotModel(tmp_path, "anomaly", runtime=ToyRuntime(), settings=POLLING) as model:
        wait_until(lambda: model.refusals, "the refusal")
        with pytest.raises(NotServingError, match=r"version 1 was refused: model\.onnx is not a toy"):
            model.wait_ready(0)


def test_inputs_may_be_lists_and_are_checked(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    installed = data.install(1, {"model.onnx": scaler(2)})
    data.point("current", installed, 1)
    with HotModel(tmp_path, "anomaly", settings=POLLING) as model:
        model.wait_ready(30)
        prediction = model.predict({"X": [[1, 2, 3]]}, ["y"])
        assert prediction.outputs["y"].tolist() == [[2, 4, 6]]
        assert (prediction.version, prediction.digest) == (1, installed.digest)
        for inputs, reason in (
            ({"Z": X}, "no input 'Z'"),
            ({}, "'X' .* is missing"),
            ({"X": X[0]}, r"shape \[3\]"),
            ({"X": X.astype(np.float64)}, "datatype FP64"),
            ({"X": "text"}, "can't be read as FP32"),
            ({"X": [[1], [1, 2]]}, "can't be read"),
        ):
            with pytest.raises(InputError, match=reason):
                model.predict(inputs)
        with pytest.raises(InputError, match="no output 'z'"):
            model.predict({"X": X}, ["z"])
        assert model.status()["errors"] == 0


def test_after_close_nothing_serves_and_closing_twice_is_fine(tmp_path: Path) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    data.point("current", data.install(1, {"model.onnx": toy(1)}), 1)
    model = HotModel(tmp_path, "anomaly", runtime=runtime, settings=POLLING).start()
    model.wait_ready(30)
    model.close()
    model.close()
    assert runtime.models[0].closed
    with pytest.raises(NotServingError):
        model.predict({"X": X})


def test_a_model_that_was_never_started_can_be_closed(tmp_path: Path) -> None:
    HotModel(tmp_path, "anomaly").close()


def test_odd_names_and_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model name"):
        HotModel(tmp_path, "../x")
    with pytest.raises(UsageError, match="positive"):
        Settings(threads=0)
