"""Operations: the ordered recipe that builds a target's stream, as copies and frames. No I/O here.

Operations tile the stream from 0 to its end and are carried out in order, so whatever leans on earlier bytes of
the target finds them in place.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from modelsync_protocol import caps, codecs
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.plain.view import View
from modelsync_protocol.wire import Reader, write_signed, write_varint

_COPY_BASE, _COPY_TARGET = 0, 0x80


@dataclass(frozen=True, slots=True)
class Copy:
    """`length` bytes from `offset` of the base's stream, or of the target's own earlier stream."""

    length: int
    offset: int
    own: bool = False
    """True: from the target itself."""


@dataclass(frozen=True, slots=True)
class Frame:
    """`length` decoded bytes from a payload of `payload_length` bytes in `encoding`.

    Leans on `base_length` bytes at `base_offset` of the base's stream, and on the `prefix` bytes of the target
    just before it.
    """

    length: int
    encoding: int
    payload_length: int
    base_offset: int = 0
    base_length: int = 0
    prefix: int = 0


Op = Copy | Frame


class Operations(Sequence[Op]):
    """Operations in 17 bytes a copy and 29 a frame; each is made when it is looked at.

    A header of a kilobyte may stand for caps.MAX_OPS of them, and as objects they would take 200 MB of a device.
    """

    __slots__ = ("_frames", "_kinds", "_lengths", "_offsets")

    def __init__(self, operations: Iterable[Op] = ()) -> None:
        self._kinds = bytearray()
        self._lengths, self._offsets = array("Q"), array("Q")
        self._frames = array("I")
        """Of each frame: payload_length, base_length, prefix."""
        for op in operations:
            self.append(op)

    def append(self, op: Op) -> None:
        """Add one at the end."""
        if isinstance(op, Copy):
            self._kinds.append(_COPY_TARGET if op.own else _COPY_BASE)
            self._offsets.append(op.offset)
        else:
            self._kinds.append(op.encoding)
            self._offsets.append(op.base_offset)
            self._frames.extend((op.payload_length, op.base_length, op.prefix))
        self._lengths.append(op.length)

    def __len__(self) -> int:
        return len(self._kinds)

    def __iter__(self) -> Iterator[Op]:
        frames = iter(self._frames)
        for kind, length, offset in zip(self._kinds, self._lengths, self._offsets, strict=True):
            if kind in (_COPY_BASE, _COPY_TARGET):
                yield Copy(length, offset, own=kind == _COPY_TARGET)
            else:
                yield Frame(length, kind, next(frames), offset, next(frames), next(frames))

    @overload
    def __getitem__(self, index: int) -> Op: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Op, ...]: ...
    def __getitem__(self, index: int | slice) -> Op | tuple[Op, ...]:
        """One takes as long as counting the frames before it; go over them rather than ask for each."""
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        number = range(len(self))[index]
        kind, length, offset = self._kinds[number], self._lengths[number], self._offsets[number]
        if kind in (_COPY_BASE, _COPY_TARGET):
            return Copy(length, offset, own=kind == _COPY_TARGET)
        before = number - self._kinds.count(_COPY_BASE, 0, number) - self._kinds.count(_COPY_TARGET, 0, number)
        payload_length, base_length, prefix = self._frames[3 * before : 3 * before + 3]
        return Frame(length, kind, payload_length, offset, base_length, prefix)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented
        return all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash((bytes(self._kinds), self._lengths.tobytes(), self._offsets.tobytes(), self._frames.tobytes()))

    def __repr__(self) -> str:
        return f"Operations({list(self)!r})"


def write_ops(out: bytearray, operations: Sequence[Op]) -> None:
    """Append the count and the operations (FORMAT.md §operations)."""
    write_varint(out, len(operations))
    cursor = position = 0
    for op in operations:
        if isinstance(op, Copy):
            out.append(_COPY_TARGET if op.own else _COPY_BASE)
            write_varint(out, op.length)
            if op.own:
                write_varint(out, position - op.offset)
            else:
                write_signed(out, op.offset - cursor)
                cursor = op.offset + op.length
        else:
            out.append(op.encoding)
            write_varint(out, op.length)
            if op.encoding == codecs.STORED:
                position += op.length
                continue
            write_varint(out, op.payload_length)
            write_varint(out, op.prefix)
            write_varint(out, op.base_length)
            if op.base_length:
                write_signed(out, op.base_offset - cursor)
                cursor = op.base_offset + op.base_length
        position += op.length


def read_ops(reader: Reader, *, target: Manifest | View, base_size: int, version: int = 1) -> Operations:
    """Read operations that tile the stream of `target`; `base_size` is the base's stream in bytes (0: no base).

    Raises FormatError if any reaches beyond base or target, cuts a chunk of the target (a plain view has none), or
    breaks a cap, or is of an encoding that `version` of the update's format does not have.
    """
    target_size = target.size
    edges = target.chunk_ends() if isinstance(target, Manifest) else None
    edge = 0
    operations = Operations()
    cursor = position = 0
    for _ in range(reader.varint(caps.MAX_OPS)):
        kind = reader.take(1)[0]
        op: Op
        if kind in (_COPY_BASE, _COPY_TARGET):
            length = reader.varint(target_size - position)
            if kind == _COPY_TARGET:
                op = Copy(length, position - reader.varint(position), own=True)
                _check(op.offset + length <= position, "a copy reads bytes that are not written yet")
            else:
                op = Copy(length, cursor + reader.signed(base_size))
                _check(op.offset >= 0 and op.offset + length <= base_size, "a copy reads beyond its base")
                cursor = op.offset + length
        else:
            op = _read_frame(reader, kind, target_size - position, base_size, cursor, position, version)
            if op.base_length:
                cursor = op.base_offset + op.base_length
        _check(op.length > 0, "an operation is empty")
        operations.append(op)
        position += op.length
        while edges is not None and edge < position:
            edge = next(edges)
        _check(edges is None or position == edge, "an operation ends in the middle of a chunk")
    _check(position == target_size, "the operations do not fill the target")
    return operations


def _read_frame(
    reader: Reader, kind: int, room: int, base_size: int, cursor: int, position: int, version: int
) -> Frame:
    _check(
        kind in codecs.ENCODINGS and codecs.first_version(kind) <= version,
        f"encoding {kind} is not known here; update this program",
    )
    length = reader.varint(min(caps.MAX_FRAME_BYTES, room))
    if kind == codecs.STORED:
        _check(length <= caps.MAX_PAYLOAD_BYTES, "a stored frame is larger than any payload")
        return Frame(length, kind, length)
    payload_length = reader.varint(caps.MAX_PAYLOAD_BYTES)
    prefix = reader.varint(min(caps.MAX_PREFIX_BYTES, position))
    base_length = reader.varint(min(caps.MAX_BASE_BYTES, base_size))
    base_offset = cursor + reader.signed(base_size) if base_length else 0
    _check(base_offset >= 0 and base_offset + base_length <= base_size, "a frame leans on bytes beyond its base")
    _check(length + prefix + base_length <= caps.MAX_LEAN_BYTES, "a frame leans on more than the format allows")
    return Frame(length, kind, payload_length, base_offset, base_length, prefix)


def _check(condition: bool, complaint: str) -> None:
    if not condition:
        raise FormatError(f"{complaint}.")
