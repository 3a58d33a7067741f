"""Reads and writes the attribute arrays of ONNX-ML's tree ensembles where they lie in a file. No I/O here.

onnx.proto: AttributeProto (name 1, floats 7, ints 8, strings 9), arrays unpacked (a tag before each element, as proto2
writes them) or packed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.containers.protobuf import varint
from modelsync_protocol.errors import FormatError

NAMES = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_values",
    "nodes_modes",
    "nodes_missing_value_tracks_true",
    "nodes_hitrates",
    "class_treeids",
    "class_nodeids",
    "class_ids",
    "class_weights",
    "target_treeids",
    "target_nodeids",
    "target_ids",
    "target_weights",
    "nodes_splits",
    "nodes_trueleafs",
    "nodes_falseleafs",
    "tree_roots",
    "leaf_weights",
)
FLOATS, INTS, STRINGS, TENSOR = 0, 1, 2, 3
_TAGS = {0x3D: (FLOATS, False), 0x40: (INTS, False), 0x4A: (STRINGS, False), 0x3A: (FLOATS, True), 0x42: (INTS, True)}
_TENSOR_TAG = 0x2A
_TYPES = {1: ("<f4", False), 11: ("<f8", True)}
"""TensorProto's float and double: as NumPy calls them, and whether `Array.packed` stands for it."""

BRANCH, LEAF = b"\x4a\x0aBRANCH_LEQ", b"\x4a\x04LEAF"
_ATTRIBUTE = re.compile(
    rb"\*([\x80-\xff]{0,4}[\x00-\x7f])\n[\x05-\x40]((?:nodes|class|target|tree|leaf)_[a-z_]{3,40})(?=[=@J:B*])"
)
_MAX_ARRAYS = 256


@dataclass(frozen=True, slots=True)
class Array:
    """Where an array's elements lie (with their tags): name's number, kind of element, packed or not.

    Of a tensor: its raw data; `packed` if they are float64, else float32.
    """

    name: int
    kind: int
    packed: bool
    begin: int
    end: int


def arrays(data: bytes) -> list[Array]:
    """The arrays of tree ensembles in `data`, which may be cut anywhere; ascending."""
    return list(_arrays(data))


def _arrays(data: bytes) -> Iterator[Array]:
    view = memoryview(data)
    found = 0
    position = 0
    while (match := _ATTRIBUTE.search(data, position)) and found < _MAX_ARRAYS:
        position = match.end()
        name = match[2].decode()
        length, _ = varint(view, match.start(1), match.end(1))
        end = match.end(1) + length
        if name not in NAMES or end > len(data) or data[match.end(1) + 1] != len(match[2]):
            continue
        if data[position] == _TENSOR_TAG:
            tensor = _raw_data(view, position, end)
            if tensor is not None:
                found += 1
                yield Array(NAMES.index(name), TENSOR, *tensor)
                position = tensor[2]
            continue
        kind, packed = _TAGS[data[position]]
        begin = position
        if packed:
            size, begin = varint(view, position + 1, len(data))
            end = min(end, begin + size)
        else:
            end = _run_end(data, begin, end, kind)
        if begin < end <= len(data):
            found += 1
            yield Array(NAMES.index(name), kind, packed, begin, end)
            position = end


def _raw_data(view: memoryview, position: int, end: int) -> tuple[bool, int, int] | None:
    """(float64, begin, end) of a TensorProto's raw data, which an attribute's field at `position` is; None if not."""
    wide: bool | None = None
    try:
        size, position = varint(view, position + 1, end)
        end = min(end, position + size)
        while position < end:
            tag, position = varint(view, position, end)
            value, position = varint(view, position, end)
            if tag == 0x10:  # data_type
                wide = _TYPES[value][1]
            elif tag == 0x4A:  # raw_data
                whole = position + value <= end and wide is not None and value % (8 if wide else 4) == 0 and value > 0
                return (bool(wide), position, position + value) if whole else None
            elif tag & 7 == 2:
                position += value
            elif tag & 7:
                return None
    except (FormatError, KeyError):
        return None
    return None


