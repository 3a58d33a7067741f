"""Encoding 7: ensembles of trees as columns, what lies between them as zstd. No I/O here.

FORMAT.md §tree-columns. A payload: kind, header of the kind, bytes between the trees, corrections, and the bits of
`trees.lanes`. The encoder decodes what it made; where that differs from the target it adds corrections.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelsync_protocol import caps
from modelsync_protocol.codecs import zstd
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.errors import FormatError
from modelsync_protocol.tree_files import (
    binned_frames,
    boosted_frames,
    onnx_arrays,
    onnx_frames,
    record_frames,
    text_arrays,
    text_frames,
)
from modelsync_protocol.tree_files.boosted_arrays import Trees
from modelsync_protocol.tree_files.layouts import Laid, layout
from modelsync_protocol.tree_files.record_frames import RecordCoder
from modelsync_protocol.tree_files.scan import Found
from modelsync_protocol.trees.lanes import MAX_LANES, Decoder, Encoder
from modelsync_protocol.wire import Reader, write_varint

_RECORDS, _ONNX, _BOOSTED, _TEXT, _BINNED = 1, 2, 3, 4, 5
_MAX_CORRECTED = 1 << 14
_MAX_DECISIONS = 1 << 27
"""Decisions of one frame: bounds the decoder's time."""

Written = Callable[[bytes], bytes]
"""Gives the payload with these corrections."""


class TreeColumns:
    """Leans on the base range for what its trees teach, and on base and prefix for the bytes between trees."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding. A target without trees comes out as kind 0, plain bytes."""
        payload = self.encode_if(target, base, prefix)
        return payload if payload is not None else b"\x00" + zstd.compress(target, base + prefix)

    def encode_if(self, target: bytes, base: bytes, prefix: bytes) -> bytes | None:
        """The payload, or None if `target` holds no trees that this encoding knows."""
        for attempt in (_encode_records, _encode_onnx, _encode_boosted, _encode_text, _encode_binned):
            try:
                with np.errstate(all="ignore"):
                    made = attempt(target, base, prefix)
                if made is None:
                    continue
                found = self.decode(made(b""), len(target), base, prefix, b"")
            except FormatError:
                continue  # beyond what the format allows: other encodings carry it
            corrections = _corrections(found, target)
            if corrections is not None:
                return made(corrections)
        return None

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes:
        """See codecs.port.Encoding."""
        if length > caps.MAX_FRAME_BYTES:
            raise FormatError(f"a frame of {length} decoded bytes is larger than any allowed.")
        reader = Reader(payload, "a frame of trees")
        kind = reader.take(1)[0]
        if kind == 0:
            return zstd.decompress(payload[1:], length, base + prefix)
        decode = _DECODERS.get(kind)
        if decode is None:
            raise FormatError(f"trees of kind {kind} are not known here; update this program.")
        try:
            with np.errstate(all="ignore"):
                return decode(reader, payload, length, base, prefix)
        except (ArithmeticError, LookupError, StopIteration, TypeError, ValueError) as error:
            # What hostile numbers lead to in NumPy; all sizes are checked before.
            raise FormatError(f"a frame of trees does not decode: {error}.") from error


def _encode_records(target: bytes, base: bytes, prefix: bytes) -> Written | None:
    made = record_frames.draft(target, base)
    if made is None:
        return None
    encoder = Encoder(1 << _lane_bits(sum(tree.count for tree in made.found)))
    coder = RecordCoder(made.parameters, made.size, len(made.found), len(made.old), base)
    old, _, same = coder.layout(encoder, made)
    coder.tables(encoder, old, same, (target, made))
    head = bytearray([_RECORDS])
    record_frames.write_header(head, made)
    between = zstd.compress(_outside(target, _spans(made.found)), _outside(base, _spans(old)) + prefix)
    return lambda corrections: _assembled(head, between, corrections, encoder)


def _encode_onnx(target: bytes, base: bytes, prefix: bytes) -> Written | None:
    made = onnx_frames.draft(target)
    if made is None:
        return None
    encoder = Encoder(1 << _lane_bits(made.ensemble.shape.count))
    old, arrays = _onnx_base(base, made.parameters.width)
    onnx_frames.layout(encoder, arrays, made.arrays, len(made.arrays))
    onnx_frames.code(encoder, made.parameters, old, made.ensemble)
    head = bytearray([_ONNX])
    onnx_frames.write_header(head, made.parameters)
    write_varint(head, len(made.arrays))
    gaps = _outside(target, [(array.begin, array.end) for array in made.arrays])
    between = zstd.compress(gaps, _outside(base, [(array.begin, array.end) for array in arrays]) + prefix)
    return lambda corrections: _assembled(head, between, corrections, encoder)


