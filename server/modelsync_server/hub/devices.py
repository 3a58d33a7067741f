"""The device side's rules: who may connect, what topics mean, direct methods. Packets in, packets out; no sockets.

Source: learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub. Twin notices and method calls go out with QoS 0: IoT
Hub queues neither for a device that is away. What telemetry becomes is router.py's business.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, unquote

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub.registry import Registry
from modelsync_server.hub.state import State, utc_now
from modelsync_server.iothub import sas
from modelsync_server.iothub import twin_document as documents
from modelsync_server.iothub.errors import HubError, argument_invalid, method_timed_out, not_online
from modelsync_server.iothub.identity import Identity, from_client_id
from modelsync_server.iothub.twin_document import Json

MAX_SERVER_IDLE_SECONDS = 1767.0
"""IoT Hub's longest silence, whatever keep-alive the client asks for."""
MAX_METHOD_PAYLOAD_BYTES = 128 * 1024

TWIN_ANSWERS = "$iothub/twin/res/#"
DESIRED_NOTICES = "$iothub/twin/PATCH/properties/desired/#"
METHOD_CALLS = "$iothub/methods/POST/#"
_TWIN_GET = "$iothub/twin/GET/"
_TWIN_REPORT = "$iothub/twin/PATCH/properties/reported/"
_METHOD_ANSWER = "$iothub/methods/res/"

_log = logging.getLogger(__name__)


class Link(Protocol):
    """A connected device as the rules see it."""

    def publish(self, packet: mqtt.Publish) -> None:
        """Send without waiting."""

    def drop(self, reason: str) -> None:
        """Close the connection soon; may be repeated."""


