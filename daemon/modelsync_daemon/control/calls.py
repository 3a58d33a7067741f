"""Calls over topics of our own, `call/METHOD/ID` and `answer/ID`: what direct methods are where there is no IoT Hub."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from modelsync_daemon.control.mqtt_client import MqttClient
from modelsync_daemon.control.plane import MethodAnswer, MethodCallback
from modelsync_protocol.errors import ModelsyncError
from modelsync_protocol.mqtt import broker
from modelsync_protocol.mqtt import codec as mqtt

_MOST_AT_A_TIME = 8
_ANSWER_SECONDS = 60
"""How long a broker of MQTT 5 keeps an answer for whoever called."""


class Calls:
    """Those of one device that are under way. `client` gives the open connection."""

    def __init__(self, topics: broker.Topics, client: Callable[[], MqttClient]) -> None:
        self._topics, self._client = topics, client
        self._method: MethodCallback | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def filter(self) -> str:
        """What to subscribe to, with QoS 0: a call is for a device that is there, and is done once."""
        return self._topics.of(broker.CALL, "+", "+")

    def listen(self, on_method: MethodCallback) -> None:
        """Who does what is asked."""
        self._method = on_method

    def take(self, packet: mqtt.Publish) -> bool:
        """Begin what a message asks for; False if it is no call."""
        call = broker.parse_call(self._topics.under(packet.topic) or "")
        if call is None:
            return False
        if not packet.retain and self._method is not None:  # a retained call would be done again at each connect
            task = asyncio.ensure_future(self._answer(self._method, *call, packet.payload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    def stop(self) -> None:
        """End those under way."""
        for task in list(self._tasks):
            task.cancel()

    async def _answer(self, do: MethodCallback, method: str, number: str, payload: bytes) -> None:
        if len(self._tasks) > _MOST_AT_A_TIME:
            reply = MethodAnswer(429, {"error": "this device is busy with other calls; try again."})
        else:
            try:
                value = broker.decode(payload) if payload else None
            except ValueError as error:
                reply = MethodAnswer(400, {"error": f"the payload {error}."})
            else:
                reply = await do(method, value)
        answer = broker.encode({"status": reply.status, "payload": dict(reply.payload)})
        with contextlib.suppress(ModelsyncError):  # the line may be gone; the caller sees a timeout
            await self._client().publish(self._topics.of(broker.ANSWER, number), answer, expiry=_ANSWER_SECONDS)
