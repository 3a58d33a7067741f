"""The mine: its guard against any answer, its rows and windows, the historian's REST form, and the story itself."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import onnxruntime
import pytest
from aiohttp import web
from asyncua import ua
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples.mine import broken, train, verdict
from examples.mine.collector import beginning, rows
from examples.mine.features import BRIDGED, FEATURES, ROWS, Windows
from examples.mine.guard import Decision, Guard, Plant, Why
from examples.mine.historian import PiWebApi, values
from examples.mine.line import INPUT, MEASURED, Limits
from examples.mine.pi_web_api import SERVER, Archive, application
from examples.mine.verdict import LineLog
from tests.examples.stories.running import ROOT, run_story

MINE = ROOT / "examples" / "mine"
LIMITS = Limits()
ANSWERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(), st.booleans(), st.none(), st.text("4e٣", max_size=3),
    st.lists(st.floats(), max_size=3), st.floats(min_value=280, max_value=520),
    st.dictionaries(st.text("ab"), st.none()),
)  # fmt: skip
STEPS = st.tuples(
    ANSWERS, st.floats(min_value=0, max_value=20), st.booleans(), st.booleans(), st.floats(min_value=0, max_value=900),
    st.floats(min_value=0, max_value=2), st.floats(min_value=0, max_value=1),
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine is slow
@given(st.lists(STEPS, max_size=40))
def test_whatever_a_model_says_a_set_point_is_finite_within_limits_and_slow(steps: list[Any]) -> None:
    """However slow the line is (`there` of its `delay` until the plant has a write): as the plant sees it."""
    guard, now, before, arrived = Guard(LIMITS), 100.0, None, 100.0
    guard.step(Plant(True, False, 350.0, 1), now)
    for scan, (answer, seconds, manual, interlock, effective, delay, there) in enumerate(steps, 1):
        now += seconds
        guard.offer(answer, scan, now)
        decision = guard.step(Plant(manual, interlock, effective, scan), now)
        if manual or interlock:
            assert decision.value is None
            before = None
            continue
        assert decision.value is not None
        assert LIMITS.low <= decision.value <= LIMITS.high
        there_now = min(LIMITS.high, max(LIMITS.low, effective))
        gap = now + delay * there - arrived
        if before is None or abs(there_now - before) > LIMITS.per_second:
            assert decision.value == there_now, "what is in force is somebody else's"
        else:
            assert abs(decision.value - before) <= LIMITS.per_second * min(gap, 1.0) + 1e-9
        before, arrived, now = decision.value, now + delay * there, now + delay
        guard.written(now)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([None], "not finite"), (math.nan, "not finite"), ([math.inf], "not finite"), ([1.0, 2.0], "not one number"),
        ("400", "not one number"), (True, "not one number"), ([], "not one number"), ([[400.0]], "not one number"),
        ([1e6], "far outside the limits"), ([-5.0], "far outside the limits"), ([400.0], ""), (515, ""),
        (10**400, "far outside the limits"), ([-(10**400)], "far outside the limits"),
    ],
)  # fmt: skip
def test_what_is_no_advice_is_refused_with_the_reason(answer: object, why: str) -> None:
    guard = Guard(LIMITS)
    guard.step(Plant(True, False, 350.0, 1), 0.0)
    assert guard.offer(answer, 1, 0.0) == why


def test_without_advice_the_last_set_point_is_held_and_then_the_safe_one_approached() -> None:
    guard, plant = Guard(LIMITS), Plant(False, False, 400.0, 1)
    assert guard.offer([450.0], 1, 0.0) == "the plant is not seen"
    guard.step(Plant(True, False, 400.0, 1), 0.0)
    assert guard.offer([450.0], 1, 0.0) == ""
    assert guard.offer([450.0], 1, 0.0) == "late"

    def step(now: float) -> Decision:
        nonlocal plant
        decision = guard.step(plant, now)
        guard.written(now)
        assert decision.value is not None
        plant = replace(plant, effective=decision.value)
        return decision

    assert [step(0.0).why, step(1.0).value] == [Why.MODEL, 410.0]
    assert step(5.0).why is Why.HELD
    found = [step(8.5 + second) for second in range(9)]
    assert {each.why for each in found} == {Why.SAFE}
    assert found[0].value == 400.0 and found[-1].value == LIMITS.safe


def test_after_a_human_advice_begins_where_the_human_left_the_plant() -> None:
    guard = Guard(LIMITS)
    guard.step(Plant(False, False, 440.0, 1), 0.0)
    guard.offer([450.0], 1, 0.0)
    assert guard.step(Plant(True, False, 440.0, 2), 1.0).why is Why.MANUAL
    assert guard.step(Plant(False, True, 440.0, 3), 1.5).why is Why.INTERLOCK
    assert guard.step(Plant(False, False, 330.0, 4), 2.0).value == 330.0
    assert guard.step(Plant(False, False, 430.0, 5), 2.1).value == 430.0, "between two looks"


@pytest.mark.parametrize(
    "wrong",
    [{"low": 600.0}, {"safe": math.nan}, {"high": math.inf}, {"low": math.nan}, {"per_second": math.inf},
     {"per_second": 0.0}, {"hold_seconds": math.inf}, {"fresh_seconds": math.nan}, {"fresh_seconds": 9.0}],
)  # fmt: skip
def test_limits_that_limit_nothing_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        replace(LIMITS, **wrong)


def test_a_scan_is_one_row_whose_tags_have_their_quality_and_whose_gaps_are_gaps() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)

    def value(number: float, scan: int, status: int = 0) -> Any:
        return ua.DataValue(ua.Variant(number), ua.StatusCode(status), SourceTimestamp=begin + timedelta(seconds=scan))

    bad, uncertain = ua.StatusCodes.BadSensorFailure, ua.StatusCodes.UncertainSensorNotAccurate
    made = rows(
        "m",
        {
            "Scan": [value(1, 1), value(2, 2)],
            "Feed": [value(9.5, 2, uncertain), value(1.0, 3)],
            "Power": [value(0, 1, bad)],
        },
    )
    assert [row["scan"] for row in made] == [1, 2], "a scan that has not ended yet is no row"
    assert [row["tags"] for row in made] == [{"Power": [0, "bad"]}, {"Feed": [9.5, "uncertain"]}]
    assert made[0]["stamp"] == "2026-01-01T00:00:01.000000Z"


def test_what_is_no_finite_number_is_a_bad_reading_and_a_row_without_a_scan_is_none() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)

    def value(number: Any) -> Any:
        return ua.DataValue(ua.Variant(number), ua.StatusCode(0), SourceTimestamp=begin)

    odd = {"Feed": math.nan, "Power": math.inf, "Pressure": "hot", "Density": [1.0, 2.0], "Setpoint": 400.0}
    (row,) = rows("m", {"Scan": [value(1)], **{tag: [value(number)] for tag, number in odd.items()}})
    assert row["tags"] == {key: [0, "bad"] for key in odd} | {"Setpoint": [400.0, "good"]}
    assert rows("m", {"Scan": [value(1.5)]}) == rows("m", {"Scan": [value("1")]}) == []


def test_the_history_is_read_by_the_plants_clock_whatever_it_does() -> None:
    now, second = datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=1)
    assert beginning(now - second, now) == now - second
    assert beginning(datetime(1970, 1, 1, tzinfo=UTC), now) == now - timedelta(minutes=10)
    assert beginning(now + 9000 * second, now) == now - timedelta(minutes=10), "set back, or one stamp in the future"


ODD_ROWS: list[dict[str, Any]] = [
    {}, {"scan": "9", "stamp": "", "tags": {}}, {"scan": True, "stamp": "", "tags": {}}, {"scan": 9, "tags": [1]},
    {"scan": 9, "stamp": {}, "tags": {}}, {"scan": 9, "stamp": "x" * 99, "tags": {}},
]  # fmt: skip


def test_rows_of_a_broken_collector_make_no_window_that_is_no_number() -> None:
    windows = Windows()
    for row in ODD_ROWS:
        with pytest.raises(ValueError, match="no row"):
            windows.add(row)
    odd: list[Any] = [
        None,
        [1.0],
        ["1", "good"],
        [math.nan, "good"],
        [1e300, "good"],
        [10**400, "good"],
        [1, 2],
        "x",
        [[], {}],
    ]
    for scan, reading in enumerate(odd * 2, 1):
        window = windows.add({"scan": scan, "tags": dict.fromkeys(MEASURED, reading)})
        assert window is not None and window.features is None and len(window.unfit) < 400
    largest = [
        windows.add({"scan": 100 + n, "tags": {key: [9e29 * (-1) ** n, "good"] for key in MEASURED}}) for n in range(8)
    ]
    assert largest[-1] is not None and largest[-1].features is not None and np.isfinite(largest[-1].features).all()


def test_a_plant_that_was_started_anew_counts_anew() -> None:
    windows = Windows()

    def add(scan: int, minute: int) -> Any:
        tags = {tag: [1.0, "good"] for tag in MEASURED}
        return windows.add({"scan": scan, "stamp": f"2026-01-01T00:{minute:02}:00Z", "tags": tags})

    assert add(5000, 1) is not None
    assert add(1, 1) is None, "not later: it was there before"
    assert add(1, 2).unfit == "1 of 8 rows so far"
    assert add(2, 3) is not None


@pytest.mark.parametrize(
    "message",
    [{}, {"stamp": None}, {"stamp": "t", "scan": 1, "tags": [1]},
     {"stamp": "t", "scan": 1, "tags": {"../x": [1, "good"]}}],
)  # fmt: skip
def test_a_message_that_is_no_row_is_not_archived(message: dict[str, Any]) -> None:
    for source in ("rows", "decisions"):
        with pytest.raises((LookupError, TypeError, ValueError)):
            values(source, message)


def test_windows_bridge_short_gaps_refuse_long_ones_and_take_a_row_once() -> None:
    windows = Windows()

    def row(scan: int, *without: str) -> dict[str, Any]:
        return {"scan": scan, "tags": {tag: [float(scan), "good"] for tag in MEASURED if tag not in without}}

    made = [windows.add(row(scan)) for scan in range(1, ROWS + 1)]
    assert all(each is not None for each in made)
    assert made[-2] is not None and made[-2].features is None
    assert made[-1] is not None and made[-1].features is not None and made[-1].features.shape == (FEATURES,)
    assert windows.add(row(ROWS)) is None, "at least once is not twice"
    bridged = [windows.add(row(scan, "Power")) for scan in range(ROWS + 1, ROWS + 1 + BRIDGED)]
    assert all(each is not None and each.features is not None for each in bridged)
    late = windows.add(row(ROWS + 1 + BRIDGED, "Power"))
    assert late is not None and late.features is None and "Power" in late.unfit


def test_the_verdict_finds_each_kind_of_broken_promise() -> None:
    def log(*writes: tuple[float, Any]) -> LineLog:
        scans: list[verdict.Json] = [
            {"scan": n, "t": n / 4, "set_point": 400.0, "source": "advice"} for n in range(1, 9)
        ]
        return LineLog(scans, [{"t": t, "advised": value} for t, value in writes])

    assert verdict.violations(log((0.3, 400.0), (0.55, 402.0)), LIMITS) == []
    assert len(verdict.violations(log((0.3, math.nan), (0.55, 501.0), (0.8, 430.0)), LIMITS)) == 4
    scans = log().scans
    assert verdict.missing(scans, [1, 2, 3, 5, 6, 7, 8]) == [4]
    assert verdict.without_set_point([*scans, {"set_point": None}, {"set_point": math.inf}]) == 2
    assert verdict.switches([(3, 2), (1, 1), (2, 0), (4, 2), (5, 1)]) == [1, 2, 1]


@pytest.fixture
async def historian() -> AsyncIterator[PiWebApi]:
    runner = web.AppRunner(application(Archive(["m.Feed", "m.Scan"]), "user:secret"))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        yield PiWebApi(f"http://127.0.0.1:{runner.addresses[0][1]}/piwebapi", SERVER, "user:secret", session)
    await runner.cleanup()


async def test_a_batch_is_taken_as_a_whole_or_said_not_to_be(historian: PiWebApi) -> None:
    value = {"Timestamp": "2026-01-01T00:00:00Z", "Value": 1.5, "Good": False}
    for _ in range(2):  # sent twice, there once
        await historian.write({"m.Feed": [value], "m.Scan": [{"Timestamp": "2026-01-01T00:00:00Z", "Value": 7}]})
    assert await historian.recorded("m.Feed") == [value | {"Questionable": False, "Substituted": False}]
    with pytest.raises(aiohttp.ClientError, match="did not take"):
        await historian.write({"m.Feed": [{"Value": 1}]})
    with pytest.raises(aiohttp.ClientResponseError):
        await historian.write({"m.Other": [value]})
    historian.headers.pop("X-Requested-With")
    with pytest.raises(aiohttp.ClientResponseError):
        await historian.write({"m.Feed": [value]})


def test_the_committed_models_advise_well_and_the_bad_ones_are_as_bad_as_said(tmp_path: Path) -> None:
    samples, targets = train.windows(98, 400)

    def answers(data: bytes) -> Any:
        return onnxruntime.InferenceSession(data).run(None, {INPUT: samples})[0]

    good = [answers((MINE / f"v{version}" / "model.onnx").read_bytes()) for version in (1, 2)]
    for found in good:
        assert np.abs(found - targets).mean() < 4
    assert np.abs(good[1] / good[0] - 1).max() < 0.01, "version 2 passes the shadow's comparison"
    v2 = MINE / "v2" / "model.onnx"
    assert np.allclose(answers(broken.shifted(v2)), good[1] + 40)
    bad = {what: answers(data) for what, data in broken.bad_models(v2).items()}
    assert np.isnan(bad["NaN"]).all() and np.isinf(bad["infinity"]).all() and bad["wrong shape"].shape[1] == FEATURES
    assert (bad["a million"] == 1e6).all()
    nonsense = bad["nonsense within the limits"]
    assert ((nonsense > LIMITS.low - 10) & (nonsense < LIMITS.high + 30)).all()
    assert np.abs(nonsense / good[1] - 1).mean() > 0.05


@pytest.mark.timeout(600)
def test_the_abridged_story_of_one_line(tmp_path: Path) -> None:
    report = run_story("mine", tmp_path, "--short", seconds=560)
    assert {charge["way"].split(",")[0] for charge in report["bill"]} == {"modelsync", "image"}
    assert report["figures"]["set-points compared in shadow"] > 0
    assert (tmp_path / "story-mine.svg").stat().st_size > 10_000


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_whole_story_in_under_four_minutes(tmp_path: Path) -> None:
    report = run_story("mine", tmp_path, seconds=280)
    assert report["seconds"] < 240, "the issue's own limit"
    assert len(report["promises"]) >= 20
    dearest = max(report["bill"], key=lambda charge: charge["bytes"])
    assert dearest["way"].startswith("image, built anew") and dearest["bytes"] > 20_000_000
