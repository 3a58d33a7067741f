"""What happens to a version that does not behave, before and after the switch to it, with no word from the cloud."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelsync_daemon.activate.activation import Patience
from modelsync_daemon.activate.inference_processes import Report
from tests.daemon.fakes import NAME, Device, Inference, device, reference


async def test_two_deaths_while_probing_count_as_a_refusal(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        process = Inference(pi)
        process.start()
        pi.wish(1)
        await pi.serves(1)
        process.die_on_candidate = 2
        pi.wish(2)
        await pi.is_in("quarantined", "probe")
        assert "died twice" in pi.row().error_text


async def test_a_silent_process_counts_as_a_refusal(tmp_path: Path) -> None:
    async with device(tmp_path, patience=Patience(probe=0.2, probation=0.05, settle=0.0)) as pi:
        with pi.resident.processes.register(NAME, 1):
            pi.wish(1)
            await pi.is_in("quarantined", "probe")
        assert pi.current() is None


async def test_errors_on_probation_roll_back_without_the_cloud(tmp_path: Path) -> None:
    async with device(tmp_path, patience=Patience(probe=5, probation=60, settle=0)) as pi:
        pi.wish(1)
        await pi.serves(1)
        process = Inference(pi)
        process.start()
        pi.wish(2)
        await pi.is_in("probation")
        current = pi.current()
        assert current
        process.say("serving", current, "current", errors=9)
        await pi.is_in("rolled back", "serving")
        current = pi.current()
        assert current and current.version == 1 and current.generation == 3 and current.previous is None
        assert list(pi.database.quarantined(NAME)) == [reference(2).digest]


async def test_a_slower_version_on_probation_rolls_back_without_the_cloud(tmp_path: Path) -> None:
    async with device(tmp_path, patience=Patience(probe=5, probation=60, settle=0)) as pi:
        pi.wish(1)
        await pi.serves(1)
        process = Inference(pi)
        process.start()
        await pi.until(lambda: process.serving == 1)
        _time(pi, process, requests=1000, run_us=2000)
        pi.wish(2)
        await pi.is_in("probation")
        _time(pi, process, requests=10, run_us=90_000)
        _time(pi, process, requests=100, run_us=7_900)
        await asyncio.sleep(0.05)
        assert pi.row().state == "probation"
        _time(pi, process, requests=100, run_us=8_100)
        await pi.is_in("rolled back", "serving")
        assert pi.row().error_text == (
            "a run takes 8.1 ms on average since the switch; the version before took 2.0 ms."
        )


def _time(pi: Device, process: Inference, requests: int, run_us: int) -> None:
    current = pi.current()
    assert current
    report = Report(
        process.pid,
        "current",
        current.generation,
        current.version,
        current.digest,
        "serving",
        requests=requests,
        run_us=run_us,
    )
    pi.resident.commands.report(NAME, report)


async def test_an_application_that_defers_the_switch_is_waited_for(tmp_path: Path) -> None:
    async with device(tmp_path, patience=Patience(probe=0.3, probation=0.05, settle=0)) as pi:
        pi.wish(1)
        await pi.serves(1)
        process = Inference(pi)
        process.start()
        await pi.until(lambda: process.serving == 1)
        process.defers = True
        pi.wish(2)
        await pi.is_in("activating")
        current = pi.current()
        assert current
        for _ in range(10):
            process.say("deferred", current, "current", "the application holds the version that serves.")
            await asyncio.sleep(0.1)
        assert pi.row().state == "activating"
        process.say("serving", current, "current")
        await pi.is_in("active")
        assert not pi.database.quarantined(NAME)


async def test_a_crash_loop_on_probation_rolls_back(tmp_path: Path) -> None:
    async with device(tmp_path, patience=Patience(probe=5, probation=60, settle=0)) as pi:
        pi.wish(1)
        await pi.serves(1)
        task = Inference(pi).start()
        pi.wish(2)
        await pi.is_in("probation")
        task.cancel()
        for _ in range(3):
            with pi.resident.processes.register(NAME, 5):
                await asyncio.sleep(0)
        await pi.is_in("rolled back", "serving")
        current = pi.current()
        assert current and current.version == 1


async def test_a_process_that_can_not_load_current_later_rolls_back(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        for version in (1, 2):
            pi.wish(version)
            await pi.serves(version)
        current = pi.current()
        assert current
        Inference(pi).say("refused", current, "current", "out of memory.")
        await pi.is_in("rolled back", "serving")
        await asyncio.sleep(0.05)
        current = pi.current()
        assert current and current.version == 1 and pi.row().error_text == "out of memory."
        assert len(pi.preparer.jobs) == 2


async def test_what_serves_may_break_while_something_newer_is_in_quarantine(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        for version in (1, 2):
            pi.wish(version)
            await pi.serves(version)
        process = Inference(pi)
        process.refuses = {3}
        process.start()
        pi.wish(3)
        await pi.is_in("quarantined", "probe")
        current = pi.current()
        assert current and current.version == 2
        process.say("failed", current, "current", "broke.")
        await pi.until(lambda: (now := pi.current()) and now.version == 1)
        assert {item.version for item in pi.database.quarantined(NAME).values()} == {2, 3}
