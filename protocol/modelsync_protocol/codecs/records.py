"""Encoding 10: runs of records of one size, field by field, as differences from the base's records. No I/O here.

FORMAT.md §records. For what has a fixed stride and no container that a reader knows: lists of floats with a tag before
each (ONNX attributes), rows of structures, indexes. What is between the runs is a zstd patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.codecs import zstd
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_signed, write_varint

VALUE, FROM_BASE, FROM_BEFORE, FROM_ROOT = 0, 1, 2, 3
"""What a field's number is relative to: nothing, the same record of the base, the record before, or the bits of the
square root of a float that stands in the prefix (a scaler's deviations follow from its variances)."""

MAX_FIELDS = 256
_MAX_RUNS = 4096
_MAX_SECTIONS = 4096
_MAX_HEAD_BYTES = 64 * caps.KIB

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Field:
    """A number of `width` (1, 2, 4 or 8) bytes, little-endian, and what it is relative to."""

    width: int
    relative: int

    @property
    def code(self) -> int:
        """As one byte."""
        return self.width.bit_length() - 1 + 4 * self.relative


@dataclass(frozen=True, slots=True)
class Run:
    """`count` records from byte `begin` of the target on; the base's first record is at `place` of the base range.

    Of a run of roots `place` counts from the prefix's end back to the first float.
    """

    begin: int
    count: int
    place: int
    fields: tuple[Field, ...]

    @property
    def stride(self) -> int:
        """Bytes of a record."""
        return sum(field.width for field in self.fields)

    @property
    def end(self) -> int:
        """Where it ends in the target."""
        return self.begin + self.count * self.stride

    @property
    def leans(self) -> bool:
        """Whether a field is relative to the base's."""
        return any(field.relative == FROM_BASE for field in self.fields)

    @property
    def roots(self) -> bool:
        """Whether it has square roots, and so nothing else."""
        return len(self.fields) == 1 and self.fields[0].relative == FROM_ROOT


class Records:
    """Knows no runs by itself: without any it is a zstd patch with a longer head."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding; all of the target is one run of 4-byte numbers on the base's first bytes."""
        count = min(len(target), len(base)) // 4
        return write([Run(0, count, 0, (Field(4, FROM_BASE),))] if count else [], target, base, prefix)

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes:
        """See codecs.port.Encoding."""
        if length > caps.MAX_FRAME_BYTES:
            raise FormatError(f"a frame of {length} decoded bytes is larger than any allowed.")
        reader = Reader(payload, "a frame of records")
        head = Reader(_take(reader, reader.varint(_MAX_HEAD_BYTES)), "a frame of records")
        runs = _read_runs(head, length, len(base), len(prefix))
        covered = sum(run.end - run.begin for run in runs)
        sizes: list[int] = []
        while sum(sizes) < covered:
            sizes.append(head.varint(covered - sum(sizes)))
            if sizes[-1] == 0 or len(sizes) > _MAX_SECTIONS:
                raise FormatError("a frame of records has an unknown layout.")
        head.end()
        columns = b"".join(_take(reader, size) for size in sizes)
        rest = zstd.decompress(bytes(reader.take(len(payload) - reader.offset)), length - covered, base + prefix)
        return _rebuild(runs, columns, rest, base, prefix)


def write(runs: Sequence[Run], target: bytes, base: bytes, prefix: bytes) -> bytes:
    """The payload for `target` with these runs, ascending and disjoint."""
    head = bytearray()
    write_varint(head, len(runs))
    position = cursor = 0
    planes: list[bytes] = []
    rest: list[bytes] = []
    for run in runs:
        rest.append(target[position : run.begin])
        write_varint(head, run.begin - position)
        write_varint(head, run.count)
        write_varint(head, len(run.fields))
        head += bytes(field.code for field in run.fields)
        if run.leans:
            write_signed(head, run.place - cursor)
            cursor = run.place + run.count * run.stride
        elif run.roots:
            write_varint(head, run.place)
        position = run.end
        planes += _root_planes(run, target, prefix) if run.roots else _planes(run, target, base)
    rest.append(target[position:])
    sections = _sections(planes)
    for section in sections:
        write_varint(head, len(section))
    out = bytearray()
    write_varint(out, len(head))
    for part in (bytes(head), *sections):
        out += _part(part)
    return bytes(out + zstd.compress(b"".join(rest), base + prefix))


def _sections(planes: Sequence[bytes]) -> list[bytes]:
    """The planes, joined as far as that is smaller."""
    ways = [zstd.apart(planes), [b"".join(planes)] if any(planes) else []]
    small = [way for way in ways if len(way) <= _MAX_SECTIONS]
    return min(small, key=lambda way: sum(len(_part(section)) + 2 for section in way))


def _part(data: bytes) -> bytes:
    """Stored size and bytes: as they are if zstd would not make them fewer."""
    packed = zstd.compress(data, b"")
    stored = packed if len(packed) < len(data) else data
    out = bytearray()
    write_varint(out, len(stored))
    return bytes(out + stored)


def _take(reader: Reader, size: int) -> bytes:
    stored = bytes(reader.take(reader.varint(size)))
    return stored if len(stored) == size else zstd.decompress(stored, size, b"")


def differences(values: Bytes, before: Bytes | None, field: Field) -> NDArray[np.unsignedinteger]:
    """Numbers of one field (rows × width bytes), relative to what the field says; `before` are the base's."""
    dtype = np.dtype(f"<u{field.width}")
    numbers = np.ascontiguousarray(values).view(dtype)[:, 0]
    if field.relative == FROM_BASE and before is not None:
        return np.asarray(numbers - np.ascontiguousarray(before).view(dtype)[:, 0], dtype)
    if field.relative == FROM_BEFORE:
        return np.diff(numbers, prepend=np.zeros(1, dtype))
    return numbers


def _planes(run: Run, target: bytes, base: bytes) -> list[bytes]:
    """Byte by byte of each field, the lowest first, each of all records."""
    new = np.frombuffer(target, np.uint8, run.count * run.stride, run.begin).reshape(run.count, run.stride)
    old = None
    if run.leans:
        old = np.frombuffer(base, np.uint8, run.count * run.stride, run.place).reshape(run.count, run.stride)
    found: list[bytes] = []
    column = 0
    for field in run.fields:
        part = slice(column, column + field.width)
        numbers = differences(new[:, part], None if old is None else old[:, part], field)
        found += [plane.tobytes() for plane in numbers.view(np.uint8).reshape(-1, field.width).T]
        column += field.width
    return found


def roots(data: bytes, width: int) -> NDArray[np.unsignedinteger]:
    """Bits of the square roots of floats of 4 or 8 bytes, 0 for what has none; IEEE 754 rounds them all alike."""
    floats = np.frombuffer(data, f"<f{width}").astype(np.float64)
    made = np.sqrt(np.where(np.isfinite(floats) & (floats > 0), floats, 0.0)).astype(f"<f{width}")
    bits: NDArray[np.unsignedinteger] = made.view(f"<u{width}")
    return bits


def _root_planes(run: Run, target: bytes, prefix: bytes) -> list[bytes]:
    width = run.stride
    numbers = np.frombuffer(target, f"<u{width}", run.count, run.begin) - roots(_squares(run, prefix), width)
    return [plane.tobytes() for plane in numbers.view(np.uint8).reshape(-1, width).T]


def _squares(run: Run, prefix: bytes) -> bytes:
    begin = len(prefix) - run.place
    return prefix[begin : begin + run.count * run.stride]


def _read_runs(head: Reader, length: int, base_length: int, prefix_length: int) -> list[Run]:
    runs: list[Run] = []
    position = cursor = 0
    for _ in range(head.varint(_MAX_RUNS)):
        begin = position + head.varint(length - position)
        count = head.varint(length - begin)
        codes = bytes(head.take(head.varint(MAX_FIELDS)))
        if count == 0 or not codes or max(codes) > 3 + 4 * FROM_ROOT:
            raise FormatError("a frame of records has an unknown layout.")
        run = Run(begin, count, 0, tuple(Field(1 << (code & 3), code >> 2) for code in codes))
        if run.end > length:
            raise FormatError("a run of records reaches beyond its frame.")
        if run.leans:
            place = cursor + head.signed(caps.MAX_BASE_BYTES)
            run = Run(begin, count, place, run.fields)
            cursor = place + count * run.stride
            if place < 0 or cursor > base_length:
                raise FormatError("a run of records leans on bytes beyond its base.")
        elif run.roots:
            run = Run(begin, count, head.varint(prefix_length), run.fields)
            if run.place < count * run.stride:
                raise FormatError("a run of roots leans on bytes beyond its prefix.")
        if any(field.relative == FROM_ROOT for field in run.fields) and (not run.roots or run.stride < 4):
            raise FormatError("a frame of records has an unknown layout.")
        runs.append(run)
        position = run.end
    return runs


def _rebuild(runs: Sequence[Run], columns: bytes, rest: bytes, base: bytes, prefix: bytes) -> bytes:
    out: list[bytes] = []
    position = used = taken = 0
    for run in runs:
        out.append(rest[taken : taken + run.begin - position])
        taken += run.begin - position
        position = run.end
        table = np.empty((run.count, run.stride), np.uint8)
        old = None
        if run.leans:
            old = np.frombuffer(base, np.uint8, run.count * run.stride, run.place).reshape(run.count, run.stride)
        column = 0
        for field in run.fields:
            size = run.count * field.width
            planes = np.frombuffer(columns, np.uint8, size, used).reshape(field.width, run.count)
            used += size
            part = slice(column, column + field.width)
            numbers = np.ascontiguousarray(planes.T).view(f"<u{field.width}")[:, 0]
            if field.relative == FROM_BASE and old is not None:
                numbers = numbers + np.ascontiguousarray(old[:, part]).view(f"<u{field.width}")[:, 0]
            elif field.relative == FROM_BEFORE:
                numbers = np.cumsum(numbers, dtype=f"<u{field.width}")
            elif field.relative == FROM_ROOT:
                numbers = numbers + roots(_squares(run, prefix), field.width)
            table[:, part] = numbers.view(np.uint8).reshape(-1, field.width)
            column += field.width
        out.append(table.tobytes())
    out.append(rest[taken:])
    return b"".join(out)
