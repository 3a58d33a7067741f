"""Message bodies to tensors and back: each form that a message may have, and the sentence for each that it may not."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsync_inference.edge import messages
from modelsync_inference.edge.rules import parse_fields
from modelsync_inference.edge.sampling import Record, Sample
from modelsync_inference.errors import InputError
from modelsync_inference.runtimes.port import TensorSpec, check_inputs
from modelsync_protocol.errors import UsageError

ONE = (TensorSpec("X", "FP32", (-1, 3)),)
TWO = (TensorSpec("temperature", "FP32", (-1, 1)), TensorSpec("state", "BYTES", (-1, 1)))
VECTOR = (TensorSpec("X", "INT64", (-1,)),)
FREE = (TensorSpec("X", "FP64", None),)


def parsed(body: Any, specs: Any = ONE, *fields: str) -> tuple[dict[str, Any], bool]:
    found = messages.parse(json.dumps(body).encode(), specs, parse_fields(fields))
    return {name: array.tolist() for name, array in check_inputs(specs, found.inputs).items()}, found.single


@pytest.mark.parametrize(
    ("body", "specs", "fields", "inputs", "single"),
    [
        ({"X": [1, 2, 3], "more": None}, ONE, (), {"X": [[1, 2, 3]]}, True),
        ({"X": [[1, 2, 3], [4, 5, 6]]}, ONE, (), {"X": [[1, 2, 3], [4, 5, 6]]}, False),
        ([1, 2, 3], ONE, (), {"X": [[1, 2, 3]]}, True),
        ([[1, 2, 3]], ONE, (), {"X": [[1, 2, 3]]}, False),
        ({"a": 1, "b": {"c": 2}, "b.d": 3}, ONE, ("a,b.c,b.d",), {"X": [[1, 2, 3]]}, True),
        ({"a": 1, "b": 2, "c": 3}, ONE, ("X=c, b ,a",), {"X": [[3, 2, 1]]}, True),
        ([{"a": 1, "b": 2, "c": 3}, {"a": 4, "b": 5, "c": 6}], ONE, ("a,b,c",), {"X": [[1, 2, 3], [4, 5, 6]]}, False),
        ({"temperature": 21, "state": "on"}, TWO, (), {"temperature": [[21]], "state": [["on"]]}, True),
        (
            [{"temperature": 21, "state": "on"}, {"temperature": 22, "state": "off"}],
            TWO,
            (),
            {"temperature": [[21], [22]], "state": [["on"], ["off"]]},
            False,
        ),
        ({"t": 21, "s": "on"}, TWO, ("temperature=t", "state=s"), {"temperature": [[21]], "state": [["on"]]}, True),
        ({"X": 7}, VECTOR, (), {"X": [7]}, True),
        ({"X": [7, 8]}, VECTOR, (), {"X": [7, 8]}, False),
        ({"X": [[1.5]]}, FREE, (), {"X": [[1.5]]}, False),
        (
            {"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]},
            ONE,
            (),
            {"X": [[1, 2, 3]]},
            False,
        ),
    ],
)
def test_every_form_becomes_the_models_tensors(
    body: Any, specs: Any, fields: tuple[str, ...], inputs: Any, single: bool
) -> None:
    assert parsed(body, specs, *fields) == (inputs, single)


@pytest.mark.parametrize(
    ("body", "specs", "fields", "sentence"),
    [
        (7, ONE, (), "neither a JSON object nor an array"),
        ({}, ONE, (), "no field 'X'"),
        ({"a": 1, "b": 2}, ONE, ("a,b,c",), "no field 'c'"),
        ({"a": {"b": 1}}, ONE, ("a.c",), r"no field 'a\.c'"),
        ({"X": None}, ONE, (), "may hold numbers only"),
        ({"X": ["1", "2", "3"]}, ONE, (), "may hold numbers only"),
        ({"X": [1, 2]}, ONE, (), r"has shape \[1, 2\]; the model wants \[-1, 3\]"),
        ({"X": [[1, 2, 3], [4, 5]]}, ONE, (), "not a regular list|holds"),
        ({"X": []}, ONE, (), "holds no values for input 'X'"),
        ([], ONE, (), "holds no values"),
        ({"X": 1.5}, VECTOR, (), "may hold integers"),
        ([1, 2], TWO, (), "is an array, and the model has several inputs: temperature, state"),
        ({"a": 1}, TWO, ("a",), "several inputs .*; --edge-fields has to name them"),
        ({"inputs": [{"name": "Y", "shape": [1], "datatype": "FP32", "data": [1]}]}, ONE, (), "has no input 'Y'"),
    ],
)
def test_a_message_that_does_not_fit_is_refused_with_a_sentence(
    body: Any, specs: Any, fields: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        parsed(body, specs, *fields)


@settings(max_examples=50)
@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["X", "inputs", "a", "name", "shape"]), inner),
).map(lambda document: json.dumps(document).encode()))  # fmt: skip
def test_no_body_does_worse_than_to_be_refused(body: bytes) -> None:
    for specs in (ONE, TWO, VECTOR, FREE):
        try:
            found = messages.parse(body, specs, {})
            check_inputs(specs, found.inputs)
        except InputError:
            continue
        assert set(found.inputs) == {spec.name for spec in specs}


def body_of(single: bool, **outputs: Any) -> Any:
    sample = Sample(Record((1, "d"), {name: np.asarray(value) for name, value in outputs.items()}))
    return json.loads(messages.answer("m", 1, "d", sample, single=single))["outputs"]


def test_answers_have_a_batch_axis_only_if_the_message_had() -> None:
    rows = {"y": np.array([[0.1, 2]], dtype=np.float32), "label": np.array([1], dtype=np.int64), "all": np.ones((2, 2))}
    assert body_of(True, **rows) == {"y": [0.1, 2.0], "label": 1, "all": [[1.0, 1.0], [1.0, 1.0]]}
    assert body_of(False, **rows) == {"y": [[0.1, 2.0]], "label": [1], "all": [[1.0, 1.0], [1.0, 1.0]]}


def test_answers_are_json_for_every_value() -> None:
    values = np.array([math.nan, math.inf, -math.inf, 1e300])
    assert body_of(False, y=values) == {"y": [None, None, None, 1e300]}
    assert body_of(True, y=np.array(["ü", b"\xff"], dtype=object), b=np.array([True]), s=np.array(["one"])) == {
        "y": ["ü", "\ufffd"],
        "b": True,
        "s": "one",
    }
    assert body_of(True, y=np.float64(3.5)) == {"y": 3.5}


@settings(max_examples=50)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_single_precision_is_written_with_few_digits_and_read_back_unchanged(value: float) -> None:
    text = json.dumps(body_of(True, y=np.array([value], dtype=np.float32))["y"])
    assert np.float32(json.loads(text)) == np.float32(value) and len(text) <= len(json.dumps(value))


def test_a_mean_says_of_how_many() -> None:
    sample = Sample(Record((1, "d"), {"y": np.array([0.5])}, {"X": np.array([[1.0]])}), 60, True, 59.0004)
    assert json.loads(messages.answer("m", 1, "d", sample, single=True)) == {
        "model": "m",
        "version": 1,
        "digest": "d",
        "outputs": {"y": 0.5},
        "inputs": {"X": [1.0]},
        "mean_of": {"messages": 60, "seconds": 59.0},
    }


@pytest.mark.parametrize("texts", [["a,,b"], [""], ["X="], ["X=a", "X=b"], ["a", "X=b"]])
def test_field_lists_that_make_no_sense_are_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="--edge-fields"):
        parse_fields(texts)
