"""Encoding 3: byte-wise (or word-wise) differences from approximately matching base ranges. No I/O here.

FORMAT.md §subtract. Blocks alternate between new bytes and differences from a place in the base range, as in bsdiff
(C. Percival, "Naive differences of executable code", 2003); finding the places is in `alignment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelsync_protocol import caps
from modelsync_protocol.codecs import alignment, zstd
from modelsync_protocol.codecs.alignment import Block
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.codecs.quick_size import quick_size
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_signed, write_varint

_WIDTHS = (1, 2, 4, 8)
_MAX_CONTROL_BYTES = caps.MIB
_MAX_BLOCKS = 1 << 16


@dataclass(frozen=True, slots=True)
class _Parts:
    """What travels: control, differences (in planes), new bytes."""

    control: bytes
    differences: bytes
    fresh: bytes


class Subtract:
    """New bytes may repeat base and prefix; differences stand for themselves."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding; the smallest found over widths and ways to align."""
        return _join(_best(target, base, base + prefix)[1], base + prefix)

    def encode_if(self, target: bytes, base: bytes, bound: int) -> bytes | None:
        """As `encode` without prefix; None if a quick estimate says that the payload will exceed `bound` bytes."""
        estimate, parts = _best(target, base, base)
        return _join(parts, base) if estimate <= bound else None

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes:
        """See codecs.port.Encoding."""
        if length > caps.MAX_FRAME_BYTES:
            raise FormatError(f"a frame of {length} decoded bytes is larger than any allowed.")
        reader = Reader(payload, "a frame of differences")
        control = Reader(_take(reader, reader.varint(_MAX_CONTROL_BYTES)), "a frame of differences")
        width = control.take(1)[0]
        if width not in _WIDTHS:
            raise FormatError("a frame of differences has words of an unknown width.")
        blocks, covered = _read_blocks(control, length, len(base))
        fresh_bytes = length - covered
        differences = _unplaned(_take(reader, covered), blocks, width)
        fresh = zstd.decompress(bytes(reader.take(reader.varint(len(payload)))), fresh_bytes, base + prefix)
        reader.end()
        return _rebuild(blocks, width, base, differences, fresh)


def _best(target: bytes, base: bytes, dictionary: bytes) -> tuple[int, _Parts]:
    """(estimated bytes, parts) of the best way to align and to subtract."""
    plans = alignment.plans(target, base)
    candidates = [_split(target, base, blocks, width) for blocks in plans for width in _WIDTHS]
    return min(((_estimate(parts, dictionary), parts) for parts in candidates), key=lambda pair: pair[0])


def _read_blocks(control: Reader, length: int, base_length: int) -> tuple[list[Block], int]:
    blocks: list[Block] = []
    position = covered = cursor = 0
    for _ in range(control.varint(_MAX_BLOCKS)):
        fresh = control.varint(length - position)
        size = control.varint(length - position - fresh)
        place = cursor + control.signed(caps.MAX_BASE_BYTES)
        if not 0 <= place <= base_length - size:
            raise FormatError("a frame of differences reaches beyond its base.")
        blocks.append(Block(position + fresh, size, place))
        position += fresh + size
        covered += size
        cursor = place + size
    control.end()
    blocks.append(Block(length, 0, 0))
    return blocks, covered


def _split(target: bytes, base: bytes, blocks: Sequence[Block], width: int) -> _Parts:
    control = bytearray((width,))
    write_varint(control, len(blocks))
    new, old = np.frombuffer(target, np.uint8), np.frombuffer(base, np.uint8)
    dtype = np.dtype(f"<u{width}")
    words, tails, fresh = [], [], []
    position = cursor = 0
    for block in blocks:
        fresh.append(target[position : block.begin])
        write_varint(control, block.begin - position)
        write_varint(control, block.length)
        write_signed(control, block.place - cursor)
        position, cursor = block.begin + block.length, block.place + block.length
        whole = block.length // width * width
        a, b = new[block.begin : position], old[block.place : cursor]
        words.append(np.frombuffer(a[:whole].tobytes(), dtype) - np.frombuffer(b[:whole].tobytes(), dtype))
        tails.append((a[whole:] - b[whole:]).tobytes())
    fresh.append(target[position:])
    joined = np.concatenate(words) if words else np.zeros(0, dtype)
    planes = joined.astype(dtype).view(np.uint8).reshape(-1, width).T.tobytes()
    return _Parts(bytes(control), planes + b"".join(tails), b"".join(fresh))


def _unplaned(data: bytes, blocks: Sequence[Block], width: int) -> bytes:
    """Words first, then the blocks' tails: planes back to words."""
    count = sum(block.length // width for block in blocks)
    planes = np.frombuffer(data, np.uint8, count * width)
    return planes.reshape(width, count).T.tobytes() + data[count * width :]


def _rebuild(blocks: Sequence[Block], width: int, base: bytes, differences: bytes, fresh: bytes) -> bytes:
    dtype = np.dtype(f"<u{width}")
    out: list[bytes] = []
    position = word = used = 0
    tail = sum(block.length // width for block in blocks) * width
    for block in blocks:
        out.append(fresh[used : used + block.begin - position])
        used += block.begin - position
        position = block.begin + block.length
        count = block.length // width
        rest = block.length - count * width
        old = np.frombuffer(base, dtype, count, block.place) if count else np.zeros(0, dtype)
        out.append((old + np.frombuffer(differences, dtype, count, word * width)).tobytes())
        if rest:
            place = block.place + count * width
            last = np.frombuffer(base, np.uint8, rest, place)
            out.append((last + np.frombuffer(differences, np.uint8, rest, tail)).tobytes())
        word += count
        tail += rest
    return b"".join(out)


def _join(parts: _Parts, dictionary: bytes) -> bytes:
    out = bytearray()
    write_varint(out, len(parts.control))
    for data in (parts.control, parts.differences):
        packed = zstd.compress(data, b"")
        stored = packed if len(packed) < len(data) else data
        write_varint(out, len(stored))
        out += stored
    packed = zstd.compress(parts.fresh, dictionary)
    write_varint(out, len(packed))
    return bytes(out + packed)


def _take(reader: Reader, size: int) -> bytes:
    """`size` bytes, which travel as they are if zstd would not make them fewer."""
    stored = bytes(reader.take(reader.varint(size)))
    return stored if len(stored) == size else zstd.decompress(stored, size, b"")


def _estimate(parts: _Parts, dictionary: bytes) -> int:
    return quick_size(parts.control) + quick_size(parts.differences) + quick_size(parts.fresh, dictionary)
