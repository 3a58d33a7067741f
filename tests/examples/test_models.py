"""The committed models are what examples/README.md says, and training makes their equals again."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest

from examples.anomaly import readings
from examples.anomaly import train as anomaly
from examples.digits import export, network
from examples.digits import train as digits
from tests.examples.probing import load, passes

EXAMPLES = Path(anomaly.__file__).parent.parent
STORIES = {"camera", "mine"}
"""Examples whose own tests look at their models: versions that differ by less than a probe tells."""
MODELS = sorted(path for path in EXAMPLES.glob("*/**/model.onnx") if path.relative_to(EXAMPLES).parts[0] not in STORIES)
BROKEN = [path for path in MODELS if path.parent.name == "v3"]
RIGHT = [path for path in MODELS if path not in BROKEN]


def name(path: Path) -> str:
    return str(path.parent.relative_to(EXAMPLES))


def test_every_model_that_the_readme_names_is_there() -> None:
    expected = {f"anomaly/v{v}" for v in (1, 2)}
    expected |= {f"digits/{form}/v{v}" for form in digits.FORMS for v in (1, 2, 3)}
    assert {name(path) for path in MODELS} == expected
    readme = (EXAMPLES / "README.md").read_text()
    assert all(f"{path.stat().st_size:,}" in readme for path in MODELS)
    weights = network.initial(np.random.default_rng(0))
    assert f"{sum(weight.size for weight in weights.values()):,} weights" in readme


def test_committed_outputs_are_small() -> None:
    outputs = [p for path in MODELS for p in path.parent.iterdir()]
    assert sum(path.stat().st_size for path in outputs) <= 4_000_000


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_model_stays_within_what_onnx_runtime_1_21_loads(path: Path) -> None:
    model = onnx.load(path)
    assert model.ir_version <= 10
    assert {entry.domain: entry.version for entry in model.opset_import}[""] <= 17
    assert len({entry.domain for entry in model.opset_import}) == len(model.opset_import)


@pytest.mark.parametrize("path", RIGHT, ids=name)
def test_right_model_passes_its_probe(path: Path) -> None:
    assert passes(path, path.parent / "probe.json")


@pytest.mark.parametrize("path", BROKEN, ids=name)
def test_broken_model_loads_and_fails_its_probe(path: Path) -> None:
    load(path)
    assert not passes(path, path.parent / "probe.json")


@pytest.mark.parametrize("path", RIGHT, ids=name)
def test_probe_tells_a_version_from_the_other(path: Path) -> None:
    other = path.parent.parent / ("v1" if path.parent.name == "v2" else "v2") / "probe.json"
    assert not passes(path, other)


@pytest.mark.parametrize("version", [1, 2])
def test_anomaly_detector_finds_faults(version: int) -> None:
    windows = anomaly.test_windows()
    samples = readings.features(windows.readings)
    (labels,) = load(EXAMPLES / f"anomaly/v{version}/model.onnx").run(["label"], {"X": samples})
    assert np.mean(labels == windows.faulty) >= 0.99


@pytest.mark.parametrize("version", [1, 2])
def test_pickle_is_the_6_kb_of_the_story_and_answers_as_its_onnx_form(version: int) -> None:
    folder = EXAMPLES / f"anomaly/v{version}"
    assert 5_000 <= (folder / "model.pkl").stat().st_size <= 6_500
    model = pickle.loads((folder / "model.pkl").read_bytes())
    samples = readings.features(anomaly.test_windows().readings)
    (probabilities,) = load(folder / "model.onnx").run(["probabilities"], {"X": samples})
    assert np.allclose(model.predict_proba(samples), probabilities, atol=1e-4)


@pytest.mark.parametrize(("version", "least"), [(1, 0.96), (2, 0.97)])
@pytest.mark.parametrize("form", digits.FORMS)
def test_digits_network_reads_digits(form: str, version: int, least: float) -> None:
    _, test = digits.data()
    session = load(EXAMPLES / f"digits/{form}/v{version}/model.onnx")
    (labels,) = session.run(["label"], {"image": test.images})
    assert np.mean(labels == test.labels) >= least


def test_fine_tuning_moved_nearly_every_weight_and_none_far() -> None:
    first, second = (
        {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
        for path in (EXAMPLES / f"digits/float32/v{v}/model.onnx" for v in (1, 2))
    )
    for key in (f"{layer}.weight" for layer in network.SHAPES):
        moved = np.abs(second[key] - first[key])
        assert np.mean(moved > 0) > 0.99
        assert 0 < np.sqrt(np.mean(moved**2)) < 0.02 * np.sqrt(np.mean(first[key] ** 2))


def test_int8_steps_are_within_half_a_step_of_the_weights() -> None:
    weight = np.random.default_rng(1).normal(size=(10, 7)).astype(np.float32)
    steps, scale = export.quantise(weight)
    assert np.all(np.abs(steps * scale[:, None] - weight) <= scale[:, None] * 0.501)


def test_gradients_agree_with_finite_differences() -> None:
    rng = np.random.default_rng(3)
    weights = network.initial(rng)
    images = rng.uniform(0, 1, (4, 1, 8, 8)).astype(np.float32)
    labels = np.arange(4)

    def loss(name: str, step: network.Array) -> float:
        logits = network.logits(weights | {name: weights[name] + step}, images).astype(np.float64)
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), labels]))

    for key, gradient in network.gradients(weights, images, labels).items():
        step = (1e-2 * gradient / np.linalg.norm(gradient)).astype(np.float32)
        slope = (loss(key, step) - loss(key, -step)) / 2e-2
        assert slope == pytest.approx(np.linalg.norm(gradient), rel=0.05), key


def test_training_the_anomaly_detector_again_gives_its_equal(tmp_path: Path) -> None:
    for version in anomaly.BATCHES:
        assert anomaly.write(version, tmp_path) >= 0.99
        check_equals(tmp_path, EXAMPLES / "anomaly", f"v{version}", ["model.onnx", "model.pkl"])


@pytest.mark.long
def test_training_the_digits_network_again_gives_its_equal(tmp_path: Path) -> None:
    training, test = digits.data()
    first = digits.train(training)
    second = digits.fine_tune(first, training)
    assert digits.accuracy(first, test) >= 0.96
    assert digits.accuracy(second, test) >= 0.97
    digits.write({1: first, 2: second, 3: digits.break_last_layer(second)}, test, tmp_path)
    for form in digits.FORMS:
        for version in (1, 2, 3):
            check_equals(tmp_path, EXAMPLES / "digits", f"{form}/v{version}", ["model.onnx"])
        assert not passes(tmp_path / form / "v3/model.onnx", tmp_path / form / "v3/probe.json")


def check_equals(made: Path, committed: Path, folder: str, files: list[str]) -> None:
    """Equal sizes; not equal bytes: another CPU's sums may round otherwise."""
    for file in files:
        new, old = (root / folder / file for root in (made, committed))
        assert new.stat().st_size == pytest.approx(old.stat().st_size, abs=16)
