"""Which inputs and outputs an estimator has, and what becomes of one that another scikit-learn has pickled."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from modelsync_inference import HotModel, InputError, LoadedModel, ModelRefusedError, Settings, TensorSpec
from modelsync_inference.processes.code_runtime import CodeRuntime
from modelsync_inference.runtimes import sklearn_model
from modelsync_inference.runtimes.port import Stated, check_inputs
from tests.support.datadir import DataDir
from tests.support.waiting import wait_until

ALLOWED = Settings(
    poll_seconds=0.05, watch=False, link=False, load_seconds=60, run_seconds=60, allow_code=frozenset({"anomaly"})
)
X = np.array([[0.0, 1.0], [1.0, 0.0], [3.0, 3.0], [4.0, 5.0]])
WORDS = np.array(["cold", "cold", "warm", "warm"])


def load(path: Path, estimator: Any, stated: Stated | None = None) -> LoadedModel:
    """In this process: the tests' own estimators need no sandbox."""
    path.write_bytes(pickle.dumps(estimator))
    return sklearn_model.load(path, stated or Stated(), joblib=False)


def ask(model: LoadedModel, **inputs: object) -> dict[str, list[Any]]:
    answers = model.run(check_inputs(model.inputs, inputs), [spec.name for spec in model.outputs])
    return {name: array.tolist() for name, array in answers.items()}


