"""The control plane over IoT Hub without azure-iot-device: the same wire, on our own MQTT client.

Device or module by connection string, with a key or a certificate; MQTT or WebSockets. IoT Edge's workload API and the
Device Provisioning Service are the SDK's (azure.py). Source: learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from modelsync_daemon.config import Settings
from modelsync_daemon.control.mqtt_line import Endpoint, MqttLine
from modelsync_daemon.control.plane import HintCallback, MethodCallback, Twin
from modelsync_daemon.control.requests import Requests
from modelsync_daemon.timing.backoff import jitter
from modelsync_protocol import caps
from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_protocol.mqtt import codec as mqtt

API_VERSION = "2019-10-01"
CALL_SECONDS = 60.0
TOKEN_SHARE = 0.9
"""After this share of a token's lifetime, less a random fifth, the connection is built anew."""

_PORT, _WEB_PORT, _WEB_PATH = 8883, 443, "/$iothub/websocket"
_ANSWERS, _NOTICES, _CALLS = "$iothub/twin/res/", "$iothub/twin/PATCH/properties/desired/", "$iothub/methods/POST/"
_REPORT, _GET = "$iothub/twin/PATCH/properties/reported/?$rid=", "$iothub/twin/GET/?$rid="


@dataclass(frozen=True, slots=True)
class HubIdentity:
    """Who this device is, of its connection string. `key`: base64, None with a certificate."""

    host: str
    device: str
    module: str | None
    key: str | None
    gateway: str | None

    @property
    def client_id(self) -> str:
        """As MQTT knows it."""
        return self.device if self.module is None else f"{self.device}/{self.module}"

    @property
    def username(self) -> str:
        """With the version of the hub's interface."""
        query = urlencode({"api-version": API_VERSION, "DeviceClientType": "modelsyncd"})
        return f"{self.host}/{self.client_id}/?{query}"

    def token(self, expiry: int) -> str:
        """A SAS token until `expiry`, seconds since 1970. Raises UsageError for a key that is none."""
        module = "" if self.module is None else f"/modules/{self.module}"
        resource = quote(f"{self.host}/devices/{self.device}{module}", safe="")
        try:
            secret = base64.b64decode(self.key or "", validate=True)
        except binascii.Error as error:
            raise UsageError(
                "the hub's connection string can't be used (its key is not base64); copy it anew."
            ) from error
        digest = hmac.new(secret, f"{resource}\n{expiry}".encode(), hashlib.sha256).digest()
        return f"SharedAccessSignature sr={resource}&sig={quote(base64.b64encode(digest), safe='')}&se={expiry}"


def parse_identity(text: str) -> HubIdentity:
    """Read a connection string that the settings have checked."""
    parts = {name.strip().lower(): value for name, _, value in (item.partition("=") for item in text.split(";"))}
    return HubIdentity(
        parts["hostname"],
        parts["deviceid"],
        parts.get("moduleid"),
        parts.get("sharedaccesskey"),
        parts.get("gatewayhostname") or None,
    )


