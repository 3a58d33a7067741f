"""A plain broker in the place of a hub's service side: twins, tags, calls and queries of the devices below a prefix.

Its methods are ServiceClient's, and so are its errors. What a broker can't do (registrations, configurations, modules)
is refused with a sentence.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from modelsync_protocol import twin
from modelsync_protocol.errors import UsageError
from modelsync_protocol.mqtt import broker
from modelsync_server import query
from modelsync_server.broker.address import BrokerAddress
from modelsync_server.broker.session import Session, connected
from modelsync_server.iothub import twin_document as documents
from modelsync_server.iothub.errors import HubError
from modelsync_server.iothub.service_client import ConflictError, MethodResult, NotFoundError, NotOnlineError

_NEVER = "0001-01-01T00:00:00Z"
Json = dict[str, Any]


class BrokerService:
    """`async with BrokerService(address) as hub: await hub.twin("device")`."""

    what = "a broker"

    def __init__(self, address: BrokerAddress) -> None:
        self._address = address
        self._stack = AsyncExitStack()
        self.session: Session

    async def __aenter__(self) -> Self:
        self.session = await self._stack.enter_async_context(connected(self._address))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def now(self) -> float:
        """The clock, seconds since 1970: a broker tells none."""
        return time.time()

    def topics(self, device: str, module: str | None = None) -> broker.Topics:
        """A device's topics; UsageError for what is no device there."""
        if module is not None:
            raise UsageError(f"{self.what} knows devices and no modules: leave --module out.")
        return broker.Topics(self._address.prefix, broker.check_device(device))

    # Twins

    async def twin(self, device: str, module: str | None = None) -> Json:
        """What the broker keeps of a device, in the form of the service REST. NotFoundError if that is nothing."""
        topics = self.topics(device, module)
        found = await self.session.retained(*(topics.of(*levels) for levels in _KEPT))
        if not found:
            raise NotFoundError(
                f"the broker keeps nothing of {device} below {topics.prefix}/: it never connected, and nothing was set."
            )
        return _document(device, {topics.under(topic) or "": payload for topic, payload in found.items()})

    async def set_desired(
        self, device: str, patch: Json, module: str | None = None, *, etag: str | None = None
    ) -> Json:
        """Merge `patch` into the desired properties (null deletes); return the new twin.

        With `etag` (a twin's "etag") ConflictError if they were changed before; a change at the very same time is
        merged instead.
        """
        topics = self.topics(device, module)
        checked(patch, "desired")
        presence = (await self.session.retained(topics.of(broker.PRESENCE))).get(topics.of(broker.PRESENCE), b"")
        seen = _read(presence).get("seen")
        first = True

        def change(payload: bytes) -> bytes:
            nonlocal first
            before = _desired(payload)
            version = broker.version_of(before)
            if first and etag is not None and etag != _etag(before):
                raise ConflictError(
                    f"the desired properties of {device} were changed meanwhile; read them again first."
                )
            first = False
            known = max((number for number in (version, seen) if type(number) is int), default=None)
            after = twin.merge({key: value for key, value in before.items() if key != "$version"}, patch)
            if documents.size(after) > documents.MAX_SECTION_BYTES:
                raise UsageError(
                    f"the desired properties would have {documents.size(after)} bytes and a twin holds "
                    f"{documents.MAX_SECTION_BYTES}; take old entries out first (null deletes)."
                )
            return broker.encode({**after, "$version": broker.next_version(known, time.time())})

        def holds(payload: bytes) -> bool:
            after = {key: value for key, value in _desired(payload).items() if key != "$version"}
            return twin.merge(after, patch) == after

        await self.session.change(topics.of(broker.DESIRED), change, holds)
        return await self.twin(device)

    async def update_twin(self, device: str, body: Json, module: str | None = None, *, etag: str | None = None) -> Json:
        """Change a twin by `{"tags":…,"properties":{"desired":…}}`; return the new one."""
        topics = self.topics(device, module)
        desired = (body.get("properties") or {}).get("desired")
        if desired is not None:
            await self.set_desired(device, desired, etag=etag)
        tags = body.get("tags")
        if tags is not None:
            checked(tags, "tags")
            await self.session.change(
                topics.of(broker.TAGS),
                lambda payload: broker.encode(twin.merge(_read(payload), tags)),
                lambda payload: twin.merge(_read(payload), tags) == _read(payload),
            )
        return await self.twin(device)

    # Queries

    async def query(self, text: str, *, page: int = 100) -> AsyncIterator[Json]:
        """Yield every twin, or row, that a query finds."""
        for row in (await self.query_page(text))[0]:
            yield row

    async def query_page(
        self, text: str, *, page: int = 100, token: str | None = None
    ) -> tuple[list[Json], str | None]:
        """All rows of a query at once: the broker is asked for what it keeps, and the query is answered here."""
        try:
            parsed = query.parse(text)
            if parsed.modules:
                return [], None
            twins = await self._twins()
            found = [document for document in twins if parsed.matches(document)]
            rows = parsed.grouped(found) if parsed.counts else [parsed.project(one) for one in found]
            return rows[: parsed.top], None
        except HubError as error:
            raise UsageError(f"the query can't be answered: {error.message}") from error

    async def _twins(self) -> list[Json]:
        prefix = self._address.prefix
        found = await self.session.retained(*("/".join((prefix, "+", *levels)) for levels in _KEPT))
        devices: dict[str, dict[str, bytes]] = {}
        for topic, payload in found.items():
            device, _, path = topic.removeprefix(f"{prefix}/").partition("/")
            devices.setdefault(device, {})[path] = payload
        return [_document(device, kept) for device, kept in sorted(devices.items())]

    # Calls

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
        """Call a method; NotOnlineError if the device is away or silent. Never tried again by itself."""
        topics = self.topics(device, module)
        number = secrets.token_hex(8)
        answers, presence = topics.of(broker.ANSWER, number), topics.of(broker.PRESENCE)
        async with self.session.listening(answers, presence) as heard:
            online = any(_read(packet.payload).get("online") for packet in await self.session.settled(heard))
            deadline = asyncio.get_running_loop().time() + connect_seconds
            try:
                async with asyncio.timeout_at(deadline):
                    while not online:
                        packet = await heard.get()
                        online = packet.topic == presence and bool(_read(packet.payload).get("online"))
                async with asyncio.timeout(response_seconds):
                    await self.session.client.publish(
                        topics.of(broker.CALL, method, number),
                        b"" if payload is None else broker.encode(payload),
                        qos=0,
                        expiry=response_seconds,
                    )
                    while (packet := await heard.get()).topic != answers:
                        pass
            except TimeoutError as error:
                why = "does not answer" if online else "is not connected"
                raise NotOnlineError(f"{device} {why}; try again when it is online.") from error
        answer = _read(packet.payload)
        status = answer.get("status")
        return MethodResult(status if type(status) is int else 500, answer.get("payload"))

    # What a broker has not

    async def configurations(self) -> list[Json]:
        """None: a broker applies nothing by itself."""
        return []

    async def put_configuration(self, identifier: str, body: Json, *, etag: str | None = None) -> Json:
        """Refused."""
        raise self._lacking("rollouts are kept as configurations of a hub")

    async def delete_configuration(self, identifier: str, *, etag: str | None = None) -> None:
        """Refused."""
        raise self._lacking("rollouts are kept as configurations of a hub")

    async def change_registry(self, items: Sequence[Json]) -> list[Json]:
        """Refused."""
        raise self._lacking("devices are registered and changed in bulk at a hub")

    def _lacking(self, what: str) -> UsageError:
        return UsageError(f"{what}, and {self.what} has none: set versions by `modelsync twin set`, device by device.")


