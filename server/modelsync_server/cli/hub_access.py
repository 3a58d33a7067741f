"""How every command finds the hub that it is to ask; what takes long to load is loaded when a hub is asked."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from modelsync_protocol.errors import UsageError
from modelsync_server.broker.address import is_broker
from modelsync_server.iothub.connection_string import ServiceConnection, parse_service

if TYPE_CHECKING:
    from modelsync_server.iothub.port import HubService
    from modelsync_server.rollout.bases import FleetBases

SERVICE_VARIABLE = "MODELSYNC_SERVICE"
STATE_VARIABLE = "MODELSYNC_HUB_STATE"
_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")

_T = TypeVar("_T")

StateOption = Annotated[Path | None, typer.Option("--state", help="The hub's state directory.", envvar=STATE_VARIABLE)]
ModuleOption = Annotated[str | None, typer.Option("--module", help="A module of the device.")]
ServiceOption = Annotated[
    str | None,
    typer.Option(
        "--service",
        help="Service connection string of the hub, its host name to sign in with Entra ID, or a broker's URL: "
        "mqtts://user:password@broker:8883/PREFIX?ca=FILE; aws://ENDPOINT?cert=FILE&key=FILE.",
        envvar=SERVICE_VARIABLE,
    ),
]


def ask_hub(service: str | None, state: Path | None, ask: Callable[[HubService], Awaitable[_T]]) -> _T:
    """Connect to the hub that the options name, and return what `ask` does there."""

    async def run() -> _T:
        async with open_hub(service, state) as client:
            return await ask(client)

    return asyncio.run(run())


@asynccontextmanager
async def open_hub(service: str | None, state: Path | None) -> AsyncIterator[HubService]:
    """A client of what the options name: a connection string, a host name (Entra ID), a broker, or a local state."""
    if service is not None and is_broker(service):
        from modelsync_server.broker.opening import open_service

        async with open_service(service) as found_there:
            yield found_there
        return
    from modelsync_server.iothub.service_client import ServiceClient

    found = connection(service, state)
    async with AsyncExitStack() as stack:
        bearer = None
        if not found.key:
            from modelsync_server.iothub.entra import EntraSignIn

            bearer = await stack.enter_async_context(EntraSignIn())
        yield await stack.enter_async_context(ServiceClient(found, bearer=bearer))


def connection(service: str | None, state: Path | None) -> ServiceConnection:
    """How to reach the hub that the options name; UsageError if they name none."""
    if service is not None and is_broker(service):
        raise UsageError("this needs an IoT hub, Azure's or the local one: a broker can't do it.")
    if service is not None:
        return (
            ServiceConnection(service.strip(), "", "") if _HOST.fullmatch(service.strip()) else parse_service(service)
        )
    from modelsync_server.hub.hub import stored_service
    from modelsync_server.hub.state import State

    directory = directory_of(state)
    if not (directory / "hub.db").exists():
        raise UsageError(
            f"no hub is known: give --service with a service connection string (or set {SERVICE_VARIABLE}), "
            "or --state of a local hub."
        )
    with State(directory) as opened:
        return stored_service(opened)


def directory_of(state: Path | None) -> Path:
    """Where the local hub's state lies."""
    if state is not None:
        return state
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "modelsync" / "hub"


def held_by_fleet(
    store: str, name: str, most: int, module: str | None, service: str | None, state: Path | None
) -> FleetBases:
    """The versions that `publish --hub` makes updates from: those of devices, or of modules called `module`."""
    from modelsync_server.rollout.bases import fleet_bases
    from modelsync_server.rollout.pacing import PacedHub
    from modelsync_server.rollout.target import Kind, Target
    from modelsync_server.store import open_store

    target = Target() if module is None else Target(Kind.MODULE, module)
    return ask_hub(service, state, lambda client: fleet_bases(open_store(store), PacedHub(client), name, most, target))
