"""MQTT packets: bytes to packets and back, for what IoT Hub and clients of brokers speak. No I/O, no clock here.

Source: OASIS MQTT 3.1.1 (the clause numbers below are its own), and OASIS MQTT 5 where `version` is 5: a server's
packets can be read of that version, and a client's written. The decoder refuses what the standard forbids instead of
guessing, bounds what it buffers before it buffers it, and takes bytes in any slices.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelsync_protocol.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from modelsync_protocol.mqtt.properties import MqttError, Properties, pack, unpack

__all__ = [
    "Connack",
    "Connect",
    "Decoder",
    "Disconnect",
    "MqttError",
    "Packet",
    "Pingreq",
    "Pingresp",
    "ProtocolVersionError",
    "Puback",
    "Publish",
    "Suback",
    "Subscribe",
    "Unsuback",
    "Unsubscribe",
    "Will",
    "encode",
]

MAX_PACKET_BYTES = 256 * 1024 + 4096
"""A packet, bytes: IoT Hub's 256 KiB message, its topic and headers."""

MAX_CONNECT_BYTES = 16 * 1024
"""The first packet, bytes: a stranger gets no more of the hub's memory."""

NOT_AUTHORISED = 5
"""CONNACK return code: the SAS token, the device or the resource is wrong (clause 3.2.2.3)."""
IDENTIFIER_REJECTED = 2
UNACCEPTABLE_PROTOCOL = 1
ACCEPTED = 0
SUBSCRIPTION_REFUSED = 0x80


class ProtocolVersionError(MqttError):
    """A CONNECT for another protocol or level: answered with CONNACK 1 before closing."""


_KINDS = frozenset((1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14))


class _Body:
    """A cursor over one packet's body; every read is bounded by the packet."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, count: int) -> bytes:
        end = self._offset + count
        if end > len(self._data):
            raise MqttError("a packet is shorter than its fields.")
        piece = self._data[self._offset : end]
        self._offset = end
        return piece

    def byte(self) -> int:
        return self.take(1)[0]

    def word(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def packet_id(self) -> int:
        number = self.word()
        if number == 0:
            raise MqttError("a packet identifier is 0.")
        return number

    def binary(self) -> bytes:
        return self.take(self.word())

    def text(self) -> str:
        raw = self.binary()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MqttError("a string is not UTF-8.") from error
        if "\0" in text:
            raise MqttError("a string holds a null character.")
        return text

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._offset)

    @property
    def empty(self) -> bool:
        return self._offset == len(self._data)


class Decoder:
    """Turns a stream of bytes, in any slices, into packets; holds at most `limit` bytes of an unfinished one."""

    def __init__(self, limit: int = MAX_PACKET_BYTES, version: int = 4) -> None:
        self.limit, self.version = limit, version
        self._buffer = bytearray()
        self._failed = False

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield every packet completed by `data`, in order; MqttError ends the stream for good.

        Packets completed before the bad one are yielded first.
        """
        if self._failed:
            raise MqttError("the stream was broken before.")
        self._buffer += data
        while True:
            try:
                packet = self._next()
            except MqttError:
                self._failed = True
                self._buffer.clear()
                raise
            if packet is None:
                return
            yield packet

    def _next(self) -> Packet | None:
        if self._buffer:
            # Before any length is believed: what is no MQTT at all is told from its first byte.
            _check_first(self._buffer[0])
        header = _fixed_header(self._buffer)
        if header is None:
            return None
        start, length = header
        if start + length > self.limit:
            raise MqttError(f"a packet of {start + length} bytes is over the limit of {self.limit}.")
        if len(self._buffer) < start + length:
            return None
        first = self._buffer[0]
        body = _Body(bytes(self._buffer[start : start + length]))
        del self._buffer[: start + length]
        kind, flags = first >> 4, first & 0x0F
        packet = _decode_five(kind, flags, body) if self.version == 5 else _decode(kind, flags, body)
        if not body.empty:
            raise MqttError("a packet is longer than its fields.")
        return packet


def _check_first(first: int) -> None:
    kind, flags = first >> 4, first & 0x0F
    if kind not in _KINDS:
        raise MqttError(f"packets of type {kind} are not spoken here (QoS 2 is not supported).")
    if kind != 3 and flags != (2 if kind in (8, 10) else 0):
        raise MqttError("a packet has reserved flags set.")


def _fixed_header(data: bytearray) -> tuple[int, int] | None:
    """Return (bytes of the header, remaining length), or None if more bytes are needed (clause 2.2.3)."""
    value = 0
    for index in range(1, 5):
        if index >= len(data):
            return None
        value |= (data[index] & 0x7F) << 7 * (index - 1)
        if not data[index] & 0x80:
            return index + 1, value
    raise MqttError("a remaining length has more than four bytes.")


def _decode(kind: int, flags: int, body: _Body) -> Packet:
    if kind == 3:
        return _decode_publish(flags, body)
    if kind == 1:
        return _decode_connect(body)
    if kind == 2:
        present, code = body.byte(), body.byte()
        return Connack(bool(present & 1), code)
    if kind == 4:
        return Puback(body.packet_id())
    if kind == 8:
        return _decode_subscribe(body)
    if kind == 9:
        return Suback(body.packet_id(), tuple(body.rest()))
    if kind == 10:
        packet_id, names = body.packet_id(), []
        while not body.empty:
            names.append(_filter(body.text()))
        if not names:
            raise MqttError("an UNSUBSCRIBE has no topic filter.")
        return Unsubscribe(packet_id, tuple(names))
    if kind == 11:
        return Unsuback(body.packet_id())
    if kind == 12:
        return Pingreq()
    if kind == 13:
        return Pingresp()
    return Disconnect()


