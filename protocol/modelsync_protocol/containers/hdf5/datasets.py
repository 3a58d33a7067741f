"""Walks an HDF5 file's groups and reads where its datasets' bytes lie. No I/O here."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from modelsync_protocol import caps
from modelsync_protocol.containers.hdf5 import groups
from modelsync_protocol.containers.hdf5.blocks import UNDEFINED, File, Message
from modelsync_protocol.errors import FormatError

_SPACE, _TYPE, _LAYOUT, _FILTERS = 0x01, 0x03, 0x08, 0x0B
_CONTIGUOUS, _CHUNKED = 1, 2
_SINGLE, _IMPLICIT, _FIXED_ARRAY = 1, 2, 3
_MAX_RANK = 32
_MAX_FILTERS = 32
_MAX_DEPTH = 32

DEFLATE, SHUFFLE, CHECKSUM = 1, 2, 3
"""Filters whose effect is known here."""

_TYPES = {(0, 1): "i8", (0, 2): "i16", (0, 4): "i32", (0, 8): "i64", (1, 2): "f16", (1, 4): "f32", (1, 8): "f64"}
_HALF_EXPONENT_BITS = 5


@dataclass(frozen=True, slots=True)
class Chunk:
    """`size` bytes from `offset` of the file on; bit i of `mask` says that filter i was left out."""

    offset: int
    size: int
    mask: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of the pipeline, in the order in which the writer applied them."""

    number: int
    parameters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where a dataset lies. `chunk_shape` None: one contiguous stretch; `width` is an element's size in bytes."""

    name: str
    dtype: str | None
    width: int
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...] | None
    filters: tuple[Filter, ...]
    chunks: tuple[Chunk, ...]


def datasets(data: memoryview) -> Iterator[Dataset]:
    """Yield the datasets that groups lead to, in their order; raise FormatError if `data` is no HDF5 file.

    A part that is damaged or of a kind that is not known here is passed over.
    """
    file = File(data)
    stack = [("", file.root(), 0)]
    seen: set[int] = set()
    while stack:
        name, address, depth = stack.pop()
        if address in seen or depth > _MAX_DEPTH:
            continue
        seen.add(address)
        found: list[groups.Link] = []
        try:
            messages = list(file.messages(address))
            dataset = _dataset(file, name, messages)
            if dataset is not None:
                yield dataset
                continue
            found += groups.links(file, messages)
        except FormatError:
            if not name:
                raise
        stack += [(f"{name}/{inner}" if name else inner, place, depth + 1) for inner, place in reversed(found)]


def _dataset(file: File, name: str, messages: Sequence[Message]) -> Dataset | None:
    parts = {message.kind: message.data for message in messages}
    if not {_SPACE, _TYPE, _LAYOUT} <= parts.keys():
        return None
    dtype, width = _type(parts[_TYPE])
    shape = _shape(parts[_SPACE])
    filters = _filters(parts[_FILTERS]) if _FILTERS in parts else ()
    layout = parts[_LAYOUT]
    if len(layout) < 2 or layout[0] not in (3, 4):
        raise FormatError("the HDF5 file has a layout of an unknown version.")
    if layout[1] == _CONTIGUOUS:
        address, size = _unpack("<QQ", layout[2:])
        chunks = () if address == UNDEFINED or not size else (_chunk(file, address, size, 0),)
        return Dataset(name, dtype, width, shape, None, (), chunks)
    if layout[1] != _CHUNKED:
        return Dataset(name, dtype, width, shape, None, (), ())
    if layout[0] == 3:
        chunk_shape, found = _chunks_v3(file, layout)
    else:
        chunk_shape, found = _chunks_v4(file, layout, shape, width, bool(filters))
    return Dataset(name, dtype, width, shape, chunk_shape, filters, tuple(found))


def _type(data: memoryview) -> tuple[str | None, int]:
    """Our name of the element type (None: something else), and its width in bytes."""
    head, bits, _, _, width = _unpack("<BBBBI", data)
    kind = head & 15
    if kind == 1 and width == 2:
        exponent = data[13] if len(data) > 13 else _HALF_EXPONENT_BITS
        return (("f16" if exponent == _HALF_EXPONENT_BITS else "bf16") if not bits & 1 else None), width
    if kind not in (0, 1) or (bits & 1 and width > 1):  # bit 0: big-endian
        return ("i8" if width == 1 else None), width
    return _TYPES.get((kind, width)), width


def _shape(data: memoryview) -> tuple[int, ...]:
    version, rank = _unpack("<BB", data)
    if version not in (1, 2) or rank > _MAX_RANK:
        raise FormatError("the HDF5 file has a shape of an unknown version.")
    return _unpack(f"<{rank}Q", data[8 if version == 1 else 4 :])


