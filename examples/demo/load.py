"""A steady stream of inference requests against an Open Inference Protocol v2 server, and what came of it.

Requests go out on schedule whatever the server does, so that a stall shows as latency and never as fewer requests.
It judges nothing but the answers; what counts as a broken promise is the demo's business.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import aiohttp

Request = Mapping[str, Any]
"""The JSON body of `POST /v2/models/NAME/infer`."""

MakeRequest = Callable[[int], Request]
"""The n-th request's body, n from 0."""

Check = Callable[[int, Mapping[str, Any]], str | None]
"""Given n and the answer's JSON: None, or one sentence on what is wrong with it (then the request failed)."""

REQUEST_TIMEOUT = 30.0
"""Seconds after which a request counts as failed."""


@dataclass(frozen=True, slots=True)
class Served:
    """A run of consecutive answers from one version; `since`: seconds from the stream's start to its first."""

    version: str
    since: float
    requests: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a stream saw. `failures`: reason to count. `latency_ms`: p50, p90, p99 and max of good answers."""

    requests: int
    failed: int
    failures: Mapping[str, int]
    timeline: Sequence[Served]
    latency_ms: Mapping[str, float]

    @property
    def swaps(self) -> int:
        """How often the version changed from one run of answers to the next."""
        return max(0, len(self.timeline) - 1)


@dataclass(frozen=True, slots=True)
class _Answer:
    """One good answer; times in seconds since the stream's start."""

    sent: float
    done: float
    version: str


class LoadStream:
    """`await start()`, …, `await stop()`; `report()` at any time. One use only.

    Requests run beside each other when the server is slower than the schedule; each is tried once.
    """

    def __init__(
        self,
        url: str,
        model: str,
        make_request: MakeRequest,
        *,
        rate: float = 50.0,
        check: Check | None = None,
    ) -> None:
        """`url`: scheme://host:port of the server; `rate`: requests a second (> 0)."""
        if rate <= 0:
            raise ValueError("rate is positive")
        self._endpoint = f"{url}/v2/models/{model}/infer"
        self._make_request, self._check, self._interval = make_request, check, 1 / rate
        self._answers: list[_Answer] = []
        self._failures: Counter[str] = Counter()
        self._began = 0.0
        self._schedule: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Begin sending; a server that is not there yet fails requests like any other trouble."""
        if self._schedule is not None:
            raise RuntimeError("a stream is started once; make another")
        self._began = time.monotonic()
        self._schedule = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Send no more, wait for what is under way (REQUEST_TIMEOUT at most). May be called again."""
        self._stopping.set()
        if self._schedule is not None:
            await self._schedule

    @property
    def version(self) -> str | None:
        """The version that gave the newest answer; None before the first."""
        return self._answers[-1].version if self._answers else None

    def report(self) -> LoadReport:
        """What came of the requests that have ended so far."""
        failed = self._failures.total()
        times = sorted((answer.done - answer.sent) * 1000 for answer in self._answers)
        return LoadReport(
            requests=len(self._answers) + failed,
            failed=failed,
            failures=MappingProxyType(dict(self._failures)),
            timeline=_timeline(self._answers),
            latency_ms=MappingProxyType(_percentiles(times)),
        )

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as requests,
        ):
            number = 0
            while not self._stopping.is_set():
                requests.create_task(self._one(session, number))
                number += 1
                wait = self._began + number * self._interval - time.monotonic()
                try:
                    await asyncio.wait_for(self._stopping.wait(), max(0.0, wait))
                except TimeoutError:
                    continue

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        sent = time.monotonic() - self._began
        try:
            async with session.post(self._endpoint, json=self._make_request(number)) as response:
                body = await response.read()
                status = response.status
        except TimeoutError:
            self._failures[f"no answer within {REQUEST_TIMEOUT:.0f} s"] += 1
            return
        except aiohttp.ClientError as error:
            self._failures[f"{type(error).__name__}: {error}"] += 1
            return
        done = time.monotonic() - self._began
        reason = f"status {status}: {body[:200].decode(errors='replace')}"
        if status == 200:
            try:
                answer = json.loads(body)
                version = str(answer["model_version"])
            except (ValueError, KeyError, TypeError):
                reason = "an answer that is not JSON with a model_version"
            else:
                problem = self._check(number, answer) if self._check else None
                if problem is None:
                    self._answers.append(_Answer(sent, done, version))
                    return
                reason = problem
        self._failures[reason] += 1


def _timeline(answers: Sequence[_Answer]) -> tuple[Served, ...]:
    """Runs of versions in the order of sending.

    Requests that overlap have no order: an old version's answer to a request that was sent before the new version's
    first answer came back belongs to the old run and is no swap back.
    """
    runs: list[tuple[str, list[_Answer]]] = []
    for answer in sorted(answers, key=lambda answer: answer.sent):
        if runs and answer.version == runs[-1][0]:
            runs[-1][1].append(answer)
        elif len(runs) > 1 and answer.version == runs[-2][0] and answer.sent < runs[-1][1][0].done:
            runs[-2][1].append(answer)
        else:
            runs.append((answer.version, [answer]))
    return tuple(Served(version, round(run[0].done, 3), len(run)) for version, run in runs)


def _percentiles(ordered: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and max of ascending values (nearest rank), rounded to 0.01; all 0 if there are none."""
    if not ordered:
        return {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
    last = len(ordered) - 1
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[round(rank * last)], 2) for name, rank in ranks.items()}