_KEPT = ((broker.DESIRED,), (broker.TAGS,), (broker.PRESENCE,), (broker.REPORTED, "#"))


def _document(device: str, kept: Mapping[str, bytes]) -> Json:
    """A twin of what lies below a device's root: path to payload."""
    desired, presence = _desired(kept.get(broker.DESIRED, b"")), _read(kept.get(broker.PRESENCE, b""))
    reports = {
        path.removeprefix(f"{broker.REPORTED}/"): payload
        for path, payload in kept.items()
        if path.startswith(f"{broker.REPORTED}/")
    }
    document: Json = {
        "deviceId": device,
        "etag": _etag(desired),
        "status": "enabled",
        "connectionState": "Connected" if presence.get("online") else "Disconnected",
        "lastActivityTime": _last_activity(presence),
        "version": broker.version_of(desired) or 0,
        "tags": _read(kept.get(broker.TAGS, b"")),
        "properties": {"desired": desired, "reported": broker.joined(reports)},
    }
    if presence.get("problem"):
        document["problem"] = str(presence["problem"])
    return document


def _last_activity(presence: Json) -> str:
    """Now of a device that is there; else when it last connected, which its will tells."""
    at = time.time() if presence.get("online") else presence.get("at")
    if not isinstance(at, int | float) or not 0 <= at < 2**33:
        return _NEVER
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _etag(desired: Mapping[str, Any]) -> str:
    return str(broker.version_of(desired) or 0)


def _desired(payload: bytes) -> Json:
    try:
        return broker.decode_desired(payload)
    except ValueError:
        return {}  # what no device can read is replaced


def _read(payload: bytes) -> Json:
    try:
        value = broker.decode(payload) if payload else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def checked(patch: Json, name: str) -> None:
    """UsageError for a patch that no twin can hold."""
    try:
        documents.check_patch(patch, name)
    except HubError as error:
        raise UsageError(f"a twin can't hold this: {error.message}") from error
