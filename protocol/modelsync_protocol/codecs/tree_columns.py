"""Encoding 7: ensembles of trees as columns, what lies between them as zstd. No I/O here.

FORMAT.md §tree-columns. A payload: kind, header of the kind, bytes between the trees, corrections, and the bits of
`trees.lanes`. The encoder decodes what it made; where that differs from the target it adds corrections.
"""

from __future__ import annotations

import numpy as np

from modelsync_protocol import caps
from modelsync_protocol.codecs import zstd
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.errors import FormatError
from modelsync_protocol.trees import record_frames
from modelsync_protocol.trees.lanes import MAX_LANES, Decoder, Encoder
from modelsync_protocol.trees.record_frames import RecordCoder
from modelsync_protocol.wire import Reader, write_varint

_RECORDS = 1
_MAX_CORRECTED = 1 << 14
_MAX_DECISIONS = 1 << 27
"""Decisions of one frame: bounds the decoder's time."""


class Unfit(Exception):
    """The encoder finds nothing that this encoding is for."""


class TreeColumns:
    """Leans on the base range for what its trees teach, and on base and prefix for the bytes between trees."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding. A target without trees comes out as kind 0, plain bytes."""
        payload = self.encode_if(target, base, prefix)
        return payload if payload is not None else b"\x00" + zstd.compress(target, base + prefix)

    def encode_if(self, target: bytes, base: bytes, prefix: bytes) -> bytes | None:
        """The payload, or None if `target` holds no trees that this encoding knows."""
        made = record_frames.draft(target, base)
        if made is None:
            return None
        lanes = 1 << _lane_bits(sum(tree.count for tree in made.found))
        encoder = Encoder(lanes)
        coder = RecordCoder(made.parameters, made.size, len(made.found), len(made.old), base)
        old, _, same = coder.layout(encoder, made)
        coder.tables(encoder, old, same, (target, made))
        gaps = _outside(target, [(t.records, t.records_end) for t in made.found] + [(t.values, t.end) for t in made.found])
        dictionary = _outside(base, _spans(old)) + prefix
        head = bytearray([_RECORDS])
        record_frames.write_header(head, made)
        between = zstd.compress(gaps, dictionary)
        payload = _assembled(head, between, b"", encoder)
        corrections = _corrections(self.decode(payload, len(target), base, prefix, b""), target)
        return None if corrections is None else _assembled(head, between, corrections, encoder)

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes:
        """See codecs.port.Encoding."""
        if length > caps.MAX_FRAME_BYTES:
            raise FormatError(f"a frame of {length} decoded bytes is larger than any allowed.")
        reader = Reader(payload, "a frame of trees")
        kind = reader.take(1)[0]
        if kind == 0:
            return zstd.decompress(payload[1:], length, base + prefix)
        if kind != _RECORDS:
            raise FormatError(f"trees of kind {kind} are not known here; update this program.")
        with np.errstate(all="ignore"):
            return _decode_records(reader, payload, length, base, prefix)


def _decode_records(reader: Reader, payload: bytes, length: int, base: bytes, prefix: bytes) -> bytes:
    parameters, size, trees, old_trees = record_frames.read_header(reader)
    between = bytes(reader.take(reader.varint(caps.MAX_PAYLOAD_BYTES)))
    corrections = bytes(reader.take(reader.varint(caps.MAX_PAYLOAD_BYTES)))
    decoder = _decoder(reader, len(payload))
    coder = RecordCoder(parameters, size, trees, old_trees, base)
    old, places, same = coder.layout(decoder, None)
    table = coder.tables(decoder, old, same, None)
    decoder.end()
    total = table.shape.count * (size + 8 * parameters.width)
    if total > length:
        raise FormatError("a frame of trees is longer than declared.")
    fresh = iter(record_frames.arrays(table, size))
    pieces: list[bytes] = []
    for twin in same.tolist():
        tree = old[twin]
        pieces += next(fresh) if twin < 0 else (base[tree.records : tree.records_end], base[tree.values : tree.end])
    rest = length - sum(map(len, pieces))
    if rest < 0:
        raise FormatError("a frame of trees is longer than declared.")
    gaps = zstd.decompress(between, rest, _outside(base, _spans(old)) + prefix)
    out = bytearray()
    used = 0
    for number, piece in enumerate(pieces):
        gap = places[number // 2][number % 2]
        out += gaps[used : used + gap]
        out += piece
        used += gap
    out += gaps[used:]
    if len(out) != length or used > len(gaps):
        raise FormatError("a frame of trees does not fill its length.")
    _correct(out, corrections)
    return bytes(out)


def _spans(found: list[record_frames.Found]) -> list[tuple[int, int]]:
    return [(t.records, t.records_end) for t in found] + [(t.values, t.end) for t in found]


def _lane_bits(nodes: int) -> int:
    return min(8, max(3, (nodes >> 7).bit_length()))


def _assembled(head: bytes, between: bytes, corrections: bytes, encoder: Encoder) -> bytes:
    states, words, raw = encoder.written()
    out = bytearray(head)
    for part in (between, corrections):
        write_varint(out, len(part))
        out += part
    out.append(len(states).bit_length() - 1)
    write_varint(out, len(words))
    out += states.astype("<u4").tobytes() + words.astype("<u2").tobytes() + raw
    return bytes(out)


def _decoder(reader: Reader, length: int) -> Decoder:
    lanes = 1 << reader.take(1)[0] if reader.offset < length else 0
    if lanes > MAX_LANES:
        raise FormatError("a frame of trees has more lanes than any allowed.")
    count = reader.varint(caps.MAX_PAYLOAD_BYTES)
    states = np.frombuffer(reader.take(4 * lanes), "<u4")
    words = np.frombuffer(reader.take(2 * count), "<u2")
    return Decoder(states, words, bytes(reader.take(length - reader.offset)), _MAX_DECISIONS)


def _outside(data: bytes, spans: list[tuple[int, int]]) -> bytes:
    """The bytes of `data` that no span covers."""
    parts, position = [], 0
    for begin, end in sorted(spans):
        parts.append(data[position:begin])
        position = max(position, end)
    return b"".join([*parts, data[position:]])


def _corrections(made: bytes, target: bytes) -> bytes | None:
    """Where `made` differs from `target`, and how; None if in too many places."""
    apart = np.flatnonzero(np.frombuffer(made, np.uint8) != np.frombuffer(target, np.uint8))
    if not len(apart):
        return b""
    if len(apart) > _MAX_CORRECTED:
        return None
    out = bytearray()
    write_varint(out, len(apart))
    for step in np.diff(apart, prepend=0).tolist():
        write_varint(out, step)
    out += bytes(target[place] for place in apart.tolist())
    packed = zstd.compress(bytes(out), b"")
    head = bytearray()
    write_varint(head, len(out))
    return bytes(head) + packed


def _correct(out: bytearray, corrections: bytes) -> None:
    if not corrections:
        return
    outer = Reader(corrections, "corrections of trees")
    size = outer.varint(5 * _MAX_CORRECTED + 8)
    plain = zstd.decompress(bytes(outer.take(len(corrections) - outer.offset)), size, b"")
    reader = Reader(plain, "corrections of trees")
    count = reader.varint(_MAX_CORRECTED)
    place = 0
    places = []
    for _ in range(count):
        place += reader.varint(len(out))
        places.append(place)
    values = reader.take(count)
    reader.end()
    if place >= len(out):
        raise FormatError("a correction of trees is out of bounds.")
    for place, value in zip(places, values, strict=True):
        out[place] = value
