"""What a rollout needs of a hub: the calls of the service REST, Azure's or the local hub's. A port, no implementation.

`ServiceClient` implements it; so do the simulated fleet of the benchmark and the pacing wrapper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from modelsync_server.iothub.service_client import MethodResult

Json = dict[str, Any]


class FleetHub(Protocol):
    """Errors are ServiceClient's: ConflictError, NotFoundError, RefusedError, UsageError, UnreachableError."""

    def now(self) -> float:
        """The hub's clock, seconds since 1970, as far as its answers told it."""
        ...

    async def configurations(self) -> list[Json]:
        """All configurations with the counts of their metrics."""
        ...

    async def put_configuration(self, identifier: str, body: Json, *, etag: str | None = None) -> Json:
        """Create (no `etag`) or change a configuration."""
        ...

    async def delete_configuration(self, identifier: str, *, etag: str | None = None) -> None:
        """Remove a configuration."""
        ...

    async def query_page(
        self, text: str, *, page: int = 100, token: str | None = None
    ) -> tuple[list[Json], str | None]:
        """One page of a query."""
        ...

    async def change_registry(self, items: Sequence[Json]) -> list[Json]:
        """Up to 100 changes of registry or twins at once; one error per failed item."""
        ...

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
        """A direct method."""
        ...


PAGE = 1000
"""Twins or rows in one page: Azure's most."""


async def rows(hub: FleetHub, text: str) -> list[Json]:
    """All rows of a query."""
    found, token = await hub.query_page(text, page=PAGE)
    while token is not None:
        more, token = await hub.query_page(text, page=PAGE, token=token)
        found += more
    return found


async def count(hub: FleetHub, text: str) -> int:
    """The answer of a query `SELECT COUNT() AS devices …`."""
    found, _ = await hub.query_page(text, page=PAGE)
    value = found[0].get("devices") if found else 0
    return value if type(value) is int else 0