@pytest.mark.parametrize(
    ("estimator", "outputs"),
    [
        (
            LogisticRegression().fit(X, [0, 0, 1, 1]),
            {"predict": ("INT64", (-1,)), "predict_proba": ("FP64", (-1, 2)), "decision_function": ("FP64", (-1,))},
        ),
        (LinearSVC().fit(X, WORDS), {"predict": ("BYTES", (-1,)), "decision_function": ("FP64", (-1,))}),
        (LinearRegression().fit(X, X), {"predict": ("FP64", (-1, 2))}),
        (KMeans(n_clusters=2, n_init=1).fit(X), {"predict": ("INT32", (-1,))}),
        (
            IsolationForest(n_estimators=4, random_state=0).fit(X),
            {"predict": ("INT64", (-1,)), "decision_function": ("FP64", (-1,)), "score_samples": ("FP64", (-1,))},
        ),
        (StandardScaler().fit(X), {"transform": ("FP64", (-1, 2))}),
    ],
)
def test_inputs_and_outputs_are_read_off_the_estimator(
    tmp_path: Path, estimator: Any, outputs: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    model = load(tmp_path / "model.pkl", estimator)
    assert model.inputs == (TensorSpec("X", "FP64", (-1, 2)),)
    assert {spec.name: (spec.datatype, spec.shape) for spec in model.outputs} == outputs
    first = next(iter(outputs))
    assert ask(model, X=X)[first] == np.asarray(getattr(estimator, first)(X)).tolist()


def test_what_is_stated_names_and_types_them(tmp_path: Path) -> None:
    stated = Stated(
        (TensorSpec("rows", "FP32", (-1, 2)),),
        (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
    )
    model = load(tmp_path / "model.pkl", LogisticRegression().fit(X, [0, 0, 1, 1]), stated)
    assert (model.inputs, tuple(model.outputs)) == (stated.inputs, stated.outputs)
    assert ask(model, rows=X.astype(np.float32))["label"] == [0, 0, 1, 1]


def test_several_inputs_are_the_columns_in_their_order(tmp_path: Path) -> None:
    stated = Stated((TensorSpec("a", "FP64", (-1,)), TensorSpec("b", "FP64", (-1, 1))))
    model = load(tmp_path / "model.pkl", LinearRegression().fit(X, X @ [1.0, 100.0]), stated)
    (answer,) = ask(model, a=[2.0], b=[[3.0]])["predict"]
    assert answer == pytest.approx(302)
    with pytest.raises(InputError, match="different numbers of rows"):
        ask(model, a=[2.0], b=[[3.0], [4.0]])


def test_text_goes_in_and_labels_come_out(tmp_path: Path) -> None:
    texts = ["ice snow", "snow wind", "sun sand", "sand sea"]
    estimator = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, WORDS)
    with pytest.raises(ModelRefusedError, match="does not say how many features it takes; state its inputs"):
        load(tmp_path / "model.pkl", estimator)
    model = load(tmp_path / "model.pkl", estimator, Stated((TensorSpec("text", "BYTES", (-1,)),)))
    assert ask(model, text=["snow", "sea"])["predict"] == ["cold", "warm"]


@pytest.mark.parametrize(
    ("estimator", "stated", "reason"),
    [
        ({"no": "estimator"}, Stated(), "holds a dict, which has none of the methods predict"),
        (
            LinearRegression().fit(X, X),
            Stated((TensorSpec("X", "FP32", (-1, 7)),)),
            "takes 2 features; the inputs that are stated have 7",
        ),
        (
            LinearRegression().fit(X, X),
            Stated(outputs=(TensorSpec("probabilities", "FP32", None),)),
            "has no output 'probabilities'; it has predict",
        ),
    ],
)
def test_what_can_not_serve_is_refused_and_says_why(
    tmp_path: Path, estimator: Any, stated: Stated, reason: str
) -> None:
    with pytest.raises(ModelRefusedError, match=reason):
        load(tmp_path / "model.pkl", estimator, stated)


def test_a_value_that_the_estimator_refuses_is_the_callers_fault(tmp_path: Path) -> None:
    model = load(tmp_path / "model.pkl", LinearRegression().fit(X, X))
    with pytest.raises(InputError, match="predict refuses these inputs: ValueError: Input X contains NaN"):
        ask(model, X=[[float("nan"), 1.0]])


def from_another_version(data: bytes) -> bytes:
    ours = sklearn.__version__.encode()
    assert ours in data
    return data.replace(ours, b"1.0.2"[: len(ours)].ljust(len(ours), b"0"))


def tensor(array: Any, datatype: str) -> dict[str, Any]:
    return {"shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def test_a_pickle_of_another_version_serves_if_its_probe_proves_it_with_its_onnx_forms_names(tmp_path: Path) -> None:
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, [0, 0, 1, 1])
    outputs = {
        "label": tensor(estimator.predict(X), "INT64"),
        "probabilities": tensor(estimator.predict_proba(X), "FP32"),
    }
    case = {"inputs": {"X": tensor(X, "FP32")}, "outputs": outputs}
    probe = {"format": 1, "cases": [case], "tolerance": {"absolute": "0.001"}}
    data = DataDir(tmp_path)
    pickled = from_another_version(pickle.dumps(estimator))
    data.point("current", data.install(1, {"model.pkl": pickled}, probe), 1)
    with HotModel(tmp_path, "anomaly", settings=ALLOWED) as model:
        model.wait_ready(60)
        answer = model.predict({"X": X.astype(np.float32)})
        assert answer.outputs["label"].tolist() == [0, 0, 1, 1]
        assert sorted(answer.outputs) == ["label", "probabilities"]
        assert "seccomp" in model.status()["confined_by"]


def test_a_pickle_of_another_version_without_a_proof_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump(LinearRegression().fit(X, X), path)
    path.write_bytes(from_another_version(path.read_bytes()))
    runtime = CodeRuntime("anomaly")
    with pytest.raises(ModelRefusedError, match=r"pickled with scikit-learn 1\.0\.2, and this device has \d.*probe"):
        runtime.load(path)
    runtime.close()


@pytest.mark.parametrize("name", ["model.pkl", "score.py"])
def test_code_that_the_device_does_not_allow_is_refused_and_the_setting_named(tmp_path: Path, name: str) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {name: b"\x80\x04N."}), 1)
    with HotModel(tmp_path, "anomaly", settings=Settings(watch=False, link=False)) as model:
        wait_until(lambda: model.status()["current"], "an outcome")
        assert "--allow-code anomaly" in model.status()["current"]["reason"]
        assert model.status()["confined_by"] is None
