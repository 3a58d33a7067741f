"""Properties of MQTT 5 packets (OASIS MQTT 5, clause 2.2.2): those of a kind that a client of ours sets or heeds.

What else a server may send is read past, by its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Properties = Mapping[int, int | str | bytes]
"""Identifier → value; of a property that may come several times the last. User properties are left out."""

NONE: Properties = MappingProxyType({})

MESSAGE_EXPIRY = 0x02
SERVER_KEEP_ALIVE = 0x13
REASON_STRING = 0x1F
RECEIVE_MAXIMUM = 0x21
TOPIC_ALIAS_MAXIMUM = 0x22
TOPIC_ALIAS = 0x23
RETAIN_AVAILABLE = 0x25
MAXIMUM_PACKET_SIZE = 0x27

_BYTE, _WORD, _LONG, _VARIABLE, _TEXT, _BINARY, _PAIR = range(7)
_TYPES: Mapping[int, int] = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), _BYTE),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), _WORD),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), _LONG),
    **dict.fromkeys((0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F), _TEXT),
    **dict.fromkeys((0x09, 0x16), _BINARY),
    0x0B: _VARIABLE,
    0x26: _PAIR,
}


class MqttError(Exception):
    """The other side broke the protocol; the standard's answer is to close the connection."""


def pack(properties: Properties | None) -> bytes:
    """Length and properties, as a packet carries them. Variable integers and user properties are never set."""
    body = bytearray()
    for number, value in (properties or NONE).items():
        kind = _TYPES[number]
        body.append(number)
        if isinstance(value, int):
            body += value.to_bytes({_BYTE: 1, _WORD: 2}.get(kind, 4), "big")
        else:
            raw = value.encode() if isinstance(value, str) else value
            body += len(raw).to_bytes(2, "big") + raw
    assert len(body) < 128, "the length of the few properties that a client sets has one byte"
    return bytes((len(body),)) + bytes(body)


def unpack(data: bytes) -> Properties | None:
    """The properties of `data`, which is all of them; None if there are none. Raises MqttError."""
    if not data:
        return None
    found: dict[int, int | str | bytes] = {}
    offset = 0

    def take(count: int) -> bytes:
        nonlocal offset
        if offset + count > len(data):
            raise MqttError("properties are shorter than their fields.")
        piece = data[offset : offset + count]
        offset += count
        return piece

    def prefixed() -> bytes:
        return take(int.from_bytes(take(2), "big"))

    def text() -> str:
        try:
            return prefixed().decode("utf-8")
        except UnicodeDecodeError as error:
            raise MqttError("a property is not UTF-8.") from error

    while offset < len(data):
        number = take(1)[0]
        kind = _TYPES.get(number)
        if kind is None:
            raise MqttError(f"there is no property {number}.")
        if kind == _PAIR:
            text(), text()
        elif kind == _TEXT:
            found[number] = text()
        elif kind == _BINARY:
            found[number] = prefixed()
        elif kind == _VARIABLE:
            for _ in range(4):
                if not take(1)[0] & 0x80:
                    break
            else:
                raise MqttError("a property's integer has more than four bytes.")
        else:
            found[number] = int.from_bytes(take({_BYTE: 1, _WORD: 2}.get(kind, 4)), "big")
    return MappingProxyType(found)
