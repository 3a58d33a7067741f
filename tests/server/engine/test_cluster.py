"""A cluster that others run: it does what is asked, and what its workers say is never more than data here."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from modelsync_protocol.errors import LocalError, RefusedError, UsageError
from modelsync_server.engine import Call, Engine, answers, open_engine, plain_pickle
from modelsync_server.engine.cluster import ClusterEngine

WORK = "tests.support.engine_work:"


class Code:
    """What makes a process that unpickles it make a folder; not this one, where scheduler and worker are, and may."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return spring, (self.mark, os.getpid())


def spring(mark: Path, home: int) -> Code:
    """What a pickle of Code calls."""
    if os.getpid() != home:
        mark.mkdir()
    return Code(mark)


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """Joined to a scheduler and one worker, which answers in this process."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("MODELSYNC_KEYS", "/somewhere")
    async with (
        distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as scheduler,
        distributed.Worker(scheduler.address, nthreads=1, dashboard=False),
    ):
        found = open_engine("dask", scheduler.address)
        assert isinstance(found, ClusterEngine)
        yield found
        await found.close()
        await found.close()


async def test_it_answers_and_no_lie_is_more_than_a_sentence(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    really, lies = answers.answer, list[Any]()

    def lying(*call: Any) -> Any:
        lie = lies.pop() if lies else really(*call)
        if isinstance(lie, Exception):
            raise lie
        return lie

    monkeypatch.setattr(answers, "answer", lying)
    told: list[tuple[int, int]] = []
    calls = [Call(WORK + "add", {"first": n, "second": 10}) for n in range(3)]
    assert await engine.run(calls, lambda number, found: told.append((number, found))) == [10, 11, 12]
    assert sorted(told) == [(0, 10), (1, 11), (2, 12)]
    with pytest.raises(RefusedError, match=r"^this is refused\.$"):
        await engine.run([Call(WORK + "refuse")])
    for lie in (Code(mark), {"answer": Code(mark)}, {"answer": {1}}, ["answer"], {"error": 1, "exit_code": []}, None):
        lies[:] = [lie]
        with pytest.raises(RefusedError, match="a worker's answer can't be read; nothing was signed"):
            await engine.run(calls[:1])
        assert not mark.exists(), "who signs has called what a worker named"
    lies[:] = [RuntimeError("a bug", Code(mark))]
    with pytest.raises(RuntimeError, match="a bug"):
        await engine.run(calls[:1])
    assert not mark.exists()


async def test_an_address_that_is_none_is_said_and_the_engine_goes_on() -> None:
    pytest.importorskip("distributed")
    engine = open_engine("dask", "nonsense://x")
    assert engine is not None
    for _ in range(2):
        with pytest.raises(UsageError, match=r"nonsense://x.*it is tcp://HOST:PORT"):
            await engine.run([Call(WORK + "process")])
    await engine.close()


@pytest.mark.long
async def test_a_call_that_kills_its_workers_is_named(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    async with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", asynchronous=True
    ) as cluster:
        engine = open_engine("dask", cluster.scheduler_address)
        assert engine is not None
        try:
            deadly = Call(WORK + "die", {"marks": str(tmp_path), "times": 99}, "the update from a to b")
            with pytest.raises(LocalError, match="the update from a to b ended its worker"):
                await engine.run([deadly])
        finally:
            await engine.close()


@pytest.mark.parametrize("value", [os.system, Path("a"), eval, SystemExit, getattr, OrderedDict(a=1), datetime.now()])
def test_what_a_pickle_names_is_not_called(value: object) -> None:
    (found,) = plain_pickle.loads(pickle.dumps([value]))
    assert isinstance(found, plain_pickle.Inert) or issubclass(found, plain_pickle.Inert)


def test_plain_values_and_errors_are_unpickled() -> None:
    value = [{"a": (1, 2.5, None, True)}, b"x", "y"]
    assert plain_pickle.loads(pickle.dumps(value, 5)) == value
    large = bytearray(b"z" * 9)
    outside: list[pickle.PickleBuffer] = []
    data = pickle.dumps([pickle.PickleBuffer(large)], 5, buffer_callback=outside.append)
    assert plain_pickle.loads(data, buffers=outside) == [large]
    error = plain_pickle.loads(pickle.dumps(ValueError("z")))
    assert isinstance(error, ValueError)
    assert error.args == ("z",)
