"""Tensors of a GGUF file, versions 2 and 3: a bounded walk over its header, without its library. No I/O here.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensors' bytes are never looked at, so a
mapped file of many GB costs no more than its header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from modelsync_protocol import caps
from modelsync_protocol.containers.ranges import TensorRange
from modelsync_protocol.errors import FormatError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_PAIRS = 1 << 16
_MAX_STRINGS = 1 << 22
"""Strings of all arrays (a vocabulary has 150,000, its merges twice as many): bounds the walk's time."""

_MAX_KEY_BYTES = 1 << 16
_MAX_NAME_BYTES = 1024
_MAX_RANK = 4
_MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32
_ALIGNMENT_KEY = b"general.alignment"
_ARCHITECTURE_KEY = b"general.architecture"

_STRING, _ARRAY, _UINT32 = 8, 9, 4
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by its type; strings and arrays say their own."""


@dataclass(frozen=True, slots=True)
class BlockType:
    """An element type of ggml: so many elements stand in one block of so many bytes."""

    name: str
    elements: int
    bytes: int


TYPES = {
    0: BlockType("f32", 1, 4),
    1: BlockType("f16", 1, 2),
    2: BlockType("q4_0", 32, 18),
    3: BlockType("q4_1", 32, 20),
    6: BlockType("q5_0", 32, 22),
    7: BlockType("q5_1", 32, 24),
    8: BlockType("q8_0", 32, 34),
    9: BlockType("q8_1", 32, 36),
    10: BlockType("q2_K", 256, 84),
    11: BlockType("q3_K", 256, 110),
    12: BlockType("q4_K", 256, 144),
    13: BlockType("q5_K", 256, 176),
    14: BlockType("q6_K", 256, 210),
    15: BlockType("q8_K", 256, 292),
    16: BlockType("iq2_xxs", 256, 66),
    17: BlockType("iq2_xs", 256, 74),
    18: BlockType("iq3_xxs", 256, 98),
    19: BlockType("iq1_s", 256, 50),
    20: BlockType("iq4_nl", 32, 18),
    21: BlockType("iq3_s", 256, 110),
    22: BlockType("iq2_s", 256, 82),
    23: BlockType("iq4_xs", 256, 136),
    24: BlockType("i8", 1, 1),
    25: BlockType("i16", 1, 2),
    26: BlockType("i32", 1, 4),
    27: BlockType("i64", 1, 8),
    28: BlockType("f64", 1, 8),
    29: BlockType("iq1_m", 256, 56),
    30: BlockType("bf16", 1, 2),
    31: BlockType("q4_0_4_4", 32, 18),
    32: BlockType("q4_0_4_8", 32, 18),
    33: BlockType("q4_0_8_8", 32, 18),
    34: BlockType("tq1_0", 256, 54),
    35: BlockType("tq2_0", 256, 66),
    36: BlockType("iq4_nl_4_4", 32, 18),
    37: BlockType("iq4_nl_4_8", 32, 18),
    38: BlockType("iq4_nl_8_8", 32, 18),
    39: BlockType("mxfp4", 32, 17),
    40: BlockType("nvfp4", 64, 36),
    41: BlockType("q1_0", 128, 18),
}
"""By the number that files hold (`enum ggml_type`); numbers that are missing were given up before GGUF."""


def tensors(data: memoryview) -> Iterator[TensorRange]:
    """Yield every tensor; raise FormatError if `data` is no GGUF file of a version known here, or reversed bytes.

    `dtype` is a type's name in TYPES. A tensor of a type that is not there reaches to the next one and has None.
    `shape` is in C order: the last axis is the one whose elements stand side by side.
    """
    walk = _Walk(data)
    if walk.take(4) != _MAGIC or walk.number(4) not in _VERSIONS:
        raise FormatError("the file is no GGUF file of version 2 or 3.")
    count, pairs = walk.number(8), walk.number(8)
    if count > caps.MAX_TENSORS or pairs > _MAX_PAIRS:
        raise FormatError("the GGUF file has more tensors or keys than any allowed.")
    alignment = _DEFAULT_ALIGNMENT
    for _ in range(pairs):
        if walk.string(_MAX_KEY_BYTES) == _ALIGNMENT_KEY:
            alignment = walk.alignment()
        else:
            walk.skip_value(walk.number(4))
    found = [_described(walk) for _ in range(count)]
    begin = -(-walk.position // alignment) * alignment
    edges = sorted({offset for _, _, _, offset in found} | {max(0, len(data) - begin)})
    nexts = dict(pairwise(edges))
    for name, shape, number, offset in found:
        kind = TYPES.get(number)
        if kind is None:
            yield TensorRange(name, begin + offset, nexts.get(offset, 0), None, shape)
            continue
        row = shape[-1] if shape else 1
        if row % kind.elements:
            raise FormatError(f"the GGUF tensor {name!r:.80} has rows that are no whole number of blocks.")
        yield TensorRange(name, begin + offset, prod(shape) // kind.elements * kind.bytes, kind.name, shape)


def head(data: memoryview) -> tuple[int, str]:
    """(the file's version, `general.architecture` or nothing); FormatError for what is no GGUF file."""
    walk = _Walk(data)
    if walk.take(4) != _MAGIC:
        raise FormatError("the file is no GGUF file.")
    version = walk.number(4)
    if version not in _VERSIONS:
        return version, ""
    walk.number(8)
    for _ in range(min(walk.number(8), _MAX_PAIRS)):
        key, kind = walk.string(_MAX_KEY_BYTES), walk.number(4)
        if key == _ARCHITECTURE_KEY and kind == _STRING:
            return version, walk.string(_MAX_NAME_BYTES).decode(errors="replace")
        walk.skip_value(kind)
    return version, ""


def _described(walk: _Walk) -> tuple[str, tuple[int, ...], int, int]:
    """(name, shape in C order, number of its type, offset from where tensors begin)."""
    name = walk.string(_MAX_NAME_BYTES).decode(errors="replace")
    rank = walk.number(4)
    if rank > _MAX_RANK:
        raise FormatError("a GGUF tensor has more axes than any allowed.")
    sizes = [walk.number(8) for _ in range(rank)]
    number, offset = walk.number(4), walk.number(8)
    if any(size >= 1 << 48 for size in sizes) or offset >= 1 << 56:
        raise FormatError("a GGUF tensor is larger than any allowed.")
    return name, tuple(reversed(sizes)), number, offset


class _Walk:
    """A cursor over the header; whatever reaches beyond the file raises FormatError."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.position = 0
        self._strings = 0

    def take(self, size: int) -> bytes:
        begin = self._skip(size)
        return bytes(self._data[begin : begin + size])

    def _skip(self, size: int) -> int:
        begin = self.position
        if size > len(self._data) - begin:
            raise FormatError("the GGUF header reaches beyond the file.")
        self.position = begin + size
        return begin

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def string(self, limit: int) -> bytes:
        size = self.number(8)
        if size > limit:
            raise FormatError("the GGUF header holds a longer name than any allowed.")
        return self.take(size)

    def alignment(self) -> int:
        """The value of `general.alignment`."""
        if self.number(4) != _UINT32:
            raise FormatError("the GGUF file's alignment is not an unsigned integer.")
        value = self.number(4)
        if not 0 < value <= _MAX_ALIGNMENT:
            raise FormatError("the GGUF file's alignment is out of bounds.")
        return value

    def skip_value(self, kind: int) -> None:
        """Pass over a value of that type."""
        if kind in _WIDTHS:
            self._skip(_WIDTHS[kind])
        elif kind == _STRING:
            self._skip(self.number(8))
        elif kind == _ARRAY:
            inner, count = self.number(4), self.number(8)
            if inner in _WIDTHS:
                self._skip(_WIDTHS[inner] * count)
            elif inner == _STRING:
                self._skip_strings(count)
            else:
                raise FormatError("a GGUF array holds what arrays can't hold.")
        else:
            raise FormatError(f"a GGUF value of type {kind} is not known here.")

    def _skip_strings(self, count: int) -> None:
        self._strings += count
        if self._strings > _MAX_STRINGS:
            raise FormatError("the GGUF header holds more strings than any allowed.")
        data, position, last = self._data, self.position, len(self._data) - 8
        length = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if position > last:
                raise FormatError("the GGUF header reaches beyond the file.")
            position += 8 + int(length(data, position)[0])
        self.position = position
        self._skip(0)