class HubControlPlane:
    """A ControlPlane for one device or module. All methods belong to one asyncio loop."""

    def __init__(
        self, settings: Settings, *, call_seconds: float = CALL_SECONDS, token_share: float = TOKEN_SHARE
    ) -> None:
        """Nothing is read or connected before `connect`. The limits are for tests."""
        self._settings, self._token_share = settings, token_share
        self._line = MqttLine(settings, "the hub", call_seconds)
        self._requests = Requests[tuple[int, bytes]](call_seconds, "the hub")
        self._hint: HintCallback = lambda version: None
        self._method: MethodCallback | None = None
        self._first: Twin | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._renewed = False
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether the connection stands as far as is known."""
        return self._line.connected

    @property
    def reported_limit(self) -> int:
        """Bytes of the reported half."""
        return caps.MAX_TWIN_BYTES

    def listen(self, on_hint: HintCallback, on_method: MethodCallback) -> None:
        """Set the callbacks, once, before `connect`."""
        self._hint, self._method = on_hint, on_method

    async def connect(self) -> None:
        """Connect, subscribe, read the twin: what changes behind that reading is told. Raises UsageError too."""
        await self.close()
        settings = self._settings
        who = parse_identity(settings.read_connection_string() or "")
        secret = None if who.key is None else who.token(int(time.time()) + settings.token_seconds).encode()
        connect = mqtt.Connect(who.client_id, False, settings.keep_alive_seconds, who.username, secret)
        try:
            client = await self._line.open(self._endpoint(who), connect, self._on_message, (4,))
        except RefusedError as error:
            raise RefusedError(
                "the hub refuses this device's credentials; check its connection string or certificate."
            ) from error
        self._renewed = False
        if who.key is not None:
            after = jitter(settings.token_seconds * self._token_share)
            self._renewal = asyncio.get_running_loop().call_later(after, self._renew)
        try:
            await client.subscribe(*((f"{topic}#", 1) for topic in (_ANSWERS, _NOTICES, _CALLS)))
            self._first = await self._read()
        except ModelsyncError:
            await self.close()
            raise

    async def read_twin(self) -> Twin:
        """Read the twin; the first call after `connect` returns what that read."""
        first, self._first = self._first, None
        return first if first is not None else await self._read()

    async def patch_reported(self, patch: Mapping[str, Any]) -> None:
        """Merge `patch` into the reported half."""
        await self._ask(_REPORT, json.dumps(patch, separators=(",", ":")).encode(), "report to")

    async def wait_lost(self) -> str:
        """Return when the connection is lost, or its token nears its end."""
        sentence = await self._line.lost()
        return "the connection to the hub is built anew." if self._renewed else sentence

    def wire(self) -> tuple[int, int]:
        """Bytes received and sent since this object was made."""
        return self._line.wire()

    async def close(self) -> None:
        """Disconnect."""
        self._first = None
        if self._renewal is not None:
            self._renewal.cancel()
        for call in list(self._calls):
            call.cancel()
        await self._line.close()

    def _endpoint(self, who: HubIdentity) -> Endpoint:
        host = who.gateway or who.host
        if self._settings.websockets:
            return Endpoint(host, _WEB_PORT, path=_WEB_PATH)
        return Endpoint(host, _PORT)

    def _renew(self) -> None:
        self._renewed = True
        with contextlib.suppress(ModelsyncError):
            self._line.client.end()

    async def _read(self) -> Twin:
        body = await self._ask(_GET, b"", "read its twin from")
        try:
            document = json.loads(body)
            return Twin(desired=document.get("desired", {}), reported=document.get("reported", {}))
        except (ValueError, RecursionError, AttributeError) as error:
            raise UnreachableError("could not read its twin from the hub: the answer is no twin.") from error

    async def _ask(self, topic: str, body: bytes, what: str) -> bytes:
        """One request of the twin's, by its topic up to the token; the answer's body."""
        client = self._line.client
        token, answer = self._requests.begin()
        try:
            await client.publish(f"{topic}{token}", body)
            status, said = await self._requests.wait(answer, client.lost)
        except UnreachableError:
            await self._line.close()  # the next connect begins from scratch
            raise
        if status in (200, 204):
            return said
        kind = UnreachableError if status == 429 or status >= 500 else RefusedError
        raise kind(f"could not {what} the hub: it answers {status} ({said.decode('utf-8', 'replace'):.120}).")

    def _on_message(self, packet: mqtt.Publish) -> None:
        path, _, query = packet.topic.partition("/?")
        values = dict(parse_qsl(query))
        if packet.topic.startswith(_ANSWERS):
            status = path.removeprefix(_ANSWERS)
            if status.isdecimal():
                self._requests.answered(values.get("$rid", ""), (int(status), packet.payload))
        elif packet.topic.startswith(_NOTICES):
            version = values.get("$version", "")
            self._hint(int(version) if version.isdecimal() else None)
        elif packet.topic.startswith(_CALLS) and self._method is not None:
            call = asyncio.ensure_future(
                self._answer(path.removeprefix(_CALLS), values.get("$rid", ""), packet.payload)
            )
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _answer(self, method: str, token: str, payload: bytes) -> None:
        assert self._method is not None
        try:
            value = json.loads(payload) if payload else None
        except (ValueError, RecursionError):
            value = None
        reply = await self._method(method, value)
        body = json.dumps(dict(reply.payload), separators=(",", ":")).encode()
        with contextlib.suppress(ModelsyncError):  # the line may be gone; the caller sees a timeout
            await self._line.client.publish(f"$iothub/methods/res/{reply.status}/?$rid={token}", body)
