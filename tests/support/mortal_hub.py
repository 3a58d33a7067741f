"""A FleetHub that dies after a chosen number of calls, as a process that is killed: the call was made, nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelsync_server.iothub.service_client import MethodResult
from modelsync_server.rollout.port import FleetHub, Json


class Killed(BaseException):
    """The end; no handler of errors catches it."""


class MortalHub:
    """Passes `lives` calls on to `hub`, and dies right after the last of them. None lives for ever."""

    def __init__(self, hub: FleetHub, lives: int | None = None) -> None:
        self._hub, self._lives = hub, lives
        self.calls: list[str] = []

    def _done(self, what: str) -> None:
        self.calls.append(what)
        if self._lives is not None and len(self.calls) >= self._lives:
            raise Killed(what)

    def now(self) -> float:
        return self._hub.now()

    async def configurations(self) -> list[Json]:
        found = await self._hub.configurations()
        self._done("list")
        return found

    async def put_configuration(self, identifier: str, body: Json, *, etag: str | None = None) -> Json:
        made = await self._hub.put_configuration(identifier, body, etag=etag)
        self._done(f"put {identifier}")
        return made

    async def delete_configuration(self, identifier: str, *, etag: str | None = None) -> None:
        await self._hub.delete_configuration(identifier, etag=etag)
        self._done(f"delete {identifier}")

    async def query_page(
        self, text: str, *, page: int = 100, token: str | None = None
    ) -> tuple[list[Json], str | None]:
        found = await self._hub.query_page(text, page=page, token=token)
        self._done("query")
        return found

    async def change_registry(self, items: Sequence[Json]) -> list[Json]:
        errors = await self._hub.change_registry(items)
        self._done("registry")
        return errors

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
        answer = await self._hub.invoke(
            device, method, payload, module, response_seconds=response_seconds, connect_seconds=connect_seconds
        )
        self._done("invoke")
        return answer
