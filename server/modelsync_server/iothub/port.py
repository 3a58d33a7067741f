"""What commands need of a hub's service side, or of a broker that stands in for it. A port, no implementation.

`ServiceClient` implements it, and the services of the room `broker`; their errors are ServiceClient's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from modelsync_server.iothub.service_client import MethodResult

Json = dict[str, Any]


class HubService(Protocol):
    """Twins, calls, queries; configurations and registrations where there are such."""

    def now(self) -> float:
        """The hub's clock, seconds since 1970."""
        ...

    async def twin(self, device: str, module: str | None = None) -> Json:
        """The whole twin as REST gives it."""
        ...

    async def set_desired(
        self, device: str, patch: Json, module: str | None = None, *, etag: str | None = None
    ) -> Json:
        """Merge `patch` into the desired properties; return the new twin."""
        ...

    async def update_twin(self, device: str, body: Json, module: str | None = None, *, etag: str | None = None) -> Json:
        """Change tags or desired properties; return the new twin."""
        ...

    def query(self, text: str, *, page: int = 100) -> AsyncIterator[Json]:
        """Every twin, or row, that a query finds."""
        ...

    async def query_page(
        self, text: str, *, page: int = 100, token: str | None = None
    ) -> tuple[list[Json], str | None]:
        """One page of a query."""
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
        """Call a direct method."""
        ...

    async def configurations(self) -> list[Json]:
        """All configurations."""
        ...

    async def put_configuration(self, identifier: str, body: Json, *, etag: str | None = None) -> Json:
        """Create or change a configuration."""
        ...

    async def delete_configuration(self, identifier: str, *, etag: str | None = None) -> None:
        """Remove a configuration."""
        ...

    async def change_registry(self, items: Sequence[Json]) -> list[Json]:
        """Up to 100 changes of registry or twins at once."""
        ...


async def twins(hub: HubService, where: str | None = None) -> list[Json]:
    """The twins of all devices that satisfy a condition of the query language."""
    text = "SELECT * FROM devices" + (f" WHERE {where}" if where else "")
    return [twin async for twin in hub.query(text, page=1000)]