class ConnectRefused(Exception):
    """A CONNECT that is answered with `code` and closed."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Admission:
    """A CONNECT that may come in: until when its token lasts (seconds since 1970), and its longest silence."""

    identity: Identity
    clean_session: bool
    expiry: float
    idle_seconds: float


@dataclass(slots=True)
class _Session:
    link: Link
    clean: bool
    filters: set[str]
    since: str = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class MethodAnswer:
    """What a device answered to a direct method."""

    status: int
    payload: Any


class Devices:
    """All connected devices and modules. Lives on one event loop."""

    def __init__(
        self, state: State, registry: Registry, host_names: Collection[str], clock: Callable[[], float]
    ) -> None:
        self._state = state
        self._registry = registry
        self._host_names = tuple(name.lower() for name in host_names)
        self._clock = clock
        self._sessions: dict[Identity, _Session] = {}
        self._seen: dict[Identity, str] = {}
        self._calls: dict[str, tuple[Identity, asyncio.Future[MethodAnswer]]] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._rid = itertools.count(1)
        # IoT Hub's method request ids differ from run to run; a device must not take them for small numbers.
        self._rid_prefix = uuid.uuid4().hex[:8]
        self.on_telemetry: Callable[[Identity, mqtt.Publish], None] = lambda identity, packet: None
        self.on_inbox_open: Callable[[Identity], None] = lambda identity: None
        self.on_acknowledged: Callable[[Identity, int], None] = lambda identity, packet_id: None
        registry.on_desired = self._notify
        registry.on_revoked = self._evict

    # Connections

    def admit(self, packet: mqtt.Connect, certificate: str | None = None) -> Admission:
        """Check client id, user name, and token or the common name of a certificate; raise ConnectRefused."""
        try:
            identity = from_client_id(packet.client_id)
        except UsageError as error:
            raise ConnectRefused(mqtt.IDENTIFIER_REJECTED, "the client id is no device id") from error
        host, _, rest = (packet.username or "").partition("/")
        named, _, query = rest.partition("/?")
        if host.lower() not in self._host_names or named != packet.client_id or "api-version=" not in query:
            raise ConnectRefused(mqtt.NOT_AUTHORISED, f"{identity}: the user name is not this hub's and client's")
        registration = self._state.find(identity)
        if registration is None or not registration.enabled:
            raise ConnectRefused(mqtt.NOT_AUTHORISED, f"{identity} is not registered or disabled")
        device = self._state.find(Identity(identity.device))
        if device is None or not device.enabled:
            raise ConnectRefused(mqtt.NOT_AUTHORISED, f"{identity}: its device is disabled")
        idle = 1.5 * packet.keep_alive if packet.keep_alive else MAX_SERVER_IDLE_SECONDS
        idle = min(idle, MAX_SERVER_IDLE_SECONDS)
        if not packet.password and certificate == identity.device:
            return Admission(identity, packet.clean_session, math.inf, idle)
        try:
            token = sas.parse((packet.password or b"").decode("utf-8", "replace"))
            resources = [f"{name}/{identity.resource}" for name in self._host_names]
            sas.check(token, registration.keys, resources, self._clock())
        except sas.SasError as error:
            raise ConnectRefused(mqtt.NOT_AUTHORISED, f"{identity}: token refused: {error}") from error
        return Admission(identity, packet.clean_session, token.expiry, idle)

    def attach(self, admission: Admission, link: Link) -> bool:
        """Take over the identity for `link`, dropping an older one; return whether a stored session is resumed."""
        identity = admission.identity
        old = self._sessions.pop(identity, None)
        if old is not None:
            old.link.drop("another connection uses the same id")
        stored = None if admission.clean_session else self._state.subscriptions(identity)
        if admission.clean_session or stored is None:
            self._state.save_subscriptions(identity, None if admission.clean_session else frozenset())
        self._sessions[identity] = _Session(link, admission.clean_session, set(stored or ()))
        _log.info("%s connected", identity)
        self._wake()
        self._tell_inbox(identity)
        return stored is not None

    def detach(self, identity: Identity, link: Link) -> None:
        """Forget `link`; a newer one of the same identity stays. Method calls in flight fail."""
        session = self._sessions.get(identity)
        if session is not None and session.link is link:
            del self._sessions[identity]
            self._seen[identity] = utc_now()
            _log.info("%s disconnected", identity)
        for who, future in list(self._calls.values()):
            if who == identity and identity not in self._sessions and not future.done():
                gone = HubError(404103, "DeviceNotOnline", "Device unavailable.", info={})
                future.set_exception(gone)

    def connected_since(self, identity: Identity) -> str | None:
        """When the identity connected (ISO 8601, UTC); None if it is away."""
        session = self._sessions.get(identity)
        return None if session is None else session.since

    def last_seen(self, identity: Identity) -> str | None:
        """When the identity was last connected since this hub runs (ISO 8601, UTC); None if it was not."""
        return utc_now() if identity in self._sessions else self._seen.get(identity)

    # Packets

    def receive(self, identity: Identity, packet: mqtt.Packet) -> list[mqtt.Packet]:
        """Answer one packet of a connected identity; raise MqttError where IoT Hub closes the connection."""
        if isinstance(packet, mqtt.Publish):
            return self._publish(identity, packet)
        if isinstance(packet, mqtt.Subscribe):
            codes = tuple(
                min(qos, 1) if _allowed(identity, name) else mqtt.SUBSCRIPTION_REFUSED for name, qos in packet.filters
            )
            granted = {
                name for (name, _), code in zip(packet.filters, codes, strict=True) if code != mqtt.SUBSCRIPTION_REFUSED
            }
            self._subscribe(identity, self._sessions[identity].filters | granted)
            return [mqtt.Suback(packet.packet_id, codes)]
        if isinstance(packet, mqtt.Unsubscribe):
            self._subscribe(identity, self._sessions[identity].filters - set(packet.filters))
            return [mqtt.Unsuback(packet.packet_id)]
        if isinstance(packet, mqtt.Pingreq):
            return [mqtt.Pingresp()]
        if isinstance(packet, mqtt.Puback):
            self.on_acknowledged(identity, packet.packet_id)
            return []
        raise mqtt.MqttError(f"a {type(packet).__name__} has no place in a session.")

    def _publish(self, identity: Identity, packet: mqtt.Publish) -> list[mqtt.Packet]:
        if packet.qos == 2:
            raise mqtt.MqttError("QoS 2 is not supported by IoT Hub.")
        answer: mqtt.Publish | None = None
        path, _, query = packet.topic.partition("?")
        if path in (_TWIN_GET, _TWIN_REPORT):
            answer = self._twin_request(identity, path, _rid(query), packet.payload)
        elif path.startswith(_METHOD_ANSWER):
            self._method_answer(identity, path.removeprefix(_METHOD_ANSWER).strip("/"), _rid(query), packet.payload)
        elif packet.topic.startswith(f"{identity.resource}/messages/events"):
            self.on_telemetry(identity, packet)
        else:
            raise mqtt.MqttError(f"nothing may be published to {packet.topic!r:.100}.")
        acknowledgement = [] if packet.packet_id is None else [mqtt.Puback(packet.packet_id)]
        if answer is not None and TWIN_ANSWERS in self._sessions[identity].filters:
            # Through the link and not returned: it is a message, which a fault hook may lose or delay.
            link = self._sessions[identity].link
            asyncio.get_running_loop().call_soon(link.publish, answer)
        return list(acknowledgement)

    def _twin_request(self, identity: Identity, path: str, rid: str, body: bytes) -> mqtt.Publish:
        try:
            if path == _TWIN_REPORT:
                version = self._registry.report(identity, documents.parse_object(body))
                return mqtt.Publish(f"$iothub/twin/res/204/?$rid={rid}&$version={version}")
            twin = self._registry.twin(identity)
        except LocalError as error:
            _log.error("%s: %s", identity, error)
            failure = HubError(500001, "ServerError", "The hub can't store this now.")
            return mqtt.Publish(f"$iothub/twin/res/500/?$rid={rid}", _dump(failure.detail()))
        except HubError as error:
            return mqtt.Publish(f"$iothub/twin/res/{error.status}/?$rid={rid}", _dump(error.detail()))
        answer = {"desired": twin.desired.for_device(), "reported": twin.reported.for_device()}
        return mqtt.Publish(f"$iothub/twin/res/200/?$rid={rid}", _dump(answer))

    def _subscribe(self, identity: Identity, filters: set[str]) -> None:
        session = self._sessions[identity]
        if filters != session.filters:
            was_open = self.inbox_open(identity)
            session.filters = filters
            if not session.clean:
                self._state.save_subscriptions(identity, frozenset(filters))
            self._wake()
            if not was_open:
                self._tell_inbox(identity)

    # Module inputs

    def inbox_open(self, module: Identity) -> bool:
        """Whether the module is connected and has subscribed to its inputs."""
        session = self._sessions.get(module)
        return session is not None and bool({f"{module.resource}/inputs/#", f"{module.resource}/#"} & session.filters)

    def send(self, identity: Identity, packet: mqtt.Publish) -> None:
        """Send to a connected identity; nothing happens if it is away."""
        session = self._sessions.get(identity)
        if session is not None:
            session.link.publish(packet)

    def _tell_inbox(self, identity: Identity) -> None:
        if self.inbox_open(identity):
            # Later: CONNACK or SUBACK come first.
            asyncio.get_running_loop().call_soon(self.on_inbox_open, identity)

    def _notify(self, identity: Identity, notice: Json) -> None:
        session = self._sessions.get(identity)
        if session is not None and DESIRED_NOTICES in session.filters:
            topic = f"$iothub/twin/PATCH/properties/desired/?$version={notice['$version']}"
            session.link.publish(mqtt.Publish(topic, _dump(notice)))

    def _evict(self, identity: Identity) -> None:
        session = self._sessions.get(identity)
        if session is not None:
            session.link.drop("its registration changed or was removed")

    # Direct methods

    async def invoke(
        self, identity: Identity, name: str, payload: Any, *, response_seconds: float, connect_seconds: float
    ) -> MethodAnswer:
        """Call a method of a connected device; HubError 404103 if it is away, 504101 if it does not answer."""
        self._registry.registration(identity)
        body = b"null" if payload is None else _dump(payload)
        if len(body) > MAX_METHOD_PAYLOAD_BYTES:
            raise argument_invalid(f"the payload is longer than {MAX_METHOD_PAYLOAD_BYTES} bytes.")
        session = await self._ready(identity, connect_seconds)
        rid = f"{self._rid_prefix}{next(self._rid):x}"
        future: asyncio.Future[MethodAnswer] = asyncio.get_running_loop().create_future()
        self._calls[rid] = identity, future
        try:
            session.link.publish(mqtt.Publish(f"$iothub/methods/POST/{quote(name, safe='')}/?$rid={rid}", body))
            async with asyncio.timeout(response_seconds):
                return await future
        except TimeoutError as error:
            raise method_timed_out() from error
        finally:
            del self._calls[rid]

    async def _ready(self, identity: Identity, seconds: float) -> _Session:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    session = self._sessions.get(identity)
                    if session is not None and METHOD_CALLS in session.filters:
                        return session
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError as error:
            raise not_online(seconds) from error

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _method_answer(self, identity: Identity, status: str, rid: str, body: bytes) -> None:
        who, future = self._calls.get(rid, (None, None))
        if who != identity or future is None or future.done():
            # The answer came after the timeout, or twice.
            return
        try:
            future.set_result(MethodAnswer(int(unquote(status)), json.loads(body) if body.strip() else None))
        except (ValueError, RecursionError):
            future.set_exception(HubError(502001, "BadDeviceResponse", "The device's answer is not JSON.", info={}))


def _allowed(identity: Identity, name: str) -> bool:
    inbox = "/inputs/#" if identity.module else "/messages/devicebound/#"
    own = {f"{identity.resource}{inbox}", f"{identity.resource}/#"}
    return name in {TWIN_ANSWERS, DESIRED_NOTICES, METHOD_CALLS} | own


def _rid(query: str) -> str:
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name == "$rid" and value:
            return value
    raise mqtt.MqttError("a twin or method topic has no $rid.")


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
