"""What counts as progress of a transfer, and what Retry-After asks for."""

from __future__ import annotations

import asyncio

import pytest

from modelsync_daemon.timing.stall import LEAST_RATE, Patience
from modelsync_daemon.transfer.download import Transient, retry_after
from modelsync_daemon.transfer.errors import OriginBusy
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_daemon.workers.messages import error_of, kind_of
from tests.support.virtual_time import run_virtually


async def _carried(rate: int, seconds: int) -> bool:
    """Whether a transfer of `rate` bytes a second goes on for `seconds`."""
    patience = Patience(60.0)
    try:
        async with patience.limited():
            for _ in range(seconds):
                await asyncio.sleep(1.0)
                patience.brought(rate)
    except TimeoutError:
        return False
    return True


def test_a_slow_line_is_progress_and_a_drip_is_none() -> None:
    assert run_virtually(_carried(LEAST_RATE + 6, 3600))
    assert run_virtually(_carried(LEAST_RATE // 2, 59))
    assert not run_virtually(_carried(LEAST_RATE // 2, 3600))


async def _slow_decoder() -> None:
    patience = Patience(60.0)
    for _ in range(100):
        async with patience.limited():
            await asyncio.sleep(0.5)
            with patience.suspended():
                await asyncio.sleep(1000.0)
        await asyncio.sleep(1000.0)


def test_only_waiting_for_the_other_side_costs_patience() -> None:
    run_virtually(_slow_decoder())


async def _busy(after: float) -> tuple[float, int]:
    attempts = 0

    async def attempt() -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            busy = Transient("the origin answers 503.")
            busy.after = after
            raise busy
        return attempts

    got = await Origin("http://origin.invalid").persist(attempt)
    return asyncio.get_running_loop().time(), got


def test_a_short_retry_after_is_waited_for_and_a_long_one_ends_the_attempt() -> None:
    took, attempts = run_virtually(_busy(30.0))
    assert attempts == 2 and 29.9 < took < 30.1
    with pytest.raises(OriginBusy, match="later") as caught:
        run_virtually(_busy(600.0))
    again = error_of(kind_of(caught.value), str(caught.value), {"after": caught.value.after})
    assert isinstance(again, OriginBusy) and again.after == 600.0


def test_retry_after_is_read_in_both_forms_and_never_shortened() -> None:
    assert 120.0 <= retry_after("120", 0.0) <= 180.0
    assert 60.0 <= retry_after("Wed, 21 Oct 2026 07:28:00 GMT", 1792567620.0) <= 90.0
    assert retry_after("soon", 0.0) == retry_after("", 0.0) == retry_after("-5", 0.0) == 0.0
    assert retry_after("9" * 30, 0.0) <= 5400.0
