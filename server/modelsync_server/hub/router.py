"""Takes the messages of devices and modules and brings them where the device's routes say, as edgeHub does.

A device whose `$edgeHub` module has no routes talks to the cloud directly. Inputs are delivered with QoS 1, in order,
at least once: what a module has not acknowledged is sent again when it connects again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.hub.devices import Devices
from modelsync_server.hub.messages import Messages
from modelsync_server.hub.registry import Registry
from modelsync_server.hub.routes import (
    EDGE_HUB,
    OUTPUT,
    SENDER_DEVICE,
    SENDER_MODULE,
    Message,
    Route,
    Sink,
    parse_all,
    read_properties,
    write_properties,
)
from modelsync_server.hub.state import State
from modelsync_server.iothub.identity import Identity

_WINDOW = 100
"""Messages that a module may have before it acknowledges one."""


@dataclass(slots=True)
class _Delivery:
    """One session's unacknowledged messages by packet id, and the last message that was sent."""

    open: dict[int, int] = field(default_factory=dict)
    last: int = 0
    ids: itertools.cycle[int] = field(default_factory=lambda: itertools.cycle(range(1, 0x10000)))


class Router:
    """Sets itself as the listener of `devices` and `registry`. Lives on the hub's event loop."""

    def __init__(self, state: State, registry: Registry, devices: Devices, messages: Messages) -> None:
        self._state, self._devices, self._messages = state, devices, messages
        self._deliveries: dict[Identity, _Delivery] = {}
        self._parsed: dict[str, tuple[int, dict[str, Route] | None]] = {}
        devices.on_telemetry = self.take
        devices.on_inbox_open = self._begin
        devices.on_acknowledged = self._acknowledged
        registry.check_desired = check_desired

    def take(self, identity: Identity, packet: mqtt.Publish) -> None:
        """Store a message for its sinks, then deliver; LocalError if it can't be stored: it is not acknowledged."""
        bag = packet.topic.removeprefix(f"{identity.resource}/messages/events")
        message = Message(identity, read_properties(bag), packet.payload)
        routes = self._routes(identity.device)
        sinks = [Sink()] if routes is None else [route.sink for route in routes.values() if route.takes(message)]
        self._messages.add(message, dict.fromkeys(sinks))
        for module in {sink.module for sink in sinks if sink.module is not None}:
            self._deliver(Identity(identity.device, module))

    def _routes(self, device: str) -> dict[str, Route] | None:
        twin = self._state.twin(Identity(device, EDGE_HUB))
        if twin is None:
            return None
        known = self._parsed.get(device)
        if known is None or known[0] != twin.desired.version:
            known = self._parsed[device] = (twin.desired.version, parse_all(twin.desired.values))
        return known[1]

    def _begin(self, module: Identity) -> None:
        self._deliveries[module] = _Delivery()
        self._deliver(module)

    def _acknowledged(self, module: Identity, packet_id: int) -> None:
        delivery = self._deliveries.get(module)
        seq = None if delivery is None else delivery.open.pop(packet_id, None)
        if seq is not None:
            self._messages.delivered(seq)
            self._deliver(module)

    def _deliver(self, module: Identity) -> None:
        delivery = self._deliveries.get(module)
        if delivery is None or len(delivery.open) >= _WINDOW or not self._devices.inbox_open(module):
            return
        for waiting in self._messages.waiting(module, delivery.last, _WINDOW - len(delivery.open)):
            number = next(number for number in delivery.ids if number not in delivery.open)
            topic = f"{module.resource}/inputs/{quote(waiting.input, safe='')}/{_bag(waiting.message)}"
            delivery.open[number], delivery.last = waiting.seq, waiting.seq
            self._devices.send(module, mqtt.Publish(topic, waiting.message.body, 1, number))


def check_desired(identity: Identity, desired: Mapping[str, Any]) -> None:
    """Raise UsageError if these desired properties of an `$edgeHub` module hold a route that can't be followed."""
    if identity.module == EDGE_HUB:
        parse_all(desired)


def _bag(message: Message) -> str:
    """The properties as edgeHub hands them to an input: with the sender, without the sender's output."""
    sender = {SENDER_DEVICE: message.sender.device, SENDER_MODULE: message.sender.module or ""}
    kept = {name: value for name, value in message.properties.items() if name not in (OUTPUT, *sender)}
    return write_properties({**kept, **{name: value for name, value in sender.items() if value}})
