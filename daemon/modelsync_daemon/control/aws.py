"""The control plane over AWS IoT Core: a named shadow is the twin, topics of our own carry calls, jobs start updates.

The shadow (control_topic, "modelsync") holds what stands below `modelsync` in a twin; its version is one for both
halves. `update/delta` is not subscribed to: it comes with each report as long as the halves differ in any key, and says
nothing of deletions; `update/accepted` tells every change once. Source: docs.aws.amazon.com/iot/latest/developerguide,
"Device Shadow MQTT topics" and "Device Shadow service documents". Tried against a stand-in, never against AWS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelsync_daemon.config import Settings
from modelsync_daemon.control.aws_jobs import Jobs
from modelsync_daemon.control.calls import Calls
from modelsync_daemon.control.mqtt_client import TAKEN_OVER
from modelsync_daemon.control.mqtt_line import MqttLine, endpoint
from modelsync_daemon.control.plane import HintCallback, MethodCallback, Twin
from modelsync_daemon.control.requests import Requests
from modelsync_protocol import twin
from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError
from modelsync_protocol.mqtt import broker
from modelsync_protocol.mqtt import codec as mqtt

CALL_SECONDS = 30.0
MAX_DOCUMENT_BYTES = 8 * 1024
"""Both halves of a shadow's state together, without metadata (AWS IoT quotas)."""

_KEEP_ALIVE = (30, 1200)
_ALPN_PORT, _ALPN = 443, "x-amzn-mqtt-ca"
_SLACK_BYTES = 256
_LEAST_BYTES = 1024
_LATER = frozenset({409, 429, 500, 503})
_VERSIONS = {"auto": (5, 4), "5": (5,), "3.1.1": (4,)}


