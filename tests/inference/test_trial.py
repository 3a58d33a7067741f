"""Canary and shadow: shares of the requests, agreement, and what follows from them."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from modelsync_inference import HotModel, Label, RunError, Settings, TrialRules
from modelsync_inference.errors import ModelRefusedError, UnknownError
from modelsync_inference.model.trial import Trial, agreement
from modelsync_protocol.errors import UsageError
from tests.support.datadir import DataDir
from tests.support.toy_runtime import ToyRuntime, toy
from tests.support.waiting import wait_until

X = {"X": [[1, 2, 3]]}


def settings(**rules: float) -> Settings:
    return Settings(poll_seconds=0.02, watch=False, link=False, trials=TrialRules(**rules))


def start(tmp_path: Path, rules: Settings, kind: str = "candidate") -> tuple[HotModel, ToyRuntime, DataDir]:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    one, two = (data.install(n, {"model.onnx": toy(n)}) for n in (1, 2))
    data.point("current", one, 1)
    model = HotModel(tmp_path, "anomaly", runtime=runtime, settings=rules).start()
    model.wait_ready(10)
    data.point(kind, two, 2, one)
    wait_until(lambda: (model.status()[kind] or {}).get("state") == "deferred", "the trial")
    return model, runtime, data


def test_a_canary_answers_its_share_and_then_the_version_is_ready(tmp_path: Path) -> None:
    model, _, data = start(tmp_path, settings(canary=0.25, seconds=0.5))
    predictions = [model.predict(X) for _ in range(20)]
    assert Counter((p.version, p.label) for p in predictions) == {(1, Label.STABLE): 15, (2, Label.CANARY): 5}
    assert model.reports()[0]["trial"]["canary"] == {"requests": 5, "errors": 0}
    wait_until(lambda: model.status()["candidate"]["state"] == "ready", "the end of the trial")
    data.point("current", data.install(2, {"model.onnx": toy(2)}), 2)
    data.remove_candidate()
    wait_until(lambda: {model.predict(X).version for _ in range(8)} == {2}, "version 2")
    model.close()


def test_without_a_daemon_the_new_current_version_is_on_trial(tmp_path: Path) -> None:
    model, runtime, _ = start(tmp_path, settings(canary=0.5, seconds=0.3), "current")
    assert {model.predict(X).version for _ in range(4)} == {1, 2}
    wait_until(lambda: model.status()["current"]["state"] == "serving", "the switch")
    assert runtime.loads == [1, 2]
    model.close()


def test_a_canary_that_breaks_is_refused_at_once(tmp_path: Path) -> None:
    model, runtime, _ = start(tmp_path, settings(canary=0.5, seconds=600))
    runtime.models[1].broken = True
    failures = 0
    for _ in range(6):
        try:
            model.predict(X)
        except RunError:
            failures += 1
    assert failures == 3
    wait_until(lambda: model.status()["candidate"]["state"] == "refused", "the refusal")
    assert model.status()["candidate"]["reason"] == "as canary it failed in 3 of 3 requests."
    assert {model.predict(X).version for _ in range(8)} == {1}
    wait_until(lambda: runtime.models[1].closed, "the canary to be freed")
    model.close()


def test_a_shadow_is_compared_and_never_answers(tmp_path: Path) -> None:
    model, runtime, _ = start(tmp_path, settings(shadow=1, seconds=0.5, min_agreement=0.9))
    assert {model.predict(X).version for _ in range(20)} == {1}
    wait_until(lambda: model.status()["candidate"]["state"] == "refused", "the refusal")
    # y = X and y = 2X have their largest value in the same place, the tag differs: one row of two agrees.
    assert "as shadow it agreed with the version that serves in" in model.status()["candidate"]["reason"]
    wait_until(lambda: runtime.models[1].closed, "the shadow to be freed")
    assert model.predict(X).version == 1
    model.close()


def test_shadow_statistics_are_kept() -> None:
    trial = Trial(TrialRules(shadow=0.5, seconds=0))
    answers = {"y": np.array([[0.1, 0.9]], dtype=np.float32)}
    for shadow in ({"y": np.array([[0.3, 0.4]], dtype=np.float32)}, {"y": np.array([[4, 1]], dtype=np.float32)}, None):
        assert not trial.takes_shadow()
        assert trial.takes_shadow()
        trial.end_shadow(answers, shadow)
    assert trial.statistics()["shadow"] == {"requests": 3, "errors": 1, "skipped": 0, "rows": 2, "agreed": 1}
    assert not trial.goes_on()


def test_too_little_agreement_refuses() -> None:
    trial = Trial(TrialRules(shadow=1, seconds=0, min_agreement=0.6))
    assert trial.takes_shadow()
    trial.end_shadow({"label": np.array([1, 2])}, {"label": np.array([1, 3])})
    with pytest.raises(ModelRefusedError, match=r"in 1 of 2 rows; 0\.6 of them"):
        trial.goes_on()


@pytest.mark.parametrize(
    ("expected", "actual", "rows"),
    [
        (np.array([1.0, 2.0]), np.array([1.001, 3.0]), (1, 2)),
        (np.array([[1.0], [np.nan]]), np.array([[1.0], [np.nan]]), (2, 2)),
        (np.array(["a", "b"], dtype=np.object_), np.array(["a", "c"], dtype=np.object_), (1, 2)),
        (np.array([1, 2]), np.array([1, 2, 3]), (0, 2)),
        (np.array([1]), np.array([1.0]), (0, 1)),
    ],
)
def test_agreement_is_by_row(
    expected: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    actual: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    rows: tuple[int, int],
) -> None:
    assert agreement(expected, actual) == rows


def test_shares_beyond_one_are_refused() -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        TrialRules(canary=1.5)


def test_an_application_may_ask_for_a_label(tmp_path: Path) -> None:
    model, _, data = start(tmp_path, settings(canary=0.01, shadow=0.01, seconds=600))
    assert model.labels == {Label.STABLE: 1, Label.CANARY: 2, Label.SHADOW: 2}
    for label, version in model.labels.items():
        prediction = model.predict(X, label=label)
        assert (prediction.label, prediction.version) == (label, version)
        assert (prediction.outputs["y"] == [[version, 2 * version, 3 * version]]).all()
    with model.lease(version=2) as canary, model.lease(version=1) as stable:
        assert (canary.label, stable.label) == (Label.CANARY, Label.STABLE)
    # What is asked for as a shadow says nothing about how it would do as a canary.
    assert model.status()["trial"]["canary"] == {"requests": 1, "errors": 0}
    data.remove_candidate()
    wait_until(lambda: model.labels == {Label.STABLE: 1}, "the end of the trial")
    with pytest.raises(UnknownError, match="no version is on trial as canary"):
        model.predict(X, label=Label.CANARY)
    with pytest.raises(UnknownError, match="version '2' does not serve; version 1 does"):
        model.lease(version=2)
    model.close()


def test_the_verdict_is_reported_with_its_numbers(tmp_path: Path) -> None:
    model, runtime, _ = start(tmp_path, settings(canary=0.5, seconds=600))
    runtime.models[1].broken = True
    for _ in range(8):
        with contextlib.suppress(RunError):
            model.predict(X)
    wait_until(lambda: model.status()["candidate"]["state"] == "refused", "the refusal")
    report = next(report for report in model.reports() if report["pointer"] == "candidate")
    assert report["state"] == "refused"
    assert report["trial"]["canary"]["errors"] >= 3
    assert next(report for report in model.reports() if report["pointer"] == "current")["trial"] is None
    model.close()
