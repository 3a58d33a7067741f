"""Dynamic batching: run together, answered apart, never of two versions, and only where the model allows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from onnx import TensorProto

from modelsync_inference import HotModel, InputError, Settings
from modelsync_inference.handle.repository import Repository
from modelsync_inference.http.dynamic_batcher import Batcher, BatchRules
from modelsync_inference.http.server import build_app
from modelsync_inference.model.batch_rules import obstacle
from modelsync_inference.model.lease import Prediction
from modelsync_inference.model.probe import Tolerance, parse_probe
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from tests.support.datadir import DataDir
from tests.support.tiny_models import echo, mixer, picky, row_scaler, scaler, scaler_probe
from tests.support.waiting import wait_until

SETTINGS = Settings(poll_seconds=0.02, watch=False, link=False, max_batch_size=8)
INFER = "/v2/models/anomaly/infer"


class Server:
    """A server that runs up to 8 rows together; requests wait 50 ms for each other."""

    def __init__(self, data: DataDir, model: HotModel, client: TestClient[Any, Any]) -> None:
        self.data, self.model, self.client = data, model, client

    async def serve(self, model: bytes, version: int = 1) -> None:
        self.data.point("current", self.data.install(version, {"model.onnx": model}), version)
        await asyncio.to_thread(self.model.wait_ready, 30)

    async def infer(self, name: str, datatype: str, data: Sequence[Any], shape: list[int]) -> tuple[int, Any]:
        tensor = {"name": name, "shape": shape, "datatype": datatype, "data": data}
        async with self.client.post(INFER, json={"inputs": [tensor]}) as response:
            return response.status, await response.json()

    async def rows(self, *values: float) -> tuple[int, Any]:
        return await self.infer("X", "FP32", [v for value in values for v in (value,) * 3], [len(values), 3])

    async def statistics(self) -> dict[str, Any]:
        async with self.client.get("/v2/models/anomaly/stats") as response:
            found: dict[str, Any] = (await response.json())["model_stats"][0]
            return found


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    data = DataDir(tmp_path)
    models = Repository(tmp_path, lambda name: HotModel(tmp_path, name, settings=SETTINGS))
    model = models.add("anomaly")
    app = build_app(models, workers=2, max_request_bytes=100_000, batching=BatchRules(8, 0.05))
    async with TestClient(TestServer(app)) as client:
        yield Server(data, model, client)
    await asyncio.to_thread(models.close)


async def test_requests_run_together_and_each_gets_its_own_rows(server: Server) -> None:
    await server.serve(row_scaler(3))
    answers = await asyncio.gather(*(server.rows(*range(number, number + 1 + number % 3)) for number in range(16)))
    for number, (status, answer) in enumerate(answers):
        rows = range(number, number + 1 + number % 3)
        expected = [3.0 * row for row in rows for _ in range(3)]
        assert (status, answer["outputs"][0]["data"]) == (200, expected)
        assert answer["outputs"][0]["shape"] == [len(rows), 3]
    found = await server.statistics()
    assert found["inference_stats"]["success"]["count"] == 16
    assert found["inference_count"] == sum(1 + number % 3 for number in range(16)) == 31
    assert 4 <= found["execution_count"] < 16
    assert all(batch["batch_size"] <= 8 for batch in found["batch_stats"])
    assert found["inference_stats"]["queue"]["ns"] > 0
    assert server.model.status()["requests"] == 16


async def test_more_rows_than_a_batch_run_alone(server: Server) -> None:
    await server.serve(row_scaler(2))
    status, answer = await server.rows(*range(20))
    assert (status, answer["outputs"][0]["shape"]) == (200, [20, 3])


async def test_a_bad_request_hurts_only_itself(server: Server) -> None:
    await server.serve(picky(4))
    indices = [0, 1, 99, 2, 3, 4, -50]
    answers = await asyncio.gather(*(server.infer("index", "INT64", [index], [1]) for index in indices))
    for index, (status, answer) in zip(indices, answers, strict=True):
        if 0 <= index <= 4:
            assert (status, answer["outputs"][0]["data"]) == (200, [float(index)])
        else:
            assert status in (400, 500)
            assert "out" in answer["error"]
    misfits = [server.infer("X", "FP32", [1.0], [1]), server.infer("index", "FP32", [1.0], [1])]
    *bad, good = await asyncio.gather(*misfits, server.infer("index", "INT64", [1], [1]))
    assert [status for status, _ in bad] == [400, 400]
    assert good[0] == 200


async def test_a_batch_is_of_one_version(server: Server) -> None:
    await server.serve(row_scaler(1))
    stop, seen = asyncio.Event(), set[str]()

    async def ask() -> None:
        while not stop.is_set():
            status, answer = await server.rows(1.0)
            assert status == 200
            assert answer["outputs"][0]["data"] == [float(answer["model_version"])] * 3
            seen.add(answer["model_version"])

    asking = [asyncio.ensure_future(ask()) for _ in range(12)]
    for version in range(2, 8):
        server.data.point("current", server.data.install(version, {"model.onnx": row_scaler(version)}), version)
        await asyncio.to_thread(wait_until, partial(seen.__contains__, str(version)), f"version {version}")
    stop.set()
    await asyncio.gather(*asking)
    assert (await server.statistics())["execution_count"] < (await server.statistics())["inference_count"]


async def test_a_model_whose_outputs_have_no_row_for_each_row_is_not_batched(server: Server) -> None:
    await server.serve(scaler(2))
    answers = await asyncio.gather(*(server.rows(number) for number in range(5)))
    assert [answer["outputs"][0]["data"][0] for _, answer in answers] == [0.0, 2.0, 4.0, 6.0, 8.0]
    found = await server.statistics()
    assert found["execution_count"] == 5
    async with server.client.get("/status") as response:
        batching = (await response.json())["batching"]
    assert batching["on"] is False
    assert "output 'tag' has shape [1] for 2 rows" in batching["reason"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (row_scaler(2), None),
        (echo(TensorProto.STRING), None),
        (mixer(), "output 'y' of two requests that are run together differs"),
        (scaler(2), "output 'tag' has shape"),
    ],
)
def test_what_allows_batching(tmp_path: Path, model: bytes, reason: str | None) -> None:
    (tmp_path / "m.onnx").write_bytes(model)
    found = obstacle(OnnxRuntime().load(tmp_path / "m.onnx"), None)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_the_probes_tolerance_decides_how_alike_answers_have_to_be(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(mixer())
    model = OnnxRuntime().load(tmp_path / "m.onnx")
    probe = parse_probe(str(scaler_probe(0)).replace("'", '"').encode())
    assert "differs" in str(obstacle(model, probe))
    assert obstacle(model, replace(probe, tolerance=Tolerance(absolute=100.0))) is None


def test_a_lease_runs_a_batch_and_keeps_errors_apart(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.point("current", data.install(1, {"m.onnx": row_scaler(2)}), 1)
    with HotModel(tmp_path, "anomaly", settings=SETTINGS) as model:
        model.wait_ready(30)
        assert model.batches
        with model.lease() as lease:
            one, wrong, two = lease.run_batch([{"X": [[1, 2, 3]]}, {"X": [[1, 2]]}, {"X": [[4, 5, 6], [7, 8, 9]]}])
        assert isinstance(wrong, InputError)
        assert isinstance(one, Prediction) and isinstance(two, Prediction)
        assert one.batched == two.batched == 2
        assert (one.outputs["y"] == [[2, 4, 6]]).all()
        assert (two.outputs["y"] == np.array([[8, 10, 12], [14, 16, 18]])).all()


async def test_a_full_batch_does_not_wait_and_one_that_nobody_waits_for_is_dropped() -> None:
    ran: list[list[int]] = []

    def run(batch: Sequence[int]) -> list[int]:
        ran.append(list(batch))
        return [-number for number in batch]

    with ThreadPoolExecutor(1) as pool:
        batcher = Batcher[int, int](BatchRules(4, 3600.0), run, pool, 1)
        given_up = asyncio.ensure_future(batcher.submit("a", 7, 1))
        other_kind = asyncio.ensure_future(batcher.submit("b", 9, 1))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        answers = await asyncio.gather(*(batcher.submit("a", number, 1) for number in range(4)))
        assert answers == [0, -1, -2, -3]
        assert [number for batch in ran for number in batch] == [0, 1, 2, 3]
        assert not other_kind.done()
        other_kind.cancel()


async def test_what_fails_in_an_unforeseen_way_fails_its_batch_and_not_the_next() -> None:
    def run(batch: Sequence[int]) -> list[int]:
        if 13 in batch:
            raise OSError("no")
        return list(batch)

    with ThreadPoolExecutor(1) as pool:
        batcher = Batcher[int, int](BatchRules(4, 0.0), run, pool, 1)
        with pytest.raises(RuntimeError, match="no"):
            await batcher.submit("a", 13, 1)
        assert await batcher.submit("a", 5, 1) == 5
