"""Budgets and windows: bytes are counted by local day and month, and the stricter of two policies wins."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from modelsync_daemon.disk import ledger as budget
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.ledger import Amount, Ledger
from modelsync_protocol.twin import Policy, Window, parse_window


def _at(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))


class Clock:
    """A clock that a test sets."""

    def __init__(self, text: str) -> None:
        self.now = _at(text)

    def __call__(self) -> float:
        return self.now


def test_days_and_months_are_counted_apart(tmp_path: Path) -> None:
    clock = Clock("2026-11-29 23:59:59")
    ledger = Ledger(Database(tmp_path / "state.db", clock))
    ledger.add(100, 10)
    clock.now = _at("2026-11-30 00:00:01")
    ledger.add(1000, 1)
    assert ledger.day() == Amount(1000, 1) and ledger.month() == Amount(1100, 11)
    clock.now = _at("2026-12-01 00:00:00")
    assert ledger.document() == {"day": {"received": 0, "sent": 0}, "month": {"received": 0, "sent": 0}}


def test_counted_bytes_survive_a_restart_once_flushed(tmp_path: Path) -> None:
    clock = Clock("2026-11-20 12:00:00")
    database = Database(tmp_path / "state.db", clock)
    ledger = Ledger(database)
    ledger.add(300 * 1024, 0)
    ledger.add(5, 5)
    assert Ledger(database).day() == Amount(300 * 1024, 0), "big amounts are flushed at once"
    ledger.flush()
    assert Ledger(database).day() == Amount(300 * 1024 + 5, 5)
    before = database.connection.total_changes
    ledger.flush()
    ledger.add(0, 0)
    assert database.connection.total_changes == before, "idle is idle"


def test_what_is_left_is_the_smaller_of_both_budgets(tmp_path: Path) -> None:
    ledger = Ledger(Database(tmp_path / "state.db", Clock("2026-11-20 12:00:00")))
    ledger.add(900, 100)
    assert ledger.left(Policy()) is None
    assert ledger.left(Policy(bytes_per_day=1500)) == 500
    assert ledger.left(Policy(bytes_per_day=1500, bytes_per_month=1200)) == 200
    assert ledger.left(Policy(bytes_per_month=10)) == 0


def test_the_stricter_policy_wins() -> None:
    local = Policy(bytes_per_day=5, rate_limit=9, windows=(parse_window("20:00-04:00"),))
    cloud = Policy(bytes_per_day=7, bytes_per_month=3, rate_limit=2, windows=(parse_window("02:00-06:00"),), hold=True)
    assert budget.stricter(local, cloud) == Policy(5, 3, 2, (Window(120, 240),), True)
    assert budget.stricter(Policy(), cloud) == cloud


def test_windows_that_never_meet_never_open() -> None:
    both = budget.stricter(
        Policy(windows=(parse_window("01:00-02:00"),)), Policy(windows=(parse_window("03:00-04:00"),))
    )
    assert budget.seconds_to_open(both, _at("2026-11-20 01:30:00")) == 86400


@pytest.mark.parametrize(
    ("now", "opens", "closes"),
    [("21:59:30", 30, 0), ("22:00:00", 0, 8 * 3600), ("05:59:59", 0, 1), ("06:00:00", 16 * 3600, 0)],
)
def test_a_window_over_midnight(now: str, opens: int, closes: int) -> None:
    policy = Policy(windows=(parse_window("22:00-06:00"),))
    moment = _at(f"2026-11-20 {now}")
    assert budget.seconds_to_open(policy, moment) == opens
    assert budget.seconds_to_close(policy, moment) == closes
    assert budget.seconds_to_open(Policy(), moment) == 0 and budget.seconds_to_close(Policy(), moment) is None


def test_a_budget_begins_anew_at_local_midnight() -> None:
    assert budget.seconds_to_next_day(_at("2026-11-20 23:00:00")) == 3600