def _decode_five(kind: int, flags: int, body: _Body) -> Packet:
    """What a server of MQTT 5 sends to a client that asks for no authentication exchange."""
    if kind == 3:
        return _decode_publish(flags, body, 5)
    if kind == 2:
        present, code = body.byte(), body.byte()
        # A server that only knows 3.1.1 refuses in its own form, without properties.
        return Connack(bool(present & 1), code, None if body.empty else _properties(body))
    if kind == 4:
        number = body.packet_id()
        code = 0 if body.empty else body.byte()
        if not body.empty:
            _properties(body)
        return Puback(number, code)
    if kind in (9, 11):
        number, _ = body.packet_id(), _properties(body)
        codes = tuple(body.rest())
        return Suback(number, codes) if kind == 9 else Unsuback(number, codes)
    if kind == 13:
        return Pingresp()
    if kind == 14:
        code = 0 if body.empty else body.byte()
        return Disconnect(code, None if body.empty else _properties(body))
    raise MqttError(f"a server sends no packets of type {kind}.")


def _properties(body: _Body) -> Properties | None:
    length, shift = 0, 0
    while True:
        byte = body.byte()
        length |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return unpack(body.take(length))
        shift += 7
        if shift > 21:
            raise MqttError("a length of properties has more than four bytes.")


def _decode_connect(body: _Body) -> Connect:
    if body.text() != "MQTT" or body.byte() != 4:
        body.rest()
        raise ProtocolVersionError("only MQTT 3.1.1 is spoken here.")
    flags = body.byte()
    if flags & 0x01 or (flags & 0x40 and not flags & 0x80) or (flags & 0x38 and not flags & 0x04):
        raise MqttError("a CONNECT has inconsistent flags.")
    if flags & 0x18 == 0x18:
        raise MqttError("a will has QoS 3.")
    keep_alive = body.word()
    client_id = body.text()
    if flags & 0x04:
        # A will is legal; IoT Hub turns it into telemetry, which nobody reads here.
        body.text()
        body.binary()
    username = body.text() if flags & 0x80 else None
    password = body.binary() if flags & 0x40 else None
    return Connect(client_id, bool(flags & 0x02), keep_alive, username, password)


def _decode_publish(flags: int, body: _Body, version: int = 4) -> Publish:
    qos = flags >> 1 & 3
    topic = body.text()
    if not topic or "#" in topic or "+" in topic:
        raise MqttError("a PUBLISH has no topic or one with wildcards.")
    packet_id = body.packet_id() if qos in (1, 2) else None
    properties = _properties(body) if version == 5 else None
    return Publish(topic, body.rest(), qos, packet_id, bool(flags & 8), bool(flags & 1), properties)


def _decode_subscribe(body: _Body) -> Subscribe:
    packet_id, filters = body.packet_id(), []
    while not body.empty:
        name, qos = _filter(body.text()), body.byte()
        if qos > 2:
            raise MqttError("a SUBSCRIBE asks for QoS 3 or sets reserved bits.")
        filters.append((name, qos))
    if not filters:
        raise MqttError("a SUBSCRIBE has no topic filter.")
    return Subscribe(packet_id, tuple(filters))


def _filter(name: str) -> str:
    if not name:
        raise MqttError("a topic filter is empty.")
    return name


def encode(packet: Packet, version: int = 4) -> bytes:
    """Return the packet's bytes. Of version 5 only what a client sends is of use; CONNECT knows its own version."""
    five = version == 5
    if isinstance(packet, Publish):
        flags = packet.duplicate << 3 | packet.qos << 1 | packet.retain
        number = b"" if packet.packet_id is None else _word(packet.packet_id)
        more = pack(packet.properties) if five else b""
        return _frame(0x30 | flags, _text(packet.topic) + number + more + packet.payload)
    if isinstance(packet, Connect):
        return _frame(0x10, _connect_body(packet))
    if isinstance(packet, Connack):
        return bytes((0x20, 2, packet.session_present, packet.code))
    if isinstance(packet, Puback):
        return _frame(0x40, _word(packet.packet_id))
    if isinstance(packet, Subscribe):
        filters = b"".join(_text(name) + bytes((qos,)) for name, qos in packet.filters)
        return _frame(0x82, _word(packet.packet_id) + (b"\0" if five else b"") + filters)
    if isinstance(packet, Suback):
        return _frame(0x90, _word(packet.packet_id) + bytes(packet.codes))
    if isinstance(packet, Unsubscribe):
        names = b"".join(map(_text, packet.filters))
        return _frame(0xA2, _word(packet.packet_id) + (b"\0" if five else b"") + names)
    if isinstance(packet, Unsuback):
        return _frame(0xB0, _word(packet.packet_id))
    if isinstance(packet, Pingreq):
        return b"\xc0\0"
    if isinstance(packet, Pingresp):
        return b"\xd0\0"
    return _frame(0xE0, bytes((packet.code,)) if five and packet.code else b"")


def _connect_body(packet: Connect) -> bytes:
    flags = packet.clean_session << 1
    flags |= (packet.username is not None) << 7 | (packet.password is not None) << 6
    five, will = packet.version == 5, packet.will
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
    body = _text("MQTT") + bytes((packet.version, flags)) + _word(packet.keep_alive)
    body += (pack(packet.properties) if five else b"") + _text(packet.client_id)
    if will is not None:
        body += (b"\0" if five else b"") + _text(will.topic) + _word(len(will.payload)) + will.payload
    if packet.username is not None:
        body += _text(packet.username)
    if packet.password is not None:
        body += _word(len(packet.password)) + packet.password
    return body


def _frame(first: int, body: bytes) -> bytes:
    length, header = len(body), bytearray((first,))
    while True:
        header.append(length & 0x7F | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return bytes(header) + body


def _word(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return _word(len(raw)) + raw
