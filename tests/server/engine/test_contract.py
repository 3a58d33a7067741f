"""The engine's port, kept by every engine: order, errors, dead workers, calls that kill, names and addresses."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelsync_protocol.errors import LocalError, ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_server.engine import Call, Engine, open_engine
from modelsync_server.engine.answers import answer, result_of, versions

WORK = "tests.support.engine_work:"


@pytest.fixture(params=["local", "dask"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    found = open_engine(request.param, workers=2)
    assert found is not None
    yield found
    await found.close()
    await found.close()


async def test_answers_come_in_the_order_of_the_calls_and_each_is_told(engine: Engine) -> None:
    told: list[tuple[int, int]] = []
    calls = [Call(WORK + "add", {"first": n, "second": 10}) for n in range(7)]
    assert await engine.run(calls, lambda number, found: told.append((number, found))) == list(range(10, 17))
    assert sorted(told) == [(n, n + 10) for n in range(7)]
    assert await engine.run([Call(WORK + "later", {"value": "x"})]) == ["x"], "a coroutine, on workers that are there"
    assert await engine.run([]) == []


async def test_work_is_done_elsewhere_and_never_hears_of_keys(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSYNC_KEYS", "/somewhere")
    process, keys = await engine.run([Call(WORK + "process"), Call(WORK + "keys")])
    assert process != os.getpid()
    assert keys is None


async def test_temporary_files_of_workers_lie_where_the_callers_do_and_go(tmp_path: Path) -> None:
    """Not in Python's own folder, which may be memory."""
    engine = open_engine("local", workers=1, scratch=tmp_path)
    assert engine is not None
    (place,) = await engine.run([Call(WORK + "temporary")])
    assert Path(place).is_relative_to(tmp_path)
    await engine.close()
    assert not any(tmp_path.iterdir())


async def test_an_error_is_raised_here_as_it_was_there_and_the_engine_goes_on(engine: Engine) -> None:
    with pytest.raises(RefusedError, match=r"^this is refused\.$"):
        await engine.run([Call(WORK + "refuse"), Call(WORK + "add", {"first": 1, "second": 1})])
    with pytest.raises(RuntimeError, match="a bug"):
        await engine.run([Call(WORK + "fail")])
    assert await engine.run([Call(WORK + "add", {"first": 1, "second": 1})]) == [2]


async def test_a_call_whose_worker_was_killed_is_made_again_on_another(engine: Engine, tmp_path: Path) -> None:
    calls = [Call(WORK + "add", {"first": n, "second": 0}) for n in range(4)]
    calls.insert(1, Call(WORK + "die", {"marks": str(tmp_path), "times": 1}))
    assert await engine.run(calls) == [0, 2, 1, 2, 3]


async def test_what_cannot_be_reached_is_tried_again_and_said_at_last(engine: Engine, tmp_path: Path) -> None:
    assert await engine.run([Call(WORK + "cut_off", {"marks": str(tmp_path), "times": 1})]) == [2]
    assert engine.retried == 1


@pytest.mark.parametrize("engine", ["local", pytest.param("dask", marks=pytest.mark.long)], indirect=True)
async def test_a_call_that_kills_its_workers_is_named_after_three(engine: Engine, tmp_path: Path) -> None:
    deadly = Call(WORK + "die", {"marks": str(tmp_path), "times": 99}, "the update from a to b")
    with pytest.raises(LocalError, match="the update from a to b ended its worker 3 times"):
        await engine.run([deadly])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_worker_with_another_encoder_is_refused() -> None:
    here = versions()
    assert result_of(answer(WORK + "add", {"first": 1, "second": 2}, here)) == 3
    with pytest.raises(UsageError, match=f"zstandard {here['zstandard']} instead of 0.0.1"):
        result_of(answer(WORK + "add", {"first": 1, "second": 2}, here | {"zstandard": "0.0.1"}))


@pytest.mark.parametrize(
    ("name", "address", "workers", "sentence"),
    [
        ("ray", None, None, "take --engine dask"),
        ("daks", None, None, "did you mean 'dask'"),
        ("local", "tcp://a:1", None, "a cluster is --engine dask"),
        (None, "tcp://a:1", None, "needs --engine dask"),
        ("dask", "tcp://a:1", 2, "has its own"),
        ("local", None, 0, "--workers is 1 to"),
    ],
)
def test_what_does_not_go_together_is_said(
    name: str | None, address: str | None, workers: int | None, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        open_engine(name, address, workers)


def test_workers_alone_means_this_machine_and_nothing_means_no_engine() -> None:
    assert open_engine(None) is None
    found = open_engine(None, workers=3)
    assert found is not None
    assert found.shares_disk


@pytest.mark.parametrize(("address", "error"), [("tcp://127.0.0.1:1", UnreachableError), ("nonsense://x", UsageError)])
async def test_a_cluster_that_is_not_there_is_said(
    address: str, error: type[ModelsyncError], monkeypatch: pytest.MonkeyPatch
) -> None:
    dask_engine = pytest.importorskip("modelsync_server.engine.dask_engine")
    monkeypatch.setattr(dask_engine, "_CONNECT_SECONDS", 1)
    found = dask_engine.DaskEngine(address)
    with pytest.raises(error, match=address):
        await found.run([Call(WORK + "process")])
    await found.close()
    left = [one for one in gc.get_objects() if type(one).__name__ == "Client" and hasattr(one, "scheduler_file")]
    assert all(one.status == "closed" for one in left)  # or its __del__ raises on a loop that is gone
