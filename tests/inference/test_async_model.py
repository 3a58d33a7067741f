"""The asyncio handle: predictions, leases, holds and listeners, without blocking the loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelsync_inference import AsyncHotModel, InputError, NotServingError, Outcome, Settings
from tests.support.datadir import DataDir
from tests.support.toy_runtime import ToyRuntime, toy
from tests.support.waiting import PATIENCE_SECONDS

X = {"X": [[1, 2, 3]]}
ALONE = Settings(poll_seconds=0.02, watch=False, link=False)


async def until_version(model: AsyncHotModel, version: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await model.predict(X)).version != version:
            pass


async def test_tasks_predict_lease_hold_and_hear(tmp_path: Path) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    one, two = (data.install(n, {"model.onnx": toy(n)}) for n in (1, 2))
    heard: asyncio.Queue[Outcome] = asyncio.Queue()
    model = AsyncHotModel(tmp_path, "anomaly", runtime=runtime, settings=ALONE)
    model.subscribe(heard.put_nowait)
    async with model:
        with pytest.raises(NotServingError, match=r"no current\.json"):
            await model.wait_ready(0.01)
        data.point("current", one, 1)
        await model.wait_ready(20)
        assert (await heard.get()).state == "serving"
        assert {p.version for p in await asyncio.gather(*(model.predict(X) for _ in range(10)))} == {1}
        with pytest.raises(InputError):
            await model.predict({"Z": 1})
        async with model.lease() as lease:
            async with model.hold():
                data.point("current", two, 2, one)
                assert (await heard.get()).state == "deferred"
                assert (await model.predict(X)).version == 1
            await until_version(model, 2)
            assert (await lease.run(X, ["tag"])).outputs["tag"].tolist() == [1]
            assert lease.version == 1


async def test_the_loop_goes_on_while_a_run_takes_its_time(tmp_path: Path) -> None:
    data, runtime = DataDir(tmp_path), ToyRuntime()
    data.point("current", data.install(1, {"model.onnx": toy(1)}), 1)
    async with AsyncHotModel(tmp_path, "anomaly", runtime=runtime, settings=ALONE) as model:
        await model.wait_ready(20)
        runtime.run_gate.clear()
        slow = asyncio.ensure_future(model.predict(X))
        await asyncio.sleep(0.02)
        assert not slow.done()
        runtime.run_gate.set()
        assert (await slow).version == 1
