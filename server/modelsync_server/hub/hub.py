"""The local IoT hub as one object: state, certificates and both sides, started and stopped together."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modelsync_protocol.errors import LocalError
from modelsync_server.hub import certificates
from modelsync_server.hub.device_side import DeviceSide, Limits, Outgoing, faithful
from modelsync_server.hub.devices import Devices
from modelsync_server.hub.messages import Messages
from modelsync_server.hub.registry import Registry
from modelsync_server.hub.router import Router
from modelsync_server.hub.service_side import ServiceSide
from modelsync_server.hub.state import State, exclusive
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


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where a hub listens; `service_port` 0 takes any free one. Another `device_port` than 8883 suits relays only."""

    host: str = DEFAULT_HOST
    device_port: int = DEVICE_PORT
    service_port: int = SERVICE_PORT


class Hub:
    """A running hub: `async with Hub(directory, HubAddress("127.0.0.9")) as hub: …`.

    `outgoing` sees every message to a device and says how often and how late it is sent (faults in tests);
    `clock` gives the seconds since 1970 that tokens are checked against. Raises LocalError if the state or the
    addresses can't be used. All methods belong on the event loop that started it.
    """

    def __init__(
        self,
        directory: Path,
        address: HubAddress | None = None,
        *,
        clock: Callable[[], float] = time.time,
        outgoing: Outgoing = faithful,
        limits: Limits | None = None,
    ) -> None:
        self.directory = directory
        self.address = address or HubAddress()
        self._clock = clock
        self._outgoing = outgoing
        self._limits = limits
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
        Router(self.state, self.registry, self.devices, self.messages)
        context = paths.server_context()
        service = ServiceSide(
            self.state,
            self.registry,
            self.devices,
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
        self.address = HubAddress(host, device_port, service_port)
        self.state.remember("host", host)
        self.state.remember("service", f"{host}:{service_port}")

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
        return add_device(self.state, Identity(device, module))

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