class AwsControlPlane:
    """A ControlPlane for one thing. All methods belong to one asyncio loop."""

    def __init__(self, settings: Settings, *, call_seconds: float = CALL_SECONDS) -> None:
        """Nothing is read or connected before `connect`. The limit is for tests."""
        self._settings = settings
        self._line = MqttLine(settings, "AWS IoT", call_seconds)
        thing, name = settings.broker_device, settings.control_topic
        self._shadow = f"$aws/things/{thing}/shadow/name/{name}/"
        self._calls = Calls(broker.Topics(name, thing), lambda: self._line.client)
        self._jobs = Jobs(thing, self._publish, self._wish, lambda: self._reported) if settings.control_jobs else None
        self._requests = Requests[tuple[bool, dict[str, Any]]](call_seconds, "AWS IoT")
        self._hint: HintCallback = lambda version: None
        self._desired: dict[str, Any] = {}
        self._reported: dict[str, Any] = {}
        self._version = 0
        self._unread = False

    @property
    def connected(self) -> bool:
        """Whether the connection stands as far as is known."""
        return self._line.connected

    @property
    def reported_limit(self) -> int:
        """Bytes of the reported half: what the desired one leaves of a shadow."""
        return max(_LEAST_BYTES, MAX_DOCUMENT_BYTES - _SLACK_BYTES - len(broker.encode(self._desired)))

    def listen(self, on_hint: HintCallback, on_method: MethodCallback) -> None:
        """Set the callbacks, once, before `connect`."""
        self._hint = on_hint
        self._calls.listen(on_method)

    async def connect(self) -> None:
        """Connect, subscribe, read the shadow. Raises UsageError for wrong files."""
        await self.close()
        settings = self._settings
        assert settings.control_url is not None
        secret = settings.read_control_password()
        where = endpoint(settings.control_url, alpn={_ALPN_PORT: _ALPN})
        lowest, highest = _KEEP_ALIVE
        client = await self._line.open(
            where,
            mqtt.Connect(
                settings.broker_device,
                keep_alive=min(highest, max(lowest, settings.control_keep_alive_seconds)),
                username=settings.control_user,
                password=None if secret is None else secret.encode(),
            ),
            self._on_message,
            _VERSIONS[settings.control_protocol],
        )
        try:
            answers = [f"{self._shadow}{verb}/{end}" for verb in ("get", "update") for end in ("accepted", "rejected")]
            await client.subscribe(*((topic, 1) for topic in answers), (self._calls.filter, 0))
            await self._get()
            if self._jobs is not None:
                await client.subscribe(*((topic, 1) for topic in self._jobs.filters))
                await self._jobs.ask()
        except ModelsyncError:
            await self.close()
            raise

    async def read_twin(self) -> Twin:
        """The shadow. What was told since the last reading is there; otherwise it is asked for."""
        _ = self._line.client
        if not self._unread:
            await self._get()
        self._unread = False
        desired: dict[str, Any] = {"$version": self._version}
        if self._desired:
            desired[twin.SECTION] = self._desired
        return Twin(desired, {twin.SECTION: self._reported} if self._reported else {})

    async def patch_reported(self, patch: Mapping[str, Any]) -> None:
        """Merge `patch` into the reported half."""
        _ = self._line.client
        section = patch.get(twin.SECTION)
        if isinstance(section, Mapping):
            await self._update("reported", section)
            self._reported = twin.merge(self._reported, section)
            if self._jobs is not None:
                await self._jobs.judge()

    async def wait_lost(self) -> str:
        """Return when the connection is lost, with a sentence why. RefusedError if another client took its place."""
        sentence = await self._line.lost()
        if self._line.ending == TAKEN_OVER:
            raise RefusedError(
                f"another client connected to AWS IoT as {self._settings.broker_device}: give each thing its own."
            )
        return sentence

    def wire(self) -> tuple[int, int]:
        """Bytes received and sent since this object was made."""
        return self._line.wire()

    async def close(self) -> None:
        """Disconnect."""
        self._calls.stop()
        if self._jobs is not None:
            self._jobs.stop()
        await self._line.close()

    # The shadow

    async def _get(self) -> None:
        accepted, document = await self._ask("get", {})
        if not accepted:
            if document.get("code") != 404:  # no shadow yet: the first report makes it
                raise self._refusal("get", document)
            document = {}
        state = _object(document.get("state"))
        self._desired, self._reported = _object(state.get("desired")), _object(state.get("reported"))
        self._version = _version(document) or 0
        self._unread = True

    async def _update(self, half: str, patch: Mapping[str, Any]) -> None:
        """Without a version: each half has one writer, and a device's report need not wait for an operator's change."""
        accepted, document = await self._ask("update", {"state": {half: patch}})
        if not accepted:
            raise self._refusal(half, document)

    async def _wish(self, section: Mapping[str, Any]) -> None:
        """What a job asks for becomes desired, as if an operator had set it."""
        await self._update("desired", section)

    async def _ask(self, verb: str, body: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
        client = self._line.client
        token, answer = self._requests.begin()
        try:
            await client.publish(f"{self._shadow}{verb}", broker.encode({**body, "clientToken": token}))
            return await self._requests.wait(answer, client.lost)
        except UnreachableError:
            await self._line.close()  # the next connect begins from scratch
            raise

    async def _publish(self, topic: str, body: Mapping[str, Any]) -> None:
        await self._line.client.publish(topic, broker.encode(body))

    def _refusal(self, what: str, document: Mapping[str, Any]) -> ModelsyncError:
        code, said = document.get("code"), str(document.get("message", ""))[:120]
        if code in _LATER:
            return UnreachableError(f"AWS IoT can't answer now ({code} {said}); it is tried again.")
        if code == 413:
            return RefusedError(
                f"the shadow is full: both halves may have {MAX_DOCUMENT_BYTES} bytes together ({said}); "
                "take old models out of the desired half."
            )
        return RefusedError(f"AWS IoT refuses the shadow's {what} ({code} {said}); check the thing and its policy.")

    def _on_message(self, packet: mqtt.Publish) -> None:
        if self._calls.take(packet):
            return
        try:
            document = _object(broker.decode(packet.payload))
        except ValueError:
            return
        if self._jobs is not None and self._jobs.take(packet.topic, document):
            return
        verb, _, end = packet.topic.removeprefix(self._shadow).partition("/")
        if not packet.topic.startswith(self._shadow) or end not in ("accepted", "rejected"):
            return
        if verb == "update" and end == "accepted":
            self._changed(document)
        self._requests.answered(str(document.get("clientToken", "")), (end == "accepted", document))

    def _changed(self, document: Mapping[str, Any]) -> None:
        """Somebody changed the shadow: an older change than one that is known is left alone."""
        version, state = _version(document), _object(document.get("state"))
        if version is None or version <= self._version:
            return
        followed = version == self._version + 1
        self._version = version
        if "desired" in state:
            patch = state["desired"]
            self._desired = twin.merge(self._desired, patch) if isinstance(patch, Mapping) else {}
            self._unread = followed  # else something between was missed, and the reading asks for all
            self._hint(version)
        elif not followed:
            self._hint(version)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _version(document: Mapping[str, Any]) -> int | None:
    version = document.get("version")
    return version if type(version) is int else None
