"""A device on which nothing changes for a month, or nothing works for days: what it writes and logs. Virtual time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from modelsync_daemon.timing.backoff import HUB, NETWORK, REFUSED
from modelsync_protocol.errors import LocalError, ModelsyncError, RefusedError, UnreachableError
from tests.daemon.fakes import Device, MemoryControlPlane, device
from tests.support.budgets import within
from tests.support.virtual_time import run_virtually

HOUR, DAY, MONTH = 3600, 86400, 30 * 86400
START = 1_800_000_000.0
LINES_A_MINUTE = 120
"""What modelsyncd.service lets through (LogRateLimitBurst)."""


class Chattering(MemoryControlPlane):
    """A hub whose line carries keep-alives all the time, so that there is always something to count."""

    def wire(self) -> tuple[int, int]:
        pings = int(asyncio.get_running_loop().time() / 1740)
        return 70 * pings + 10 * self.reads, 70 * pings


class Failing(MemoryControlPlane):
    """A hub that can't be reached."""

    def __init__(self, error: ModelsyncError) -> None:
        super().__init__()
        self._error = error

    async def connect(self) -> None:
        raise self._error


class EndlessFailure(list[ModelsyncError]):
    """As many failures as are asked for."""

    def __init__(self, error: ModelsyncError) -> None:
        super().__init__([error])

    def pop(self, index: object = -1) -> ModelsyncError:
        return self[0]


def _clock() -> float:
    return START + asyncio.get_running_loop().time()


def _unsynced(pi: Device) -> None:
    pi.database.connection.execute("PRAGMA synchronous=OFF")  # a month's commits, without this machine's disk


def test_a_month_without_changes_commits_once_an_hour_at_most(tmp_path: Path) -> None:
    commits: Counter[int] = Counter()

    async def month() -> None:
        async with device(tmp_path, Chattering(), clock=_clock, setup=_unsynced) as pi:
            pi.wish(1)
            await pi.serves(1)
            await asyncio.sleep(HOUR)
            begin = asyncio.get_running_loop().time()

            def trace(statement: str) -> None:
                if statement.startswith("COMMIT"):
                    commits[int((asyncio.get_running_loop().time() - begin) // HOUR)] += 1

            pi.database.connection.set_trace_callback(trace)
            reads = pi.plane.reads
            await asyncio.sleep(MONTH)
            assert pi.plane.reads - reads >= 4 * 30, "the twin is read four times a day at least"
            pi.resident.commands.status()

    run_virtually(month())
    assert sum(commits.values()) >= 24, "what the line costs is counted durably, else this test proves nothing"
    within("transactions in the busiest hour of a month without changes", max(commits.values()), 1, "transactions")


FAILURES: dict[str, Callable[[], ModelsyncError]] = {
    "no network": lambda: UnreachableError("could not reach the hub: Network is unreachable."),
    "refused": lambda: RefusedError("the hub refuses this device's credentials."),
    "disk": lambda: LocalError("state.db can't be written (disk I/O error); free space or fix permissions."),
}


@pytest.mark.parametrize("why", FAILURES)
def test_days_of_failures_log_a_bounded_amount(tmp_path: Path, why: str) -> None:
    random.seed(8)
    error = FAILURES[why]()
    begins: list[float] = []
    lines: list[tuple[float, int]] = []
    handler = logging.Handler()

    def note(record: logging.LogRecord) -> None:
        lines.append((asyncio.get_running_loop().time(), len(record.getMessage()) + 10))

    handler.emit = note  # type: ignore[method-assign]  # a handler's only purpose

    def fail(pi: Device) -> None:
        _unsynced(pi)
        pi.preparer.fail = EndlessFailure(error)

    async def outage() -> None:
        backoffs = (NETWORK, REFUSED, HUB)
        plane: MemoryControlPlane = MemoryControlPlane()
        async with device(tmp_path, plane, clock=_clock, setup=fail, backoffs=backoffs) as pi:
            pi.wish(1)
            await pi.until(lambda: pi.row().attempts)
            plane.drop()
            plane.fail_connects = EndlessFailure(error)
            begins.append(asyncio.get_running_loop().time())
            await asyncio.sleep(3 * DAY)

    logger = logging.getLogger("modelsync_daemon")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        run_virtually(outage())
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    hours = Counter(int((when - begins[0]) // HOUR) for when, _ in lines if when >= begins[0])
    minutes = Counter(int(when // 60) for when, _ in lines)
    size = sum(length for _, length in lines) * 10 / 1e6
    assert sum(hours.values()) >= 3 * 24, "each attempt is said, else this test proves nothing"
    within(f"log lines in the busiest minute, {why} for long", max(minutes.values()), LINES_A_MINUTE, "lines")
    within(f"log lines in the busiest hour, {why} for long", max(hours.values()), 150, "lines")
    within(f"log of a month, from three days of {why}", size, 5, "MB")