def _filters(data: memoryview) -> tuple[Filter, ...]:
    version, count = _unpack("<BB", data)
    if version not in (1, 2) or count > _MAX_FILTERS:
        raise FormatError("the HDF5 file has filters of an unknown version.")
    position = 8 if version == 1 else 2
    found = []
    for _ in range(count):
        (number,) = _unpack("<H", data[position:])
        named = version == 1 or number >= 256
        size = _unpack("<H", data[position + 2 :])[0] if named else 0
        position += 4 if named else 2
        _, values = _unpack("<HH", data[position:])
        position += 4 + (-(-size // 8) * 8 if version == 1 else size)
        found.append(Filter(number, _unpack(f"<{values}I", data[position:])))
        position += 4 * values + (4 if version == 1 and values % 2 else 0)
    return tuple(found)


def _chunks_v3(file: File, layout: memoryview) -> tuple[tuple[int, ...], list[Chunk]]:
    rank, address = _unpack("<BQ", layout[2:])
    if not 1 < rank <= _MAX_RANK + 1:
        raise FormatError("the HDF5 file has chunks of an odd rank.")
    shape = _unpack(f"<{rank}I", layout[11:])[:-1]
    found: list[Chunk] = []
    stack = [] if address == UNDEFINED else [(address, 0)]
    entry = 16 + 8 * rank
    while stack:
        node, depth = stack.pop()
        kind, level, count = struct.unpack_from("<BBH", file.signed_block(node, b"TREE", 24), 4)
        if kind != 1 or depth > _MAX_DEPTH:
            raise FormatError("the HDF5 file has a tree that is no tree of chunks.")
        children = []
        for number in range(count):
            key = file.at(node + 24 + entry * number, entry)
            size, mask = struct.unpack_from("<II", key)
            (child,) = struct.unpack_from("<Q", key, entry - 8)
            children.append((child, size, mask))
        if level == 0:
            found += [_chunk(file, child, size, mask) for child, size, mask in children]
            if len(found) > caps.MAX_TENSORS:
                raise FormatError("the HDF5 file has more chunks than are read.")
        else:
            stack += [(child, depth + 1) for child, _, _ in reversed(children)]
    return shape, found


def _chunks_v4(
    file: File, layout: memoryview, shape: tuple[int, ...], width: int, filtered: bool
) -> tuple[tuple[int, ...], list[Chunk]]:
    flags, rank, field = _unpack("<BBB", layout[2:])
    if not 1 < rank <= _MAX_RANK + 1 or not 1 <= field <= 8:
        raise FormatError("the HDF5 file has chunks of an odd rank.")
    position = 5 + rank * field
    sizes = [int.from_bytes(layout[5 + field * n : 5 + field * (n + 1)], "little") for n in range(rank - 1)]
    plain = prod(sizes) * width
    if not 0 < plain < 1 << 32:
        raise FormatError("the HDF5 file has chunks of an odd size.")
    count = prod(-(-length // size) for length, size in zip(shape, sizes, strict=False))
    (index,) = _unpack("<B", layout[position:])
    rest = layout[position + 1 :]
    found: list[Chunk] = []
    if index == _SINGLE:
        size, mask = (plain, 0)
        if flags & 2:
            size, mask = _unpack("<QI", rest)
            rest = rest[12:]
        (address,) = _unpack("<Q", rest)
        found = [_chunk(file, address, size, mask)] if address != UNDEFINED else []
    elif index == _IMPLICIT and count <= caps.MAX_TENSORS:
        (address,) = _unpack("<Q", rest)
        found = [_chunk(file, address + plain * n, plain, 0) for n in range(count)] if address != UNDEFINED else []
    elif index == _FIXED_ARRAY:
        (address,) = _unpack("<Q", rest[1:])
        found = list(_fixed_array(file, address, plain, filtered)) if address != UNDEFINED else []
    return tuple(sizes), found


def _fixed_array(file: File, address: int, plain: int, filtered: bool) -> Iterator[Chunk]:
    """Chunks of an array without pages (at most 2^page bits of them)."""
    head = file.signed_block(address, b"FAHD", 24)
    _, entry, page_bits, count = struct.unpack_from("<BBBQ", head, 5)
    (block,) = struct.unpack_from("<Q", head, 16)
    if not (8 < entry <= 32 if filtered else entry == 8) or count > 1 << min(page_bits, 20):
        return
    if block == UNDEFINED:
        return
    file.signed_block(block, b"FADB", 14)
    for number in range(count):
        element = file.at(block + 14 + entry * number, entry)
        (place,) = struct.unpack_from("<Q", element)
        if place != UNDEFINED:
            size = int.from_bytes(element[8 : entry - 4], "little") if filtered else plain
            mask = int.from_bytes(element[entry - 4 :], "little") if filtered else 0
            yield _chunk(file, place, size, mask)


def _chunk(file: File, address: int, size: int, mask: int) -> Chunk:
    file.at(address, size)
    return Chunk(address, size, mask)


def _unpack(form: str, data: memoryview) -> tuple[int, ...]:
    if len(data) < struct.calcsize(form):
        raise FormatError("the HDF5 file has a message that is cut short.")
    return struct.unpack_from(form, data)