def _onnx_base(base: bytes, width: int) -> tuple[onnx_frames.Ensemble, list[onnx_arrays.Array]]:
    arrays = onnx_arrays.arrays(base)
    found = onnx_frames.read(base, arrays)
    return (found[0] if found is not None else onnx_frames.empty(width)), arrays


def _decode_onnx(reader: Reader, payload: bytes, length: int, base: bytes, prefix: bytes) -> bytes:
    parameters = onnx_frames.read_header(reader)
    count = reader.varint(len(onnx_arrays.NAMES))
    between, corrections, decoder = _parts(reader, payload)
    old, arrays = _onnx_base(base, parameters.width)
    places = onnx_frames.layout(decoder, arrays, None, count)
    ensemble = onnx_frames.code(decoder, parameters, old, None)
    decoder.end()
    pieces = []
    for name, kind, packed, gap in places:
        piece = onnx_frames.generated(parameters, ensemble, onnx_arrays.Array(name, kind, packed, 0, 0))
        if piece is None:
            raise FormatError("a frame of trees has arrays out of bounds.")
        pieces.append((gap, piece))
    dictionary = _outside(base, [(array.begin, array.end) for array in arrays]) + prefix
    return _joined(pieces, between, dictionary, length, corrections)


def _decode_records(reader: Reader, payload: bytes, length: int, base: bytes, prefix: bytes) -> bytes:
    parameters, size, trees, old_trees = record_frames.read_header(reader)
    between, corrections, decoder = _parts(reader, payload)
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
        if twin < 0:
            pieces += next(fresh)
        else:
            tree = old[twin]
            pieces += base[tree.records : tree.records_end], base[tree.values : tree.end]
    gaps = [gap for place in places for gap in place]
    dictionary = _outside(base, _spans(old)) + prefix
    return _joined(list(zip(gaps, pieces, strict=True)), between, dictionary, length, corrections)


def _encode_boosted(target: bytes, base: bytes, prefix: bytes) -> Written | None:
    old, old_found = boosted_frames.old_trees(base)
    made = boosted_frames.draft(target, base, old, old_found)
    if made is None:
        return None
    encoder = Encoder(1 << _lane_bits(made.booster.shape.count))
    count = int(old.shape.tree.max(initial=-1)) + 1
    layout(encoder, len(made.spans), len(made.forms), count, Laid(made.spans, made.same))
    boosted_frames.code(encoder, made.parameters, old, made.same, made.booster)
    head = bytearray([_BOOSTED])
    boosted_frames.write_header(head, made)
    gaps = _outside(target, [(array.begin, array.end) for tree in made.spans for array in tree])
    between = zstd.compress(gaps, _boosted_rest(base, old_found) + prefix)
    return lambda corrections: _assembled(head, between, corrections, encoder)


def _boosted_rest(base: bytes, found: Trees | text_arrays.Trees | None) -> bytes:
    return _outside(base, [(a.begin, a.end) for tree in found.arrays for a in tree] if found is not None else [])


def _decode_boosted(reader: Reader, payload: bytes, length: int, base: bytes, prefix: bytes) -> bytes:
    header = boosted_frames.read_header(reader)
    between, corrections, decoder = _parts(reader, payload)
    old, old_found = boosted_frames.old_trees(base)
    count = int(old.shape.tree.max(initial=-1)) + 1
    places, same = layout(decoder, header.trees, len(header.forms), count, None)
    booster = boosted_frames.code(decoder, header.parameters, old, same, None)
    decoder.end()
    written = boosted_frames.generated(booster, header.forms, header.binary, header.first_id)
    pieces = [pair for gaps, row in zip(places.tolist(), written, strict=True) for pair in zip(gaps, row, strict=True)]
    return _joined(pieces, between, _boosted_rest(base, old_found) + prefix, length, corrections)


def _encode_text(target: bytes, base: bytes, prefix: bytes) -> Written | None:
    old, old_found = text_frames.old_trees(base)
    made = text_frames.draft(target, base, old, old_found)
    if made is None:
        return None
    encoder = Encoder(1 << _lane_bits(made.trees.shape.count))
    layout(encoder, len(made.spans), len(made.names), len(old.rate), Laid(made.spans, made.same))
    text_frames.code(encoder, made.parameters, old, made.same, (made.trees, made.numbers))
    head = bytearray([_TEXT])
    text_frames.write_header(head, made)
    gaps = _outside(target, [(array.begin, array.end) for tree in made.spans for array in tree])
    between = zstd.compress(gaps, _boosted_rest(base, old_found) + prefix)
    return lambda corrections: _assembled(head, between, corrections, encoder)


