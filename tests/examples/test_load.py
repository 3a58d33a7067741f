"""The load stream counts every request, says why requests failed, and tells a swap from overlapping answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from examples.demo.load import LoadReport, LoadStream
from tests.support.waiting import until

Handler = Callable[[int], Awaitable[web.Response]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """An inference server that answers the n-th request with `handler(n)`; yields its URL."""

    async def infer(request: web.Request) -> web.Response:
        return await handler((await request.json())["n"])

    app = web.Application()
    app.router.add_post("/v2/models/digits/infer", infer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answer(version: str, **more: Any) -> web.Response:
    return web.json_response({"model_name": "digits", "model_version": version, "outputs": [], **more})


async def seen(stream: LoadStream, version: str, swaps: int) -> None:
    await until(lambda: stream.version == version and stream.report().swaps == swaps)


async def run(url: str, least: int, **options: Any) -> LoadReport:
    """The report of a stream that ran until at least `least` requests had ended."""
    stream = LoadStream(url, "digits", lambda n: {"n": n, "inputs": []}, rate=500, **options)
    await stream.start()
    await until(lambda: stream.report().requests >= least)
    await stream.stop()
    await stream.stop()
    return stream.report()


async def test_counts_answers_versions_and_latencies() -> None:
    asked: list[int] = []

    async def handler(n: int) -> web.Response:
        asked.append(n)
        return answer("1" if n < 10 else "2")

    async with server(handler) as url:
        report = await run(url, 25)
    assert sorted(asked) == list(range(len(asked)))
    assert (report.requests, report.failed, report.failures) == (len(asked), 0, {})
    assert [(served.version, served.requests) for served in report.timeline] == [
        ("1", 10),
        ("2", len(asked) - 10),
    ]
    assert report.swaps == 1
    assert 0 < report.latency_ms["p50"] <= report.latency_ms["p99"] <= report.latency_ms["max"]


async def test_every_failure_has_its_reason() -> None:
    async def handler(n: int) -> web.Response:
        if n == 0:
            return web.Response(status=503, text="busy")
        if n == 1:
            return web.Response(text="not JSON")
        if n == 2:
            return web.json_response({"outputs": []})
        return answer("1", n=n)

    def check(n: int, body: Any) -> str | None:
        return "a wrong label" if body["n"] == 3 else None

    async with server(handler) as url:
        report = await run(url, 8, check=check)
    assert report.failures == {
        "status 503: busy": 1,
        "an answer that is not JSON with a model_version": 2,
        "a wrong label": 1,
    }
    assert report.failed == 4
    assert sum(served.requests for served in report.timeline) == report.requests - 4


async def test_server_that_is_not_there_fails_requests_and_not_the_stream() -> None:
    async with server(lambda n: asyncio.sleep(0, answer("1"))) as url:
        pass
    report = await run(url, 3)
    assert report.failed == report.requests >= 3
    assert report.timeline == ()
    assert report.latency_ms["max"] == 0


async def test_slow_server_delays_answers_and_not_the_schedule() -> None:
    gate = asyncio.Event()
    waiting = 0

    async def handler(n: int) -> web.Response:
        nonlocal waiting
        waiting += 1
        if waiting == 12:
            gate.set()
        await gate.wait()
        return answer("1")

    async with server(handler) as url:
        report = await run(url, 12)
    assert report.failed == 0, "12 requests were under way at once, or none had been answered"


async def test_old_answer_that_overlaps_the_new_versions_first_is_no_swap() -> None:
    next_is_here = asyncio.Event()

    async def handler(n: int) -> web.Response:
        if n == 5:
            await next_is_here.wait()
            return answer("2")
        if n == 6:
            next_is_here.set()
            return answer("1")
        return answer("1" if n < 5 else "2")

    async with server(handler) as url:
        report = await run(url, 12)
    assert report.swaps == 1
    assert [served.version for served in report.timeline] == ["1", "2"]
    assert report.timeline[0].requests == 6


async def test_return_to_the_old_version_is_a_swap() -> None:
    serving = "1"

    async def handler(n: int) -> web.Response:
        return answer(serving)

    async with server(handler) as url, asyncio.timeout(60):
        stream = LoadStream(url, "digits", lambda n: {"n": n}, rate=500)
        await stream.start()
        for version, swaps in (("1", 0), ("2", 1), ("1", 2)):
            serving = version
            await seen(stream, version, swaps)
        await stream.stop()
    assert [served.version for served in stream.report().timeline] == ["1", "2", "1"]


async def test_stream_is_started_once_and_needs_a_rate() -> None:
    with pytest.raises(ValueError, match="positive"):
        LoadStream("http://127.0.0.1:1", "digits", lambda n: {}, rate=0)
    stream = LoadStream("http://127.0.0.1:1", "digits", lambda n: {}, rate=1)
    await stream.stop()
    await stream.start()
    with pytest.raises(RuntimeError, match="once"):
        await stream.start()
    await stream.stop()
