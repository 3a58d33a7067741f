"""Gates: when a ring advances, waits, breaks or runs out of time. Pure arithmetic."""

from __future__ import annotations

import pytest

from modelsync_protocol.errors import UsageError
from modelsync_server.rollout.gate import Counts, Gate, Verdict, judge, parse_duration, parse_gate, parse_share

GATE = Gate(active=0.8, failures=0.05, soak=60.0, wait=1000.0)


def counts(active: int = 0, waiting: int = 0, refused: int = 0, rolled_back: int = 0, nonsense: int = 0) -> Counts:
    return Counts(active + waiting + refused + rolled_back + nonsense, active, waiting, refused, rolled_back)


@pytest.mark.parametrize(
    ("found", "ripe", "now", "verdict"),
    [
        (counts(waiting=100), None, 10, Verdict.WAIT),
        (counts(79, 21), None, 10, Verdict.WAIT),
        (counts(80, 20), None, 10, Verdict.WAIT),
        (counts(80, 20), 10.0, 69, Verdict.WAIT),
        (counts(80, 20), 10.0, 70, Verdict.ADVANCE),
        (counts(80, 15, refused=5), 10.0, 70, Verdict.ADVANCE),
        (counts(80, 14, refused=3, rolled_back=3), 10.0, 70, Verdict.BREAK),
        (counts(10, 84, refused=6), None, 10, Verdict.BREAK),
        (counts(80, 14, nonsense=6), 10.0, 70, Verdict.BREAK),
        (counts(79, 21), None, 1000, Verdict.EXPIRE),
        (counts(80, 20), 999.0, 2000, Verdict.ADVANCE),
    ],
)
def test_a_ring_is_judged(found: Counts, ripe: float | None, now: float, verdict: Verdict) -> None:
    assert judge(GATE, found, 100, 0.0, ripe, now).verdict is verdict


def test_the_soak_begins_when_enough_are_active_and_anew_if_they_fall_below() -> None:
    first = judge(GATE, counts(80), 100, 0.0, None, 50.0)
    assert first.ripe == 50.0
    assert judge(GATE, counts(79, 1), 100, 0.0, first.ripe, 60.0).ripe is None


def test_a_hub_whose_clock_was_set_back_does_not_soak_for_ever() -> None:
    assert judge(GATE, counts(80), 100, 5000.0, 5000.0, 10.0).ripe == 10.0


def test_one_failure_in_a_small_ring_is_one_too_many() -> None:
    assert judge(GATE, counts(5, 4, refused=1), 10, 0.0, None, 1.0).verdict is Verdict.BREAK


def test_more_devices_than_planned_may_answer() -> None:
    assert judge(GATE, counts(195, refused=5), 100, 0.0, 0.0, 100.0).verdict is Verdict.ADVANCE


def test_a_gate_survives_its_document() -> None:
    for gate in (
        GATE,
        Gate(active=3, returns=False),
        Gate(),
        Gate(active=parse_share("33.333333%"), soak=0.1, wait=parse_duration("400d")),
        Gate(active=1e-6, failures=parse_share("0.0001%"), soak=12_345_678.5, wait=1e9),
    ):
        assert parse_gate(gate.document(), Gate()) == gate


@pytest.mark.parametrize(
    "value",
    [
        {"active": 0},
        {"active": "101%"},
        {"active": "some"},
        {"active": True},
        {"failures": "100%"},
        {"failures": 5},
        {"soak": "soon"},
        {"soak": "2d", "wait": "1d"},
        {"wait": -5},
        {"returns": 1},
        {"speed": 1},
        [],
    ],
)
def test_a_wrong_gate_is_refused_with_a_sentence(value: object) -> None:
    with pytest.raises(UsageError):
        parse_gate(value, Gate())


def test_times_and_shares_are_read_as_people_write_them() -> None:
    assert [parse_duration(text) for text in ("90s", "30m", "2h", "7d", "5", 8)] == [90, 1800, 7200, 604800, 5, 8]
    assert parse_share("2.5 %") == 0.025
