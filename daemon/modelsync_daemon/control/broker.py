"""The control plane over a plain MQTT broker: retained desired properties, reports in sections, presence, calls.

A broker keeps the last message of each topic and nothing else. What IoT Hub does beside that is done here: a desired
document that is older than the one that was followed is left alone, even after a restart, and a broker that has lost
what it kept changes nothing on the device. Source of the protocol: OASIS MQTT 3.1.1 and 5; of the topics:
modelsync_protocol.broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from modelsync_daemon.config import Settings
from modelsync_daemon.control.calls import Calls
from modelsync_daemon.control.mqtt_client import TAKEN_OVER, WITH_WILL
from modelsync_daemon.control.mqtt_line import MqttLine, endpoint
from modelsync_daemon.control.plane import HintCallback, MethodCallback, Twin
from modelsync_daemon.disk.control_state import ControlFile
from modelsync_protocol import caps, twin
from modelsync_protocol.errors import ModelsyncError, RefusedError
from modelsync_protocol.mqtt import broker
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_protocol.mqtt.properties import MAXIMUM_PACKET_SIZE

CALL_SECONDS = 30.0
"""The longest wait for an answer, after which the line counts as lost."""

STEADY_SECONDS = 60.0
"""A connection that stands so long was taken over by nobody."""

_BRIEF = 2
"""So many connections in a row that the broker ended before they were steady are no accident."""

_SETTLE_SECONDS = 0.3
"""How long a first reading waits if nothing came at all: some brokers send retained messages behind their answers."""

_VERSIONS = {"auto": (5, 4), "5": (5,), "3.1.1": (4,)}
_log = logging.getLogger(__name__)


class BrokerControlPlane:
    """A ControlPlane for one device. All methods belong to one asyncio loop."""

    def __init__(self, settings: Settings, *, call_seconds: float = CALL_SECONDS) -> None:
        """Nothing is read or connected before `connect`. The limit is for tests."""
        self._settings = settings
        self._topics = broker.Topics(settings.control_topic, settings.broker_device)
        self._line = MqttLine(settings, "the broker", call_seconds)
        self._kept: ControlFile | None = None
        self._hint: HintCallback = lambda version: None
        self._desired: dict[str, Any] = {}
        self._parts: dict[str, bytes] = {}
        self._reported: dict[str, Any] = {}
        self._reading = self._unread = self._heard = self._desired_came = False
        self._problem = ""
        self._calls = Calls(self._topics, lambda: self._line.client)
        self._telling: asyncio.Task[None] | None = None
        self._steady: asyncio.TimerHandle | None = None
        self._brief = 0

    @property
    def connected(self) -> bool:
        """Whether the connection stands as far as is known."""
        return self._line.connected

    @property
    def reported_limit(self) -> int:
        """Bytes of the reported half: a section is a message of its own, so that only their sum is bounded."""
        return caps.MAX_TWIN_BYTES

    def listen(self, on_hint: HintCallback, on_method: MethodCallback) -> None:
        """Set the callbacks, once, before `connect`."""
        self._hint = on_hint
        self._calls.listen(on_method)

    async def connect(self) -> None:
        """Connect, read what the broker keeps, say that this device is here. Raises UsageError for wrong files."""
        await self.close()
        settings, topics = self._settings, self._topics
        assert settings.control_url is not None
        if self._kept is None:
            self._kept = ControlFile(settings.data, f"{settings.control_url} {topics.root}")
            self._desired = self._kept.state.desired
        self._parts, self._problem = {}, ""
        secret = settings.read_control_password()
        client = await self._line.open(
            endpoint(settings.control_url),
            mqtt.Connect(
                settings.broker_device,
                keep_alive=settings.control_keep_alive_seconds,
                username=settings.control_user,
                password=None if secret is None else secret.encode(),
                will=mqtt.Will(topics.of(broker.PRESENCE), _away(), retain=True),
                properties={MAXIMUM_PACKET_SIZE: mqtt.MAX_PACKET_BYTES},
            ),
            self._on_message,
            _VERSIONS[settings.control_protocol],
        )
        try:
            self._reading, self._unread, self._heard, self._desired_came = True, True, False, False
            reports = topics.of(broker.REPORTED, "#")
            await client.subscribe((topics.of(broker.DESIRED), 1), (self._calls.filter, 0), (reports, 1))
            await client.ping()
            if not self._heard:
                await asyncio.sleep(_SETTLE_SECONDS)
            await client.unsubscribe(reports)
            self._reading = False
            self._reported, self._parts = broker.joined(self._parts), {}
            if not self._desired_came and self._desired:
                self._wrong("the broker has lost this device's desired properties: it goes on as it is; set them anew.")
            await self._tell_presence()
            self._steady = asyncio.get_running_loop().call_later(STEADY_SECONDS, self._stood)
        except ModelsyncError:
            await self.close()
            raise

    async def read_twin(self) -> Twin:
        """The twin. What came since the last reading is there; otherwise the broker is asked for what it keeps."""
        client = self._line.client
        if not self._unread:
            await client.subscribe((self._topics.of(broker.DESIRED), 1))  # the retained message comes again
            await client.ping()
        assert self._kept is not None
        self._kept.change(desired=self._desired)  # here, and not with each message: floods cost one write
        self._unread = False
        return Twin(self._desired, self._reported)

    async def patch_reported(self, patch: Mapping[str, Any]) -> None:
        """Merge `patch` into the reported half: only sections that change are published."""
        client = self._line.client
        after = twin.merge(self._reported, patch)
        before, now = broker.sections(self._reported), broker.sections(after)
        messages = {path: broker.encode(value) for path, value in now.items() if before.get(path, now) != value}
        messages |= {path: b"" for path in before if path not in now}
        try:
            await asyncio.gather(
                *(
                    client.publish(self._topics.of(broker.REPORTED, path), data, retain=True)
                    for path, data in messages.items()
                )
            )
        except ModelsyncError:
            await self.close()  # who knows what is there: the next connect reads it
            raise
        self._reported = after

    async def wait_lost(self) -> str:
        """Return when the connection is lost, with a sentence why. RefusedError if another client took its place."""
        sentence = await self._line.lost()
        if self._steady is not None and not self._steady.cancelled() and self._steady.when() > _now():
            self._brief += self._line.hung_up
        if self._line.ending != TAKEN_OVER and self._brief < _BRIEF:
            return sentence
        # Not every broker says why; Mosquitto 2.0 does not.
        text = (
            f"another client connects to the broker as {self._settings.broker_device}, or the broker hangs up on it "
            "for another reason: give each device a control_device of its own."
        )
        self._keep_problem(text)
        raise RefusedError(text)

    def wire(self) -> tuple[int, int]:
        """Bytes received and sent since this object was made."""
        return self._line.wire()

    async def close(self) -> None:
        """Leave: the broker shows at once that this device is away."""
        if self._steady is not None:
            self._steady.cancel()
        self._calls.stop()
        if self._telling is not None:
            self._telling.cancel()
        if self._line.connected and (client := self._line.client).version == 4:
            with contextlib.suppress(ModelsyncError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await client.publish(self._topics.of(broker.PRESENCE), _away(), qos=0, retain=True)
        await self._line.close(WITH_WILL)

    # What the broker sends

    def _on_message(self, packet: mqtt.Publish) -> None:
        path = self._topics.under(packet.topic)
        if path is None:
            return
        self._heard = True
        kind, _, rest = path.partition("/")
        if kind == broker.DESIRED:
            self._take_desired(packet.payload)
        elif kind == broker.REPORTED and self._reading and packet.payload:
            self._parts[rest] = packet.payload
        else:
            self._calls.take(packet)

    def _take_desired(self, payload: bytes) -> None:
        """Take a newer document, and hint at it; say what is wrong with another."""
        self._desired_came, known = True, self._desired
        try:
            found = broker.decode_desired(payload)
        except ValueError as error:
            self._wrong(f"what the broker holds as desired properties {error}: set them anew.")
            return
        if not payload:
            self._wrong("the broker's desired properties were deleted: this device goes on as it is.")
            return
        if broker.overtaken(known, found):
            self._wrong(
                f"the broker holds desired properties of version {broker.version_of(found)}, and this device has "
                f"followed version {broker.version_of(known)}: set them anew."
            )
            return
        self._wrong("")
        if found == known:
            return
        self._desired, self._unread = found, True
        version = broker.version_of(found)
        # Another document of the same version, or of none, is news too, which a number would not tell.
        self._hint(None if version == broker.version_of(known) else version)

    # What this device says of itself

    def _wrong(self, sentence: str) -> None:
        """Note what is wrong at the broker; a change is logged, and shown beside the presence."""
        if sentence != self._problem:
            self._problem = sentence
            if sentence:
                _log.warning("hub: %s", sentence)
            if not self._reading and self._line.connected:
                self._telling = asyncio.ensure_future(self._tell_presence())

    async def _tell_presence(self) -> None:
        seen = broker.version_of(self._desired)
        document: dict[str, Any] = {"online": True, "at": int(time.time())} | ({} if seen is None else {"seen": seen})
        document |= {"problem": self._problem} if self._problem else {}
        with contextlib.suppress(ModelsyncError):  # reports will be refused too, and say so
            await self._line.client.publish(self._topics.of(broker.PRESENCE), broker.encode(document), retain=True)

    def _stood(self) -> None:
        self._brief = 0
        self._keep_problem("")

    def _keep_problem(self, sentence: str) -> None:
        if self._kept is not None:
            with contextlib.suppress(ModelsyncError):
                self._kept.change(problem=sentence)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _away() -> bytes:
    """What the presence is when this device has gone; `at`: when it was last known to be there, seconds since 1970."""
    return broker.encode({"online": False, "at": int(time.time())})