def _decode_text(reader: Reader, payload: bytes, length: int, base: bytes, prefix: bytes) -> bytes:
    header = text_frames.read_header(reader)
    between, corrections, decoder = _parts(reader, payload)
    old, old_found = text_frames.old_trees(base)
    places, same = layout(decoder, header.trees, len(header.names), len(old.rate), None)
    if header.trees * len(header.names) > length:  # a digit each, at least
        raise FormatError("a frame of trees is longer than declared.")
    trees, numbers = text_frames.code(decoder, header.parameters, old, same, None)
    decoder.end()
    if trees.shape.count * (len(header.names) - len(text_arrays.ONE)) > length:  # a digit and a space each, at least
        raise FormatError("a frame of trees is longer than declared.")
    written = text_frames.generated(trees, numbers, header.names)
    pieces = [pair for gaps, row in zip(places.tolist(), written, strict=True) for pair in zip(gaps, row, strict=True)]
    return _joined(pieces, between, _boosted_rest(base, old_found) + prefix, length, corrections)


def _encode_binned(target: bytes, base: bytes, prefix: bytes) -> Written | None:
    old = binned_frames.old_trees(base)
    made = binned_frames.draft(target, base, old)
    if made is None:
        return None
    encoder = Encoder(1 << _lane_bits(made.trees.shape.count))
    features = len(made.edge_spans)
    layout(encoder, features, 1, 0, Laid(made.edge_spans, np.full(features, -1, np.int64)))
    start = made.edge_spans[-1][0].end if features else 0
    layout(encoder, len(made.spans), 1, old.count, Laid(made.spans, made.same, start))
    binned_frames.code(encoder, made.parameters, features, old, made.same, (made.trees, made.edges))
    head = bytearray([_BINNED])
    binned_frames.write_header(head, made)
    gaps = _outside(target, [(span.begin, span.end) for (span,) in made.edge_spans + made.spans])
    between = zstd.compress(gaps, _outside(base, old.spans) + prefix)
    return lambda corrections: _assembled(head, between, corrections, encoder)


def _decode_binned(reader: Reader, payload: bytes, length: int, base: bytes, prefix: bytes) -> bytes:
    header = binned_frames.read_header(reader)
    between, corrections, decoder = _parts(reader, payload)
    old = binned_frames.old_trees(base)
    first, _ = layout(decoder, header.features, 1, 0, None)
    second, same = layout(decoder, header.trees, 1, old.count, None)
    trees, edges = binned_frames.code(decoder, header.parameters, header.features, old, same, None)
    decoder.end()
    if trees.shape.count * header.size > length:
        raise FormatError("a frame of trees is longer than declared.")
    fresh = iter(binned_frames.generated(trees, header.size))
    pieces = list(zip(first.ravel().tolist(), binned_frames.edge_arrays(edges), strict=True))
    for gap, twin in zip(second.ravel().tolist(), same.tolist(), strict=True):
        span = old.found.trees[twin] if twin >= 0 and old.found is not None else None
        pieces.append((gap, next(fresh) if span is None else base[span.begin : span.end]))
    return _joined(pieces, between, _outside(base, old.spans) + prefix, length, corrections)


_DECODERS = {
    _RECORDS: _decode_records,
    _ONNX: _decode_onnx,
    _BOOSTED: _decode_boosted,
    _TEXT: _decode_text,
    _BINNED: _decode_binned,
}


def _parts(reader: Reader, payload: bytes) -> tuple[bytes, bytes, Decoder]:
    between = bytes(reader.take(reader.varint(caps.MAX_PAYLOAD_BYTES)))
    corrections = bytes(reader.take(reader.varint(caps.MAX_PAYLOAD_BYTES)))
    return between, corrections, _decoder(reader, len(payload))


def _joined(
    pieces: list[tuple[int, bytes]], between: bytes, dictionary: bytes, length: int, corrections: bytes
) -> bytes:
    """The frame from pieces, each with how many bytes come before it, and from what lies between."""
    rest = length - sum(len(piece) for _, piece in pieces)
    if rest < 0:
        raise FormatError("a frame of trees is longer than declared.")
    gaps = zstd.decompress(between, rest, dictionary)
    out = bytearray()
    used = 0
    for gap, piece in pieces:
        out += gaps[used : used + gap]
        out += piece
        used += gap
    out += gaps[used:]
    if len(out) != length or used > len(gaps):
        raise FormatError("a frame of trees does not fill its length.")
    _correct(out, corrections)
    return bytes(out)


def _spans(found: list[Found]) -> list[tuple[int, int]]:
    return [(t.records, t.records_end) for t in found] + [(t.values, t.end) for t in found]


def _lane_bits(nodes: int) -> int:
    return min(8, max(3, (nodes >> 7).bit_length()))


def _assembled(head: bytearray, between: bytes, corrections: bytes, encoder: Encoder) -> bytes:
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
