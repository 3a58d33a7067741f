"""The resident daemon follows its twin: what it does with wishes, refusals, failures, holds and removal."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from modelsync_daemon.activate.inference_processes import Report
from modelsync_daemon.transfer.errors import BudgetExceeded
from modelsync_protocol.errors import LocalError, RefusedError, UnreachableError
from tests.daemon.fakes import NAME, Device, Inference, MemoryControlPlane, device, reference
from tests.support.virtual_time import virtually


async def test_a_wish_becomes_the_active_version_and_is_reported(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        await pi.until(lambda: pi.shown_model().get("state") == "active", "the report")
        shown = pi.shown_model()
        assert shown["version"] == 1 and shown["digest"] == reference(1).digest and shown["generation"] == 1
        assert shown["bytes"] == 900
        assert pi.resident.commands.status()["ledger"]["day"]["received"] >= 1000


async def test_previous_version_is_kept_and_older_ones_go(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        for version in (1, 2, 3):
            pi.wish(version)
            await pi.serves(version)
        assert [item.version for item in pi.data.installed(NAME)] == [3, 2]
        current = pi.current()
        assert current and current.generation == 3 and current.previous == reference(2)


async def test_a_refused_candidate_never_becomes_current_and_is_quarantined(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        process = Inference(pi)
        process.refuses = {2}
        process.start()
        pi.wish(1)
        await pi.serves(1)
        pi.wish(2)
        await pi.is_in("quarantined", "probe")
        assert pi.row().error_text == "probe case 0 differs."
        current = pi.current()
        assert current and current.version == 1 and current.generation == 1
        assert not (tmp_path / "models" / NAME / "candidate.json").exists()
        assert [item.version for item in pi.data.installed(NAME)] == [1]
        pi.resident.commands.sync()
        await asyncio.sleep(0.1)
        assert [job.version for job in pi.preparer.jobs] == [1, 2], "a digest in quarantine is not tried again"


async def test_quarantine_ends_with_another_retry_token(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        process = Inference(pi)
        process.refuses = {2}
        process.start()
        pi.wish(2)
        await pi.is_in("quarantined")
        process.refuses = set()
        pi.wish(2, retry="again")
        await pi.serves(2)


async def test_quarantine_ends_with_another_version(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        process = Inference(pi)
        process.refuses = {2}
        process.start()
        pi.wish(2)
        await pi.is_in("quarantined")
        pi.wish(3)
        await pi.serves(3)
        pi.wish(2)
        await pi.is_in("quarantined")
        assert process.probed == [2, 3]


async def test_release_ends_a_quarantine(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        process = Inference(pi)
        process.refuses = {2}
        process.start()
        pi.wish(2)
        await pi.is_in("quarantined")
        process.refuses = set()
        assert (await pi.plane.call("release", {"model": NAME})).status == 200
        await pi.serves(2)


async def test_rollback_costs_nothing_and_holds_until_desired_changes(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        for version in (1, 2):
            pi.wish(version)
            await pi.serves(version)
        answer = await pi.plane.call("rollback", {"model": NAME})
        assert answer.status == 200
        assert answer.payload == {"model": NAME, "version": 1, "digest": reference(1).digest, "generation": 3}
        pi.resident.commands.sync()
        await pi.until(lambda: pi.shown_model().get("hold"), "the hold's report")
        assert pi.row().state == "rolled back" and pi.shown_model()["version"] == 1
        assert len(pi.preparer.jobs) == 2
        pi.wish(3)
        await pi.serves(3)
        assert pi.row().hold == ""


async def test_released_rollback_follows_the_twin_again_without_fetching(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        for version in (1, 2):
            pi.wish(version)
            await pi.serves(version)
        await pi.resident.commands.rollback(NAME)
        pi.resident.commands.release(NAME)
        await pi.serves(2)
        assert pi.row().bytes == 0, "the version was still held"


async def test_rollback_without_a_previous_version_is_refused(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        answer = await pi.plane.call("rollback", {"model": NAME})
        assert answer.status == 409 and "no previous version" in str(answer.payload["error"])
        assert (await pi.plane.call("rollback", {"model": "other"})).status == 409
        assert (await pi.plane.call("rollback", {"model": "../x"})).status == 400
        assert (await pi.plane.call("rollback", None)).status == 400
        assert (await pi.plane.call("reboot", None)).status == 404
        assert pi.row().state == "active"


async def test_rollback_to_a_withdrawn_version_is_refused(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.preparer.withdrawn = (1,)
        for version in (1, 2):
            pi.wish(version)
            await pi.serves(version)
        answer = await pi.plane.call("rollback", {"model": NAME})
        assert answer.status == 409 and "withdrawn" in str(answer.payload["error"])
        assert pi.row().state == "active" and not pi.row().hold


async def test_an_operators_hold_outlasts_new_wishes(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        await pi.resident.commands.hold(NAME)
        pi.wish(2)
        await pi.is_in("waiting", "held")
        pi.wish(3)
        await asyncio.sleep(0.05)
        current = pi.current()
        assert current and current.version == 1 and len(pi.preparer.jobs) == 1
        pi.resident.commands.release(NAME)
        await pi.serves(3)


async def test_a_hold_in_the_policy_holds_everything(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.plane.set_desired({"modelsync": {"policy": {"hold": True}}})
        pi.wish(1)
        await pi.is_in("waiting", "held")
        pi.plane.set_desired({"modelsync": {"policy": None}})
        await pi.serves(1)


async def test_no_opinion_keeps_serving_and_absent_removes(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        pi.plane.set_desired({"modelsync": {"models": {NAME: None}}})
        await asyncio.sleep(0.1)
        assert pi.row().state == "active" and pi.current()
        pi.wish(None, state="absent")
        await pi.until(lambda: not (tmp_path / "models" / NAME).exists(), "the removal")
        await pi.until(lambda: NAME not in pi.shown().get("models", {}), "its report")


async def test_failures_wait_with_a_code_and_are_tried_again(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.preparer.fail = [UnreachableError("no line."), RefusedError("expired."), LocalError("disk full.")]
        codes: list[str] = []
        pi.wish(1)
        while pi.row().state != "active":
            if pi.row().error_code and (not codes or codes[-1] != pi.row().error_code):
                codes.append(pi.row().error_code)
            if pi.row().state == "waiting":
                pi.resident.commands.sync()
            await asyncio.sleep(0.005)
        assert codes == ["offline", "refused", "disk"]
        assert pi.row().attempts == 0 and pi.row().error_code == ""


def _has_waited(pi: Device, attempt: int) -> bool:
    return pi.row().attempts == attempt and pi.row().state == "waiting"


async def test_attempts_rise_and_are_persisted(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    plane = MemoryControlPlane()
    async with device(tmp_path, plane, clock=lambda: now[0]) as pi:
        pi.preparer.fail = [UnreachableError("no line.") for _ in range(20)]
        pi.wish(1)
        for attempt in (1, 2, 3):
            await pi.until(partial(_has_waited, pi, attempt))
            pi.resident.commands.sync()
    async with device(tmp_path, plane, clock=lambda: now[0]) as pi:
        pi.preparer.fail = [UnreachableError("no line.") for _ in range(20)]
        await pi.until(lambda: pi.row().attempts > 3, "a higher attempt after the restart")


async def test_an_installed_version_is_activated_offline(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        for version in (1, 2):
            pi.wish(version)
            await pi.serves(version)
        pi.preparer.fail = [UnreachableError("no line.")]
        pi.wish(1)
        await pi.serves(1)


async def test_a_withdrawn_version_is_not_activated_offline(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.preparer.withdrawn = (1,)
        for version in (1, 2):
            pi.wish(version)
            await pi.serves(version)
        pi.preparer.fail = [UnreachableError("no line.")] * 50
        pi.wish(1)
        await pi.is_in("waiting", "offline")
        current = pi.current()
        assert current and current.version == 2


async def test_a_newer_wish_stops_the_older_ones_fetch(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.preparer.block.clear()
        pi.wish(1)
        await pi.is_in("fetching")
        pi.wish(2)
        await pi.until(lambda: len(pi.preparer.jobs) == 2, "the second job")
        pi.preparer.block.set()
        await pi.serves(2)
        assert pi.preparer.cancelled == 1


async def test_over_budget_waits_for_the_next_day(tmp_path: Path) -> None:
    async with device(tmp_path, bytes_per_day=5000) as pi:
        pi.preparer.fail = [BudgetExceeded("needs 9000 bytes, 4000 are left.")]
        pi.wish(1)
        await pi.is_in("waiting", "budget")
        assert pi.preparer.jobs[0].byte_limit is not None and pi.preparer.jobs[0].byte_limit <= 5000
        assert pi.row().retry_at > pi.database.clock()
        pi.plane.set_desired({"modelsync": {"policy": {"bytes_per_day": 4000, "rate_limit": 7}}})
        await pi.serves(1)
        assert pi.preparer.jobs[1].byte_limit is not None and pi.preparer.jobs[1].byte_limit < 4000
        assert pi.preparer.jobs[1].rate_limit == 7


async def test_nonsense_in_the_twin_is_reported_and_changes_nothing(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        pi.plane.set_desired(
            {"modelsync": {"models": {NAME: {"version": "two"}, "Bad Name": 3}, "policy": [1], "extra": {"x": 1}}}
        )
        await pi.until(lambda: "problems" in pi.shown(), "the problems")
        problems = pi.shown()["problems"]
        assert set(problems) == {f"models/{NAME}/version", "models/Bad_Name", "policy"}
        assert pi.row().state == "active" and len(pi.preparer.jobs) == 1
        pi.plane.set_desired({"modelsync": 7})
        await pi.until(lambda: "modelsync" in pi.shown().get("problems", {}), "the problem")
        assert pi.row().state == "active"


@virtually
async def test_an_idle_daemon_writes_nothing(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.until(lambda: pi.shown_model().get("state") == "active")
        await asyncio.sleep(0.5)
        before, patches = pi.database.connection.total_changes, len(pi.plane.patches)
        pi.resident.commands.status()
        pi.resident.commands.sync()
        await asyncio.sleep(0.5)
        assert pi.database.connection.total_changes == before and len(pi.plane.patches) == patches


@virtually
async def test_a_disk_that_takes_nothing_is_waited_out(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        pi.database.connection.execute("PRAGMA query_only=ON")
        pi.wish(2)
        await asyncio.sleep(0.3)
        current = pi.current()
        assert current and current.version == 1 and not pi.task.done()
        pi.database.connection.execute("PRAGMA query_only=OFF")
        await pi.serves(2)


@virtually
async def test_a_disk_that_fills_in_mid_update_is_waited_out(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.preparer.block.clear()
        pi.wish(1)
        await pi.is_in("fetching")
        pi.database.connection.execute("PRAGMA query_only=ON")
        pi.preparer.block.set()
        await asyncio.sleep(0.3)
        assert not pi.task.done() and pi.current() is None
        pi.database.connection.execute("PRAGMA query_only=OFF")
        await pi.serves(1)


async def test_a_clock_that_was_set_back_does_not_stop_retries(tmp_path: Path) -> None:
    now = [2_000_000_000.0]
    async with device(tmp_path, clock=lambda: now[0]) as pi:
        pi.preparer.fail = [BudgetExceeded("too much.")]
        pi.wish(1)
        await pi.is_in("waiting", "budget")
        now[0] = 1_800_000_000.0
        pi.resident.signals.look.set()
        await pi.serves(1)


async def test_no_origin_waits_and_says_so(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.plane.set_desired({"modelsync": {"origin": "ftp://x", "models": {NAME: {"version": 1}}}})
        await pi.is_in("waiting", "origin")
        pi.wish(1)
        await pi.serves(1)


async def test_a_trial_and_the_end_of_a_process_reach_the_reported_twin(tmp_path: Path) -> None:
    trial = {
        "canary": {"requests": 100, "errors": 1},
        "shadow": {"requests": 9, "errors": 0, "skipped": 1, "rows": 9, "agreed": 8},
    }

    def report(state: str, **more: object) -> Report:
        document = {"pid": 7, "pointer": "candidate", "generation": 2, "version": 2, "digest": reference(2).digest}
        return Report.parse({**document, "state": state, **more})

    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        await pi.until(lambda: pi.shown_model().get("state") == "active", "the report")
        assert "inference" not in pi.shown_model()
        pi.resident.commands.report(NAME, report("deferred", trial={"canary": {"requests": 1, "errors": 0}}))
        await pi.until(lambda: pi.shown_model().get("inference"), "the trial's beginning")
        assert pi.shown_model()["inference"] == {"trial": {"version": 2, "canary": {"requests": 1, "errors": 0}}}
        patches = len(pi.plane.patches)
        for requests in range(2, 50):
            more = {"canary": {"requests": requests, "errors": 0}}
            pi.resident.commands.report(NAME, report("deferred", trial=more))
        pi.resident.commands.report(NAME, report("refused", trial=trial, restarts=1, ended="was killed by SIGKILL"))
        await pi.until(lambda: pi.shown_model()["inference"].get("restarts"), "the verdict")
        expected = {"trial": {"version": 2, **trial}, "restarts": 1, "ended": "was killed by SIGKILL"}
        assert pi.shown_model()["inference"] == expected
        assert len(pi.plane.patches) == patches + 1, "counters that only rise do not urge"
    async with device(tmp_path) as pi:
        await pi.until(lambda: pi.resident.commands.status()["models"][NAME]["inference"] == expected, "what was kept")
