"""What an HDF5 group links to: symbol tables (before 1.8), link messages, and fractal heaps of them. No I/O here."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from modelsync_protocol.containers.hdf5.blocks import UNDEFINED, File, Message
from modelsync_protocol.errors import FormatError

_LINK_INFO, _LINK, _SYMBOL_TABLE = 0x02, 0x06, 0x11
_MAX_NAME_BYTES = 1024
_MAX_DEPTH = 32
_MAX_ROWS = 64

Link = tuple[str, int]
"""Name, and address of the object header."""


def links(file: File, messages: Sequence[Message]) -> Iterator[Link]:
    """Yield the hard links of the group whose header has these messages; none if it is no group."""
    for message in messages:
        if message.kind == _SYMBOL_TABLE:
            tree, heap = _unpack("<QQ", message.data)
            yield from _symbol_table(file, tree, heap)
        elif message.kind == _LINK:
            found, _ = _link(message.data)
            if found is not None:
                yield found
        elif message.kind == _LINK_INFO:
            _, flags = _unpack("<BB", message.data)
            (heap,) = _unpack("<Q", message.data[10 if flags & 1 else 2 :])
            if heap != UNDEFINED:
                yield from _heap(file, heap)


def _symbol_table(file: File, tree: int, heap: int) -> Iterator[Link]:
    size, _, place = struct.unpack_from("<QQQ", file.signed_block(heap, b"HEAP", 32), 8)
    names = file.at(place, size)
    stack = [(tree, 0)]
    while stack:
        address, depth = stack.pop()
        if bytes(file.at(address, 4)) == b"SNOD":
            (count,) = struct.unpack_from("<H", file.at(address, 8), 6)
            for number in range(count):
                name, header = struct.unpack_from("<QQ", file.at(address + 8 + 40 * number, 40))
                text = bytes(names[name : name + _MAX_NAME_BYTES]).partition(b"\0")[0]
                yield text.decode(errors="replace"), header
            continue
        (count,) = struct.unpack_from("<H", file.signed_block(address, b"TREE", 24), 6)
        if depth > _MAX_DEPTH:
            raise FormatError("the HDF5 file has a tree that is too deep.")
        for number in reversed(range(count)):
            (child,) = struct.unpack_from("<Q", file.at(address + 24 + 8 + 16 * number, 8))
            stack.append((child, depth + 1))


def _link(data: memoryview) -> tuple[Link | None, int]:
    """Read a link message; return the link (None if it is a soft one) and the message's length."""
    version, flags = _unpack("<BB", data)
    if version != 1:
        raise FormatError("the HDF5 file has a link of an unknown version.")
    position = 2
    hard = True
    if flags & 8:
        hard = _unpack("<B", data[position:])[0] == 0
        position += 1
    position += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(data[position : position + width], "little")
    position += width
    if not 0 < size <= min(_MAX_NAME_BYTES, len(data) - position):
        raise FormatError("the HDF5 file has a link without a usable name.")
    name = bytes(data[position : position + size]).decode(errors="replace")
    position += size
    if not hard:
        (length,) = _unpack("<H", data[position:])
        return None, position + 2 + length
    (address,) = _unpack("<Q", data[position:])
    return (name, address), position + 8


def _heap(file: File, address: int) -> Iterator[Link]:
    """Yield the links in a fractal heap: they lie one after the other in its direct blocks."""
    head = file.signed_block(address, b"FRHP", 142)
    (filters,), flags = struct.unpack_from("<H", head, 7), head[9]
    width, start, largest, bits = struct.unpack_from("<HQQH", head, 110)
    root, rows = struct.unpack_from("<QH", head, 132)
    if filters or root == UNDEFINED or not 0 < width <= 1024 or not 0 < start <= largest <= 1 << 32 or bits > 64:
        return
    lead = 13 + -(-bits // 8)
    stack = [(root, start, rows)]
    while stack:
        block, size, below = stack.pop()
        if below == 0:
            body = file.signed_block(block, b"FHDB", size)
            yield from _packed_links(body[lead + (4 if flags & 2 else 0) :])
            continue
        file.signed_block(block, b"FHIB", lead)
        children = []
        for number in range(min(below, _MAX_ROWS) * width):
            (child,) = struct.unpack_from("<Q", file.at(block + lead + 8 * number, 8))
            row = number // width
            inner = start << max(0, row - 1)
            if child != UNDEFINED:
                deep = 0 if inner <= largest else (inner // (start * width)).bit_length()
                children.append((child, inner, deep))
        stack += reversed(children)


def _packed_links(body: memoryview) -> Iterator[Link]:
    position = 0
    while position < len(body):
        try:
            found, size = _link(body[position:])
        except FormatError:
            return  # free space
        if found is not None:
            yield found
        position += size


def _unpack(form: str, data: memoryview) -> tuple[int, ...]:
    if len(data) < struct.calcsize(form):
        raise FormatError("the HDF5 file has a message that is cut short.")
    return struct.unpack_from(form, data)
