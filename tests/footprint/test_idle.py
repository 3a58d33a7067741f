"""The idle daemon on this machine, as `python -m bench.idle` measures it: memory and wake-ups."""

from __future__ import annotations

import pytest

from bench import idle
from tests.support.budgets import within


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_the_idle_daemon_sleeps_and_is_small() -> None:
    measured = await idle.measure(60)
    assert measured["wakeups_per_second"] > 0 and measured["rss_kib"] > 0
    within("wake-ups of the idle daemon, all threads and processes", measured["wakeups_per_second"], 2, "a second")
    within("resident memory of the idle daemon", measured["rss_kib"] / 1024, 60, "MiB")
    together = measured["pss_of_all_processes_kib"] / 1024
    within("memory of all processes of the idle daemon (Pss)", together, 60, "MiB")
