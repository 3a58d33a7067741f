"""MQTT packets as values. What is None or 0 by default belongs to MQTT 5, and is neither read nor written of 3.1.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from modelsync_protocol.mqtt.properties import MqttError, Properties


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for a client that goes without a word."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    client_id: str
    clean_session: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    """Written only: a server that reads it has no use for it."""
    version: int = 4
    properties: Properties | None = None


@dataclass(frozen=True, slots=True)
class Connack:
    session_present: bool
    code: int
    properties: Properties | None = None


@dataclass(frozen=True, slots=True)
class Publish:
    topic: str
    payload: bytes = b""
    qos: int = 0
    packet_id: int | None = None
    duplicate: bool = False
    retain: bool = False
    properties: Properties | None = None

    def __post_init__(self) -> None:
        if self.qos not in (0, 1, 2):
            raise MqttError("QoS 3 does not exist.")
        if (self.qos > 0) != (self.packet_id is not None):
            raise MqttError("a packet identifier belongs to QoS 1 and 2 only.")


@dataclass(frozen=True, slots=True)
class Puback:
    packet_id: int
    code: int = 0


@dataclass(frozen=True, slots=True)
class Subscribe:
    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Suback:
    packet_id: int
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsuback:
    packet_id: int
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pingreq:
    pass


@dataclass(frozen=True, slots=True)
class Pingresp:
    pass


@dataclass(frozen=True, slots=True)
class Disconnect:
    code: int = 0
    properties: Properties | None = None


Packet: TypeAlias = (
    Connect | Connack | Publish | Puback | Subscribe | Suback | Unsubscribe | Unsuback | Pingreq | Pingresp | Disconnect
)
