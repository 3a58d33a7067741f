"""A stand-in for IoT Edge's workload API, so that `create_from_edge_environment()` works against the local hub.

Speaks the two calls that azure-iot-device makes: the trust bundle, and signing with the module's key. For tests,
demos and development only: whoever reaches the socket can sign as the module, as on a real Edge device.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from modelsync_protocol.errors import LocalError
from modelsync_server.hub.hub import HUB_NAME
from modelsync_server.hub.state import State
from modelsync_server.iothub import sas
from modelsync_server.iothub.identity import Identity

API_VERSION = "2019-01-30"
_MAX_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class WorkloadAddress:
    """A Unix socket (`socket`), or loopback HTTP on `host:port` if it is None (port 0 takes a free one)."""

    socket: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0


class Workload:
    """A running workload API for one module of a hub's state: `async with Workload(state, identity, …) as w:`.

    The module is registered if need be. `environment` is what the module process needs to be started with.
    Raises LocalError if it can't listen. The caller owns `state` and keeps it open.
    """

    def __init__(self, state: State, identity: Identity, gateway: str, address: WorkloadAddress | None = None) -> None:
        if identity.module is None:
            raise LocalError("the workload API is for a module; name one.")
        self._state = state
        self._identity = identity
        self._gateway = gateway
        self._address = address or WorkloadAddress()
        state.add(Identity(identity.device))
        state.add(identity)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_get("/trust-bundle", self._trust_bundle)
        app.router.add_post("/modules/{module}/genid/{generation}/sign", self._sign)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        address = self._address
        try:
            if address.socket is not None:
                address.socket.unlink(missing_ok=True)
                await web.UnixSite(self._runner, str(address.socket)).start()
                self.uri = f"unix://{address.socket.absolute()}"
            else:
                await web.TCPSite(self._runner, address.host, address.port).start()
                self.uri = f"http://{address.host}:{self._runner.addresses[0][1]}"
        except OSError as error:
            await self._runner.cleanup()
            raise LocalError(f"the workload API can't listen on {address}: {error.strerror or error}.") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        if self._address.socket is not None:
            self._address.socket.unlink(missing_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that IoT Edge sets for a module."""
        return {
            "IOTEDGE_IOTHUBHOSTNAME": HUB_NAME,
            "IOTEDGE_DEVICEID": self._identity.device,
            "IOTEDGE_MODULEID": self._identity.module or "",
            "IOTEDGE_GATEWAYHOSTNAME": self._gateway,
            "IOTEDGE_MODULEGENERATIONID": self._generation(),
            "IOTEDGE_WORKLOADURI": self.uri,
            "IOTEDGE_APIVERSION": API_VERSION,
        }

    def _generation(self) -> str:
        registration = self._state.find(self._identity)
        return "" if registration is None else registration.generation

    async def _trust_bundle(self, request: web.Request) -> web.Response:
        return web.json_response({"certificate": (self._state.directory / "ca.pem").read_text()})

    async def _sign(self, request: web.Request) -> web.Response:
        registration = self._state.find(self._identity)
        asked = request.match_info["module"], request.match_info["generation"]
        if registration is None or asked != (self._identity.module, registration.generation):
            return web.json_response({"message": "no such module or generation"}, status=404)
        try:
            # The SDK sends JSON without saying so in the content type.
            body = json.loads(await request.read())
            data = base64.b64decode(body["data"], validate=True)
            if body["algo"] != "HMACSHA256":
                raise ValueError("unknown algorithm")
        except (ValueError, KeyError, TypeError, binascii.Error):
            return web.json_response({"message": "the request is malformed"}, status=400)
        digest = base64.b64encode(sas.hmac_sha256(registration.primary_key, data)).decode()
        return web.json_response({"digest": digest})
