"""What the probe accepts, and what it says when it doesn't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelsync_inference import LoadedModel, ModelRefusedError
from modelsync_inference.model.probe import Tolerance, difference, parse_probe, run_probe
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from tests.support.tiny_models import picky, scaler, scaler_probe


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    (tmp_path / "model.onnx").write_bytes(scaler(2))
    return OnnxRuntime().load(tmp_path / "model.onnx")


def check(model: LoadedModel, document: Any) -> None:
    run_probe(model, parse_probe(json.dumps(document).encode()))


def test_what_was_recorded_passes(model: LoadedModel) -> None:
    check(model, scaler_probe(2))


@pytest.mark.parametrize(("factor", "passes"), [(2.001, True), (2.01, False)])
def test_the_tolerance_is_kept(model: LoadedModel, factor: float, passes: bool) -> None:
    if passes:
        check(model, scaler_probe(factor))
    else:
        with pytest.raises(ModelRefusedError, match="output 'y' differs"):
            check(model, scaler_probe(factor))


def test_without_a_tolerance_the_match_is_exact(model: LoadedModel) -> None:
    probe = scaler_probe(2)
    del probe["tolerance"]
    check(model, probe)
    probe = scaler_probe(2.000001)
    del probe["tolerance"]
    with pytest.raises(ModelRefusedError, match="differs"):
        check(model, probe)


def test_a_case_without_outputs_only_has_to_run(model: LoadedModel, tmp_path: Path) -> None:
    probe = scaler_probe(2)
    del probe["cases"][0]["outputs"]
    check(model, probe)
    (tmp_path / "picky.onnx").write_bytes(picky())
    with pytest.raises(ModelRefusedError, match="probe case 1 of 1 does not run"):
        check(
            OnnxRuntime().load(tmp_path / "picky.onnx"),
            {"format": 1, "cases": [{"inputs": {"index": {"shape": [1], "datatype": "INT64", "data": [9]}}}]},
        )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inputs": {}}, "input 'X' .* is missing"),
        ({"inputs": {"Z": {"shape": [1], "datatype": "FP32", "data": [1]}}}, "no input 'Z'"),
        ({"inputs": {"X": {"shape": [3], "datatype": "FP32", "data": [1, 2, 3]}}}, r"shape \[3\]"),
        ({"inputs": {"X": {"shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}}}, "datatype FP64"),
        ({"inputs": {"X": {"shape": [1, 3], "datatype": "FP32", "data": [1]}}}, "holds 1"),
        ({"inputs": {"X": 5}}, "not an object"),
        ({"outputs": {"z": {"shape": [1], "datatype": "FP32", "data": [1]}}}, "no output 'z'"),
        ({"outputs": {"tag": {"shape": [1], "datatype": "FP32", "data": [2]}}}, "INT64 where FP32"),
        ({"outputs": {"tag": {"shape": [1, 1], "datatype": "INT64", "data": [2]}}}, "'tag' has shape"),
        ({"outputs": {"tag": {"shape": [1], "datatype": "INT64", "data": [7]}}}, "is 2 where 7 was recorded"),
    ],
)
def test_a_misfit_is_refused_by_name(model: LoadedModel, change: dict[str, Any], reason: str) -> None:
    probe = scaler_probe(2)
    probe["cases"][0] |= change
    with pytest.raises(ModelRefusedError, match=reason):
        check(model, probe)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"format":2,"cases":[]}',
        b'{"format":1}',
        b'{"format":1,"cases":[5]}',
        b'{"format":1,"cases":[{"inputs":{},"outputs":5}]}',
        b'{"format":1,"cases":[],"tolerance":5}',
        b'{"format":1,"cases":[],"tolerance":{"absolute":0.1}}',
        b'{"format":1,"cases":[],"tolerance":{"absolute":"-1"}}',
        b'{"format":1,"cases":[],"tolerance":{"relative":"NaN"}}',
        b"[" * 100_000,
    ],
)
def test_a_probe_file_of_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(ModelRefusedError, match="probe"):
        parse_probe(data)


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ([np.nan], [np.nan], True),
        ([np.nan], [1.0], False),
        ([np.inf], [np.inf], True),
        ([np.inf], [-np.inf], False),
        ([1.0], [np.nan], False),
        ([100.0], [100.05], True),
        ([0.0], [0.0011], False),
    ],
)
def test_special_values_compare_as_one_expects(expected: list[float], actual: list[float], same: bool) -> None:
    found = difference(np.array(expected), np.array(actual), Tolerance(0.001, 0.001))
    assert (found is None) is same


def test_large_integers_compare_exactly() -> None:
    assert difference(np.array([2**62]), np.array([2**62 + 1]), Tolerance()) is not None
    assert difference(np.array([2**62]), np.array([2**62]), Tolerance()) is None


def test_texts_compare_whether_str_or_bytes() -> None:
    recorded = np.array(["a", "b"], dtype=np.object_)
    assert difference(recorded, np.array([b"a", "b"], dtype=np.object_), Tolerance()) is None
    assert "at [1]" in str(difference(recorded, np.array(["a", "c"], dtype=np.object_), Tolerance()))
