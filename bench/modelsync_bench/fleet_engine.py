"""Simulates fleets on an engine of the publisher's, a call for each block of devices: the same on any workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from modelsync_bench.fleet import Fleet, Outcome, Way, blocks, joined, simulate, simulate_block
from modelsync_server.engine import Call, Engine, open_engine


def simulated(
    months: Sequence[tuple[Way, Fleet]],
    engine: str | None = None,
    address: str | None = None,
    workers: int | None = None,
) -> list[Outcome]:
    """The outcome of each month; without an engine here. Raises what `open_engine` and `Engine.run` do."""
    opened = open_engine(engine, address, workers)
    if opened is None:
        return [simulate(way, fleet) for way, fleet in months]
    return asyncio.run(_simulated(months, opened))


async def _simulated(months: Sequence[tuple[Way, Fleet]], engine: Engine) -> list[Outcome]:
    calls = [
        Call(
            "modelsync_bench.fleet_engine:block",
            {"way": asdict(way), "fleet": asdict(fleet), "number": number},
            f"block {number} of the fleet by {way.name}",
        )
        for way, fleet in months
        for number in range(blocks(fleet))
    ]
    try:
        answers = iter(await engine.run(calls))
    finally:
        await engine.close()
    return [joined([_outcome(next(answers)) for _ in range(blocks(fleet))], fleet) for _, fleet in months]


def block(way: dict[str, Any], fleet: dict[str, Any], number: int) -> dict[str, Any]:
    """A worker's call: the month of one block."""
    return asdict(simulate_block(Way(**_tuples(way)), Fleet(**_tuples(fleet)), number))


def _outcome(document: dict[str, Any]) -> Outcome:
    return Outcome(**_tuples(document))


def _tuples(document: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where these types have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}
