"""Keeps a rollout below the hub's rates: a wrapper of the port that waits before a call would be one too many.

The rates are a share of Azure's for one unit, so that other clients of the hub have room. It wraps any FleetHub. A hub
without rates (the local one, unless it was started with some) is not waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from modelsync_protocol import near_names
from modelsync_protocol.errors import UsageError
from modelsync_server.iothub.service_client import MethodResult
from modelsync_server.rollout.port import FleetHub, Json

Limit = tuple[int, float]
"""At most so many calls in so many seconds."""

LIMITS: Mapping[str, Limit] = {
    "queries": (16, 60.0),
    "configurations": (16, 60.0),
    "registry": (80, 60.0),
    "methods": (20, 1.0),
}
"""Four fifths of what one S1 unit allows (docs/fleet.md)."""

TIERS: Mapping[str, Mapping[str, Limit]] = {
    "S1": LIMITS,
    "S2": {**LIMITS, "methods": (96, 1.0)},
    "S3": {"queries": (800, 60.0), "configurations": (16, 60.0), "registry": (4000, 60.0), "methods": (4800, 1.0)},
    "none": {},
}
"""The limits by the hub's tier, for one unit; `none`: a hub that has no rates."""
DEFAULT_TIER = "S1"


def limits_of(tier: str) -> Mapping[str, Limit]:
    """The limits to keep to at a hub of this tier; UsageError for one that there is not."""
    if tier not in TIERS:
        meant = near_names.hint(tier, TIERS)
        raise UsageError(f"{tier!r:.40} is no tier of a hub{meant}; take one of {', '.join(TIERS)}.")
    return TIERS[tier]


class PacedHub:
    """A FleetHub whose calls wait for their turn."""

    def __init__(
        self,
        hub: FleetHub,
        limits: Mapping[str, Limit] = LIMITS,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._hub, self._limits, self._clock, self._sleep = hub, limits, clock, sleep
        self._calls: dict[str, deque[float]] = {kind: deque() for kind in limits}
        self._locks = {kind: asyncio.Lock() for kind in limits}

    async def _turn(self, kind: str) -> None:
        if kind not in self._limits:
            return
        most, seconds = self._limits[kind]
        calls = self._calls[kind]
        async with self._locks[kind]:
            while len(calls) >= most:
                left = calls[0] + seconds - self._clock()
                if left > 0:
                    await self._sleep(left)
                calls.popleft()
            calls.append(self._clock())

    def now(self) -> float:
        return self._hub.now()

    async def configurations(self) -> list[Json]:
        await self._turn("configurations")
        return await self._hub.configurations()

    async def put_configuration(self, identifier: str, body: Json, *, etag: str | None = None) -> Json:
        await self._turn("configurations")
        return await self._hub.put_configuration(identifier, body, etag=etag)

    async def delete_configuration(self, identifier: str, *, etag: str | None = None) -> None:
        await self._turn("configurations")
        await self._hub.delete_configuration(identifier, etag=etag)

    async def query_page(
        self, text: str, *, page: int = 100, token: str | None = None
    ) -> tuple[list[Json], str | None]:
        await self._turn("queries")
        return await self._hub.query_page(text, page=page, token=token)

    async def change_registry(self, items: Sequence[Json]) -> list[Json]:
        await self._turn("registry")
        return await self._hub.change_registry(items)

    async def invoke(
        self,
        device: str,
        method: str,
        payload: Any = None,
        module: str | None = None,
        *,
        response_seconds: int = 30,
        connect_seconds: int = 0,
    ) -> MethodResult:
        await self._turn("methods")
        return await self._hub.invoke(
            device, method, payload, module, response_seconds=response_seconds, connect_seconds=connect_seconds
        )
