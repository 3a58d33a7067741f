"""The local IoT hub as one object: state, certificates and both sides, started and stopped together."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modelsync_protocol.errors import LocalError
from modelsync_server.hub import certificates
from modelsync_server.hub.configurations.engine import Configurations
from modelsync_server.hub.configurations.rest import ConfigurationRoutes
from modelsync_server.hub.device_side import DeviceSide, Limits, Outgoing, faithful
from modelsync_server.hub.devices import Devices
from modelsync_server.hub.messages import Messages
from modelsync_server.hub.registry import Registry
from modelsync_server.hub.router import Router
from modelsync_server.hub.service_side import ServiceSide
from modelsync_server.hub.state import State, exclusive
from modelsync_server.hub.traffic import Traffic
from modelsync_server.hub.twin_view import TwinView
from modelsync_server.iothub import connection_string
from modelsync_server.iothub.connection_string import ServiceConnection
from modelsync_server.iothub.identity import Identity

HUB_NAME = "modelsync-hub.local"
"""HostName in connection strings and tokens; clients connect to GatewayHostName."""
POLICY = "iothubowner"
DEFAULT_HOST = "127.0.0.5"
DEVICE_PORT = 8883
"""Fixed in azure-iot-device."""
SERVICE_PORT = 8443
EVALUATION_SECONDS = 300.0
"""As in Azure."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where a hub listens; `service_port` 0 takes any free one. Another `device_port` than 8883 suits relays only."""

    host: str = DEFAULT_HOST
    device_port: int = DEVICE_PORT
    service_port: int = SERVICE_PORT


class Hub:
    """A running hub: `async with Hub(directory, HubAddress("127.0.0.9")) as hub: …`.

    `outgoing` sees every message to a device and says how often and how late it is sent (faults in tests);
    `clock` gives the seconds since 1970 that tokens are checked against; `traffic` has the service side's rates and
    log; configurations are applied anew every `evaluation_seconds`, and whenever they or a twin's tags change. Raises
    LocalError if the state or the addresses can't be used. All methods belong on the event loop that started it.
    """

    def __init__(
        self,
        directory: Path,
        address: HubAddress | None = None,
        *,
        clock: Callable[[], float] = time.time,
        outgoing: Outgoing = faithful,
        limits: Limits | None = None,
        traffic: Traffic | None = None,
        evaluation_seconds: float = EVALUATION_SECONDS,
    ) -> None:
        self.directory = directory
        self.address = address or HubAddress()
        self._clock = clock
        self._outgoing = outgoing
        self._limits = limits
        self.traffic = traffic or Traffic()
        self._evaluation_seconds = evaluation_seconds
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(exclusive(self.directory))
            self.state = stack.enter_context(State(self.directory))
            self.messages = stack.enter_context(Messages(self.directory))
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self, stack: AsyncExitStack) -> None:
        host = self.address.host
        names = (HUB_NAME, host)
        paths = certificates.ensure(self.directory, host)
        self.ca_path = paths.ca
        self.registry = Registry(self.state)
        self.devices = Devices(self.state, self.registry, names, self._clock)
        view = TwinView(self.state, self.devices)
        self.configurations = Configurations(self.state, self.registry, view)
        self.registry.on_removed = self.configurations.forget
        Router(self.state, self.registry, self.devices, self.messages)
        context = paths.server_context()
        service = ServiceSide(
            self.registry,
            self.devices,
            view,
            ConfigurationRoutes(self.configurations),
            self.traffic,
            host_names=names,
            policies={POLICY: policy_key(self.state)},
            clock=self._clock,
        )
        self.device_side = DeviceSide(self.devices, paths.device_context(), self._clock, self._outgoing, self._limits)
        try:
            stack.push_async_callback(service.stop)
            service_port = await service.start(host, self.address.service_port, context)
            stack.push_async_callback(self.device_side.stop)
            device_port = await self.device_side.start(host, self.address.device_port)
        except OSError as error:
            raise LocalError(
                f"the hub can't listen on {host} (ports {self.address.device_port} and "
                f"{self.address.service_port}): {error.strerror or error}; choose another --host."
            ) from error
        evaluation = asyncio.create_task(self._evaluate())
        stack.push_async_callback(_cancelled, evaluation)
        self.address = HubAddress(host, device_port, service_port)
        self.state.remember("host", host)
        self.state.remember("service", f"{host}:{service_port}")

    async def _evaluate(self) -> None:
        """Apply configurations at the start (to devices that were added meanwhile), and every now and then."""
        while True:
            try:
                self.configurations.apply_all()
            except LocalError as error:
                _log.error("configurations can't be applied: %s", error)
            await asyncio.sleep(self._evaluation_seconds)

    @property
    def service(self) -> ServiceConnection:
        """What a service client needs to reach and trust this hub."""
        return stored_service(self.state)

    @property
    def ca_pem(self) -> str:
        """The CA to pass as the SDK's `server_verification_cert`."""
        return self.ca_path.read_text()

    def add_device(self, device: str, module: str | None = None) -> str:
        """Register a device, or a module (and its device), if need be; return its connection string for the SDK."""
        text = add_device(self.state, Identity(device, module))
        self.configurations.apply_to(Identity(device, module))
        return text

    def set_desired(self, device: str, patch: dict[str, Any], module: str | None = None) -> int:
        """Merge `patch` into desired properties as REST would; return their new `$version`. Raises HubError."""
        body = {"properties": {"desired": patch}}
        return self.registry.change(Identity(device, module), body).desired.version

    def reported(self, device: str, module: str | None = None) -> dict[str, Any]:
        """The reported properties without metadata, `$version` included. Raises HubError."""
        return self.registry.twin(Identity(device, module)).reported.for_device()

    def desired(self, device: str, module: str | None = None) -> dict[str, Any]:
        """The desired properties without metadata, `$version` included. Raises HubError."""
        return self.registry.twin(Identity(device, module)).desired.for_device()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def policy_key(state: State) -> str:
    """The key of the hub's policy, made on first use."""
    return state.setting_or("policy_key", base64.b64encode(secrets.token_bytes(32)).decode())


def add_device(state: State, identity: Identity, host: str | None = None) -> str:
    """Register an identity (and a module's device) if it is new; return its connection string.

    `host` is needed only if no hub ever ran on this state. May be repeated; keys stay.
    """
    if identity.module is not None:
        state.add(Identity(identity.device))
    state.add(identity)
    return connection_text(state, identity, host)


def connection_text(state: State, identity: Identity, host: str | None = None) -> str:
    """The connection string of a registered identity."""
    registration = state.find(identity)
    if registration is None:
        raise LocalError(f"{identity} was removed while it was being added; try again.")
    gateway = host or state.setting("host") or DEFAULT_HOST
    return connection_string.format_device(identity, HUB_NAME, gateway, registration.primary_key)


def stored_service(state: State) -> ServiceConnection:
    """The service connection of the hub that last ran on this state; LocalError if none ever did."""
    gateway = state.setting("service")
    if gateway is None:
        raise LocalError(f"no hub ever ran on {state.directory}; start one with `modelsync hub --state …` first.")
    ca_file = (state.directory / "ca.pem").absolute()
    return ServiceConnection(HUB_NAME, POLICY, policy_key(state), gateway, ca_file)
