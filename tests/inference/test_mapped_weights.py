"""Weights laid out for mapping: the same answers, the artifact untouched, and no copy that outlives its model."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest

from modelsync_inference import ModelRefusedError
from modelsync_inference.processes.process_model import Limits
from modelsync_inference.processes.process_runtime import ProcessRuntime
from modelsync_inference.runtimes.mapped_weights import mapped
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from modelsync_inference.runtimes.onnx_sessions import Choice
from tests.support.tiny_models import heavy, scaler

SIDE = 512


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(heavy(1, side=SIDE, layers=2))
    return path


def test_a_mapped_model_answers_as_the_artifact_does_and_leaves_it_as_it_is(tmp_path: Path, model: Path) -> None:
    before = model.read_bytes()
    light = mapped(model, tmp_path / "cache")
    assert light is not None
    assert light.stat().st_size < 1000
    assert model.read_bytes() == before
    x = {"X": np.random.default_rng(1).random((2, SIDE), dtype=np.float32)}
    plain, quick = (OnnxRuntime(Choice(cache=cache)).load(model) for cache in (None, tmp_path / "cache"))
    name = plain.outputs[0].name
    assert np.allclose(plain.run(x, [name])[name], quick.run(x, [name])[name], rtol=1e-5)


def test_the_layout_is_the_one_of_the_onnx_package(tmp_path: Path, model: Path) -> None:
    light = mapped(model, tmp_path / "cache")
    assert light is not None
    restored, original = onnx.load(light), onnx.load(model)
    for tensor, other in zip(restored.graph.initializer, original.graph.initializer, strict=True):
        assert (onnx.numpy_helper.to_array(tensor) == onnx.numpy_helper.to_array(other)).all()


def test_a_layout_is_made_once_and_goes_with_its_model(tmp_path: Path, model: Path) -> None:
    cache = tmp_path / "cache"
    light = mapped(model, cache)
    assert light is not None
    made = light.stat().st_mtime_ns
    assert mapped(model, cache) == light
    assert light.stat().st_mtime_ns == made
    (cache / ".new-999999999-00").mkdir()
    model.unlink()
    model.write_bytes(heavy(2, side=SIDE, layers=2))
    other = tmp_path / "other.onnx"
    model.rename(other)
    again = mapped(other, cache)
    assert again is not None
    assert [path.name for path in cache.iterdir()] == [again.parent.name]


@pytest.mark.parametrize(
    "data",
    [scaler(1), b"", heavy(1, side=SIDE, layers=2)[:-100], b"\xff" * (2 << 20), random.Random(1).randbytes(2 << 20)],
)
def test_what_has_nothing_to_map_or_is_damaged_is_loaded_as_it_is(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert mapped(path, tmp_path / "cache") is None
    if data != scaler(1):
        with pytest.raises(ModelRefusedError):
            OnnxRuntime(Choice(cache=tmp_path / "cache")).load(path)


def test_a_cache_that_can_not_be_written_costs_no_load(tmp_path: Path, model: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    loaded = OnnxRuntime(Choice(cache=tmp_path / "cache")).load(model)
    assert loaded.inputs[0].name == "X"


def test_neither_does_one_that_can_not_be_made_to_a_worker(tmp_path: Path, model: Path) -> None:
    """As where the data directory is mounted read-only, or its disk is full."""
    (tmp_path / "inference").write_bytes(b"a file where the folder should be")
    runtime = ProcessRuntime(Choice(cache=tmp_path / "inference" / "anomaly"), limits=Limits(20, 10))
    try:
        loaded = runtime.load(model)
        assert loaded.inputs[0].name == "X"
        loaded.close()
    finally:
        runtime.close()
