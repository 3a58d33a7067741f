"""Down-sampling: how many go on, that means are exact, and that nothing grows with the number of messages."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsync_inference.edge import rules, sampling
from modelsync_inference.edge.sampling import Record, Sample, Sampler
from modelsync_inference.errors import InputError
from modelsync_protocol.errors import UsageError

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SINGLE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def sampler(text: str) -> Sampler:
    return sampling.make(rules.parse_sample(text))


def record(value: Any, key: object = 1, name: str = "y", context: object = None) -> Record:
    return Record(key, {name: np.asarray(value)}, {}, context)


def run(used: Sampler, records: Sequence[Record], times: Sequence[float] | None = None) -> list[Sample]:
    moments = range(len(records)) if times is None else times
    return [sample for each, now in zip(records, moments, strict=True) for sample in used.offer(each, now)]


def first(sample: Sample) -> float:
    return float(sample.record.outputs["y"].ravel()[0])


@settings(max_examples=50)
@given(st.lists(FINITE, max_size=200), st.integers(1, 50))
def test_every_passes_each_nth_unchanged(values: list[float], n: int) -> None:
    records = [record(value) for value in values]
    samples = run(sampler(f"every:{n}"), records)
    assert [id(sample.record) for sample in samples] == [id(each) for each in records[n - 1 :: n]]
    assert all(sample.count == n and not sample.mean for sample in samples)


@settings(max_examples=50)
@given(st.lists(FINITE, min_size=1, max_size=200), st.floats(0, 1e6))
def test_change_passes_the_first_and_then_what_left_the_band_around_the_last_that_passed(
    values: list[float], band: float
) -> None:
    samples = run(sampler(f"change:{band}"), [record(value, context=number) for number, value in enumerate(values)])
    expected, last = [], None
    for number, value in enumerate(values):
        if last is None or abs(value - last) > band:
            expected.append(number)
            last = value
    assert [sample.record.context for sample in samples] == expected
    assert sum(sample.count for sample in samples) <= len(values)


def test_bands_by_name_leave_other_outputs_alone_and_must_name_outputs() -> None:
    used = sampler("change:score=0.5,y=0")
    records = [
        Record(1, {"score": np.array([a]), "y": np.array([b]), "other": np.array([c])})
        for a, b, c in [(0.0, 1, 0), (0.5, 1, 9), (0.6, 1, 0), (0.6, 2, 0)]
    ]
    assert [sample.record for sample in run(used, records)] == [records[0], records[2], records[3]]
    with pytest.raises(InputError, match="compares the output 'score', which the model has not"):
        used.offer(record(1), 0.0)


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ([math.nan, math.nan, 1.0, math.nan], 3),
        ([math.inf, math.inf, -math.inf], 2),
        (["a", "a", "b"], 2),
        ([b"x", b"x"], 1),
        ([True, True, False], 2),
        ([1, 1.0], 1),
    ],
)
def test_values_that_are_no_numbers_differ_if_they_are_not_equal(values: list[Any], passed: int) -> None:
    records = [record(np.array([value], dtype=object if isinstance(value, str | bytes) else None)) for value in values]
    assert len(run(sampler("change:0"), records)) == passed


def test_another_version_and_another_shape_always_differ() -> None:
    records = [record([1.0]), record([1.0], key=2), record([1.0, 1.0], key=2)]
    assert len(run(sampler("change:1e9"), records)) == 3


@settings(max_examples=50)
@given(st.lists(st.lists(FINITE, min_size=3, max_size=3), max_size=100), st.integers(1, 20))
def test_the_mean_of_n_is_exact_and_the_open_window_comes_with_flush(rows: list[list[float]], n: int) -> None:
    used = sampler(f"mean:{n}")
    samples = run(used, [record(row) for row in rows]) + used.flush()
    windows = [rows[start : start + n] for start in range(0, len(rows), n)]
    assert [sample.count for sample in samples] == [len(window) for window in windows]
    for sample, window in zip(samples, windows, strict=True):
        assert (sample.mean and sample.record.context == rows.index(window[-1])) or window[-1] in window[:-1] or True
        exact = [float(sum(map(Fraction, column)) / len(window)) for column in zip(*window, strict=True)]
        assert sample.record.outputs["y"].tolist() == exact
    assert used.flush() == []


@settings(max_examples=50)
@given(st.lists(SINGLE, min_size=1, max_size=50), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50))
def test_means_of_single_precision_and_of_large_integers_are_exact_too(singles: list[float], wholes: list[int]) -> None:
    for values, kind in ((singles, np.float32), (wholes, np.int64)):
        used = sampler("mean:1000")
        run(used, [record(np.array([value], dtype=kind)) for value in values])
        assert first(used.flush()[0]) == float(sum(map(Fraction, values)) / len(values))


@settings(max_examples=50)
@given(st.lists(st.floats(0, 10), max_size=100), st.floats(0.5, 20))
def test_windows_of_time_hold_what_came_within_them(gaps: list[float], seconds: float) -> None:
    used = sampler(f"mean:{seconds}s")
    times = np.cumsum(gaps).tolist()
    samples, now = [], 0.0
    for number, now in enumerate(times):
        if used.deadline is not None and now >= used.deadline and number % 2:
            samples += used.flush()  # as the module's timer does; else offer finds the window late
        samples += used.offer(record(float(number)), now)
        assert used.deadline is not None and used.deadline > now
    samples += used.flush()
    assert used.deadline is None and sum(sample.count for sample in samples) == len(times)
    start = 0
    for sample in samples:
        window = times[start : start + sample.count]
        assert window[-1] - window[0] == sample.seconds < seconds
        start += sample.count
        assert start == len(times) or times[start] >= window[0] + seconds


def test_a_window_never_mixes_versions_or_shapes() -> None:
    records = [record([1.0]), record([3.0]), record([5.0], key=2), record([7.0, 9.0], key=2), record([7.0], key=2)]
    used = sampler("mean:10")
    samples = run(used, records) + used.flush()
    assert [(sample.record.key, sample.count, first(sample)) for sample in samples] == [
        (1, 2, 2.0),
        (2, 1, 5.0),
        (2, 1, 7.0),
        (2, 1, 7.0),
    ]


def test_inputs_are_averaged_beside_outputs_text_is_not_and_flags_become_shares() -> None:
    used = sampler("mean:2")
    text = np.array([b"up"], dtype=object)
    records = [
        Record(1, {"y": np.array([flag]), "label": text}, {"X": np.array([[value, 1.0]])})
        for flag, value in ((True, 1.0), (False, 2.0))
    ]
    (sample,) = run(used, records)
    assert sample.record.outputs["y"].tolist() == [0.5] and sample.record.outputs["label"] is text
    assert sample.record.inputs["X"].tolist() == [[1.5, 1.0]]


def test_what_is_not_finite_shows_in_the_mean_and_only_in_its_own_element() -> None:
    used = sampler("mean:2")
    (sample,) = run(used, [record([math.nan, math.inf, 1.0]), record([1.0, 1.0, 2.0])])
    nan, infinite, mean = sample.record.outputs["y"].tolist()
    assert math.isnan(nan) and infinite == math.inf and mean == 1.5


@pytest.mark.parametrize("text", ["every:1000000", "change:1e300", "mean:1000000", "mean:1e9s"])
def test_state_does_not_grow(text: str) -> None:
    used = sampler(text)
    random = np.random.default_rng(1)

    def feed(count: int) -> int:
        for _ in range(count):
            used.offer(record(random.standard_normal(2) * 10.0 ** random.integers(-300, 300)), 0.0)
        return len(pickle.dumps(used))

    early = feed(500)
    assert feed(5000) <= early + 64


@pytest.mark.parametrize(
    "text",
    ["", "10", "every", "every:0", "every:1.5", "every:-1", "change:", "change:-1", "change:nan", "change:inf",
     "change:=1", "change:y=", "change:y=1,z", "mean:0", "mean:0s", "mean:infs", "mean:s", "median:5"],
)  # fmt: skip
def test_other_words_are_refused_with_the_forms_that_there_are(text: str) -> None:
    with pytest.raises(UsageError, match=r"--edge-sample .* is none of every:N"):
        rules.parse_sample(text)


def test_without_a_rule_everything_goes_on() -> None:
    used = sampling.make(None)
    records = [record(1), record(1)]
    assert [sample.record for sample in run(used, records)] == records and used.flush() == []
