"""Finds the compressed members of a file by its content: zip, gzip, zlib, filtered chunks of HDF5. No I/O here."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from modelsync_protocol import caps
from modelsync_protocol.containers import hdf5, zip_entries
from modelsync_protocol.errors import FormatError
from modelsync_protocol.plain.recipes import Wrapping

_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b\x08"
_ZLIB_CODES = frozenset({0x78, 0x68, 0x58, 0x48, 0x38, 0x28, 0x18})
_EXTRA, _NAME, _COMMENT, _HEADER_CRC = 4, 8, 16, 2
_MAX_DEPTH = 2
_READ_BYTES = caps.MIB
_MIN_ZLIB_BYTES = 64
_CRC_BYTES = 4


@dataclass(frozen=True, slots=True)
class Found:
    """A member that may be unpacked: `packed` bytes from `offset` of its file on, said to be `plain` bytes.

    `name` has the suffix by which the plain bytes are read. Chunks of one dataset have one name, and `shape` and
    `dtype` are those of a chunk.
    """

    name: str
    offset: int
    packed: int
    plain: int
    wrapping: Wrapping
    shuffle: int = 1
    dtype: str | None = None
    shape: tuple[int, ...] | None = None


def members(path: str, data: memoryview) -> list[Found]:
    """Return what may be unpacked of the file `path`, in no order; empty if nothing in it is compressed.

    Stored parts that hold tensors are listed too (where they lie moves when others are unpacked).
    """
    try:
        found = list(islice(_members(path, data, 0), caps.MAX_MEMBERS + 1))
    except FormatError:
        return []
    packed = any(item.wrapping != Wrapping.STORED or item.shuffle > 1 for item in found)
    return found if packed and len(found) <= caps.MAX_MEMBERS else []


def _members(path: str, data: memoryview, depth: int) -> Iterator[Found]:
    head = bytes(data[:8])
    if head.startswith(_ZIP):
        yield from _of_zip(data, depth)
    elif head == hdf5.MAGIC:
        yield from _of_hdf5(data)
    elif depth == 0 and head.startswith(_GZIP):
        yield from _of_gzip(path, data)
    elif depth == 0 and len(data) >= _MIN_ZLIB_BYTES and head[0] in _ZLIB_CODES and head[0] * 256 % 31 == -head[1] % 31:
        found = _extent(data, zlib.MAX_WBITS)
        if found is not None:
            yield Found(_base_name(path), 0, *found, Wrapping.ZLIB)


def _of_zip(data: memoryview, depth: int) -> Iterator[Found]:
    for entry in zip_entries.all_entries(data):
        if not entry.size or not entry.length:
            continue
        if entry.method == zip_entries.DEFLATED:
            yield Found(entry.name, entry.offset, entry.length, entry.size, Wrapping.RAW)
        elif entry.method == zip_entries.STORED and entry.length == entry.size:
            part = data[entry.offset : entry.offset + entry.length]
            inner = list(_members(entry.name, part, depth + 1)) if depth < _MAX_DEPTH else []
            for item in inner:
                yield replace(item, name=f"{entry.name}!/{item.name}", offset=entry.offset + item.offset)
            if not inner:
                yield Found(entry.name, entry.offset, entry.length, entry.length, Wrapping.STORED)


def _of_hdf5(data: memoryview) -> Iterator[Found]:
    for dataset in hdf5.datasets(data):
        filters = [item.number for item in dataset.filters]
        checksum = _CRC_BYTES if filters[-1:] == [hdf5.CHECKSUM] else 0
        if checksum:
            filters.pop()
        if filters not in ([], [hdf5.DEFLATE], [hdf5.SHUFFLE], [hdf5.SHUFFLE, hdf5.DEFLATE]):
            continue
        shape = dataset.chunk_shape or dataset.shape
        width = dataset.width if hdf5.SHUFFLE in filters and dataset.width <= 64 else 1
        wrapping = Wrapping.ZLIB if hdf5.DEFLATE in filters else Wrapping.STORED
        plain = dataset.width
        for length in shape:
            plain *= length
        for chunk in dataset.chunks:
            size = chunk.size - checksum
            length = plain if wrapping == Wrapping.ZLIB else size
            if chunk.mask == 0 and size > 0 and 0 < length <= caps.MAX_ARTIFACT_BYTES:
                yield Found(dataset.name, chunk.offset, size, length, wrapping, width, dataset.dtype, shape)


def _of_gzip(path: str, data: memoryview) -> Iterator[Found]:
    """The members of a gzip file (RFC 1952), which are deflated bytes between headers and trailers."""
    name = _base_name(path)
    position = number = 0
    while bytes(data[position : position + 3]) == _GZIP:
        start = _behind_header(data, position)
        found = _extent(data[start:], -zlib.MAX_WBITS)
        if found is None:
            return
        yield Found(f"{number}.{name}" if number else name, start, *found, Wrapping.RAW)
        position = start + found[0] + 8
        number += 1


def _behind_header(data: memoryview, position: int) -> int:
    flags = data[position + 3] if position + 10 <= len(data) else 0
    position += 10
    if flags & _EXTRA:
        position += 2 + int.from_bytes(data[position : position + 2], "little")
    for flag in (_NAME, _COMMENT):
        if flags & flag:
            text = bytes(data[position : position + caps.MAX_PATH_BYTES + 1])
            if b"\0" not in text:
                raise FormatError("a gzip header has a name that does not end.")
            position += text.index(b"\0") + 1
    return position + (2 if flags & _HEADER_CRC else 0)


def _extent(data: memoryview, bits: int) -> tuple[int, int] | None:
    """(packed, plain) bytes of the deflated bytes that `data` begins with, or None if they don't end properly."""
    decompressor = zlib.decompressobj(bits)
    plain = 0
    try:
        for at in range(0, len(data), _READ_BYTES):
            rest: bytes | memoryview = data[at : at + _READ_BYTES]
            while True:
                piece = decompressor.decompress(rest, _READ_BYTES)
                rest = decompressor.unconsumed_tail
                plain += len(piece)
                if plain > caps.MAX_ARTIFACT_BYTES:
                    return None
                if decompressor.eof:
                    packed = min(at + _READ_BYTES, len(data)) - len(decompressor.unused_data)
                    return (packed, plain) if plain else None
                if len(piece) < _READ_BYTES:
                    break
    except zlib.error:
        return None
    return None


def _base_name(path: str) -> str:
    """The name of what a compressed file holds: `model.onnx` for `dir/model.onnx.gz`."""
    name = path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and suffix.lower() in ("gz", "z", "zz", "zlib") else name