def _run_end(data: bytes, begin: int, end: int, kind: int) -> int:
    """Where the elements of an unpacked array end that begins at `begin`."""
    part = np.frombuffer(data, np.uint8, end - begin, begin)
    if kind == FLOATS:
        tags = part[: len(part) // 5 * 5 : 5]
        wrong = np.flatnonzero(tags != 0x3D)
        return begin + 5 * (int(wrong[0]) if len(wrong) else len(tags))
    if kind == INTS:
        stops = np.flatnonzero(part < 0x80)
        marks = stops[::2]
        starts = np.concatenate([[0], stops[1::2] + 1])[: len(marks)]
        wrong = np.flatnonzero((part[marks] != 0x40) | (marks != starts))
        count = int(wrong[0]) if len(wrong) else len(marks)
        ends = stops[1::2][:count]
        return begin + (int(ends[-1]) + 1 if len(ends) else 0)
    position = begin
    while position < end:
        if data.startswith(BRANCH, position):
            position += len(BRANCH)
        elif data.startswith(LEAF, position):
            position += len(LEAF)
        else:
            break
    return min(position, end)


def read(data: bytes, array: Array) -> NDArray[Any]:
    """An array's elements: integers, floats, or for strings 1 where it is LEAF and 0 where BRANCH_LEQ."""
    part = data[array.begin : array.end]
    if array.kind == TENSOR:
        return np.frombuffer(part, "<f8" if array.packed else "<f4")
    if array.kind == FLOATS:
        if len(part) % (4 if array.packed else 5):
            raise FormatError("an array of floats is cut short.")
        if array.packed:
            return np.frombuffer(part, "<f4")
        return np.ndarray((len(part) // 5,), "<f4", part, 1, (5,)).copy()
    if array.kind == INTS:
        octets = np.frombuffer(part, np.uint8)
        ends = np.flatnonzero(octets < 0x80)
        if not len(ends) or ends[-1] != len(octets) - 1:
            raise FormatError("an array of integers is cut short.")
        starts = np.concatenate([[0], ends[:-1] + 1])
        if not array.packed:
            starts, ends = starts[1::2], ends[1::2]
        if int((ends - starts).max(initial=0)) > 8:
            raise FormatError("an array of integers holds one that is too long.")
        values = np.zeros(len(starts), np.int64)
        for shift in range(int((ends - starts).max(initial=0)) + 1):
            some = starts + shift <= ends
            values[some] |= (octets[starts[some] + shift].astype(np.int64) & 0x7F) << np.int64(7 * shift)
        return values
    marks = np.frombuffer(part.replace(BRANCH, b"\x00").replace(LEAF, b"\x01"), np.uint8)
    if bool((marks > 1).any()):
        raise FormatError("an array of modes holds an unknown one.")
    return marks.astype(np.int64)


def write(values: NDArray[Any], kind: int, packed: bool) -> bytes:
    """Undo `read`; integers are from 0 to below 2^28."""
    if kind == TENSOR:
        return values.astype("<f8" if packed else "<f4").tobytes()
    if kind == FLOATS:
        if packed:
            return values.astype("<f4").tobytes()
        out = np.empty((len(values), 5), np.uint8)
        out[:, 0] = 0x3D
        out[:, 1:] = np.ascontiguousarray(values.astype("<f4")).view(np.uint8).reshape(-1, 4)
        return out.tobytes()
    if kind == INTS:
        numbers = values.astype(np.int64)
        if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= 1 << 28):
            raise FormatError("a frame of trees holds a number out of bounds.")
        table = np.zeros((len(numbers), 5), np.uint8)
        table[:, 0] = 0x40
        keep = np.zeros((len(numbers), 5), bool)
        keep[:, 0] = not packed
        for place in range(4):
            more = numbers >> np.int64(7 * (place + 1)) > 0
            table[:, place + 1] = (numbers >> np.int64(7 * place) & 0x7F) | np.where(more, 0x80, 0)
            keep[:, place + 1] = (numbers >> np.int64(7 * place) > 0) | (place == 0)
        return bytes(table[keep].tobytes())
    size = len(values) * len(BRANCH)
    if size > caps.MAX_FRAME_BYTES:
        raise FormatError("a frame of trees is longer than declared.")
    return b"".join(LEAF if value else BRANCH for value in values.tolist())


def kind_of(values: NDArray[Any]) -> int:
    """Kind of element that an array of these is."""
    return FLOATS if values.dtype.kind == "f" else INTS
