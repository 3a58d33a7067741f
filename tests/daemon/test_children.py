"""The worker child: its answer comes back as types, its errors as our errors, and it stops the moment it is told."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.build.request import OverBudget
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.transfer.errors import BudgetExceeded
from modelsync_daemon.workers.messages import EventCallback, Job, WorkerDied, error_of, kind_of
from modelsync_daemon.workers.worker_client import WORKER_COMMAND, ChildPreparer
from modelsync_protocol.errors import FormatError, LocalError, RefusedError, UnreachableError, UsageError
from tests.support.waiting import PATIENCE_SECONDS

JOB = Job("anomaly", 1, "http://127.0.0.1:1", "/nowhere", quarantined=("a" * 64,))
OUTCOME = {
    "name": "anomaly", "version": 1, "digest": "b" * 64, "held": False, "kind": "update", "bytes": 5, "requests": 1,
    "received": 7, "sent": 3, "wire_requests": 2, "withdrawn": [1, 2],
}  # fmt: skip


async def _run(tmp_path: Path, code: str, on_event: EventCallback = lambda event: None) -> Any:
    script = "import json, os, sys, time\njob = json.loads(sys.stdin.readline())\n" + code
    with DataDir(tmp_path).lock() as lock:
        preparer = ChildPreparer(lock, [sys.executable, "-c", script])
        return await preparer.prepare(JOB, on_event)


def _say(document: Any) -> str:
    return f"print({json.dumps(document)!r}, flush=True)\n"


async def test_events_and_outcome_come_through(tmp_path: Path) -> None:
    events: list[Mapping[str, Any]] = []
    told = [{"event": "state", "state": "planning"}, {"event": "wire", "received": 1, "sent": 2}]
    code = "".join(map(_say, told)) + "assert job['quarantined']\n" + _say({"event": "result", "outcome": OUTCOME})
    outcome = await _run(tmp_path, code, events.append)
    assert events == told and outcome.withdrawn == (1, 2) and outcome.kind == "update"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("usage", UsageError),
        ("refused", RefusedError),
        ("unreachable", UnreachableError),
        ("local", LocalError),
        ("budget", BudgetExceeded),
        ("defect", WorkerDied),
        ("from a newer version", WorkerDied),
    ],
)
async def test_errors_come_back_as_ours(tmp_path: Path, kind: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="because"):
        await _run(tmp_path, _say({"event": "error", "kind": kind, "text": "because."}))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("sys.exit(3)", "ended with code 3"),
        ("print('no json')", "unknown"),
        ("print('{}')", "unknown"),
        (_say({"event": "result", "outcome": {"name": "a"}}), "unknown"),
        *(
            (_say({"event": "result", "outcome": OUTCOME | lie}), "unknown")
            for lie in (
                {"digest": "../../../../etc"},
                {"name": "../other"},
                {"name": "other"},
                {"version": "1/../.."},
                {"version": 2},
                {"received": "many"},
                {"bytes": -1},
                {"kind": "free"},
                {"withdrawn": ["all"]},
            )
        ),
        (_say({"event": "error", "kind": "open", "text": "t", "version": 1, "digest": "../x"}), "unknown"),
    ],
)
async def test_a_worker_that_dies_or_babbles_is_an_error(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(WorkerDied, match=words):
        await _run(tmp_path, code)


async def test_cancelling_kills_the_child_before_it_returns(tmp_path: Path) -> None:
    started: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
    code = "print(json.dumps({'event': 'pid', 'pid': os.getpid()}), flush=True)\ntime.sleep(60)"
    task = asyncio.create_task(_run(tmp_path, code, started.put_nowait))
    async with asyncio.timeout(PATIENCE_SECONDS):
        event = await started.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{event['pid']}").exists()
    DataDir(tmp_path).lock().close()


async def test_a_child_that_can_not_start_is_an_error(tmp_path: Path) -> None:
    with DataDir(tmp_path).lock() as lock, pytest.raises(WorkerDied, match="can't be started"):
        await ChildPreparer(lock, [str(tmp_path / "none")]).prepare(JOB, lambda event: None)


def test_every_error_travels_under_its_own_name() -> None:
    for error in (UsageError, RefusedError, UnreachableError, LocalError, BudgetExceeded):
        assert type(error_of(kind_of(error("x")), "x")) is error
    assert kind_of(FormatError("x")) == "refused" and kind_of(OverBudget(2, 1)) == "budget"
    assert kind_of(ZeroDivisionError()) == "defect"


async def test_the_real_worker_answers_an_unreachable_origin_in_words(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    with data.lock() as lock:
        database = Database.open(data)
        database.transition("anomaly", "resolving")
        job = Job("anomaly", 1, "http://127.0.0.1:1", str(tmp_path), stall_seconds=1.0)
        with pytest.raises((RefusedError, UnreachableError, UsageError)) as caught:
            await ChildPreparer(lock).prepare(job, lambda event: None)
        assert "Traceback" not in str(caught.value) and str(caught.value).endswith(".")


def test_the_worker_ends_when_its_stdin_ends() -> None:
    done = subprocess.run(WORKER_COMMAND, input=b"", capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
