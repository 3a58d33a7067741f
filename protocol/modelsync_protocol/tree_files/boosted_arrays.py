"""Reads and writes the arrays of XGBoost's trees in JSON and UBJSON, where they lie in a file. No I/O here.

One tree is an object with an array per field (xgboost's src/tree/tree_model.cc). Numbers in JSON are the shortest that
give the float32 back, in scientific notation; in UBJSON they are big-endian behind a count of eight bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError

NAMES = (
    "base_weights",
    "default_left",
    "left_children",
    "loss_changes",
    "parents",
    "right_children",
    "split_conditions",
    "split_indices",
    "split_type",
    "sum_hessian",
    "id",
    "num_nodes",
)
FLOATS = frozenset({"base_weights", "loss_changes", "split_conditions", "sum_hessian"})
MAX_TREES = 1 << 14
_FIELDS = b"|".join(name.encode() for name in NAMES[:10])
_TEXT = re.compile(rb'"(' + _FIELDS + rb')":\[([^\]"]*)\]|"(id)":(\d{1,9})(?=[,}])|"(num_nodes)":"(\d{1,9})"')
_BINARY = re.compile(
    rb"L\x00{7}[\x05-\x12](" + _FIELDS + rb")\[\$([dlU])#L(\x00{4}[\s\S]{4})"
    rb"|L\x00{7}\x02(id)(i[\s\S]|U[\s\S]|I[\s\S]{2}|l[\s\S]{4})"
    rb"|L\x00{7}\x09(num_nodes)SL(\x00{7}[\x01-\x09]\d{1,9})"
)
_TYPES: dict[bytes, np.dtype[Any]] = {b"d": np.dtype(">f4"), b"l": np.dtype(">i4"), b"U": np.dtype("u1")}


@dataclass(frozen=True, slots=True)
class Array:
    """Where an array's text or bytes lie: number of its name, and its type in UBJSON (empty in JSON)."""

    name: int
    form: bytes
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Trees:
    """Arrays of all whole trees, tree by tree in one order."""

    binary: bool
    forms: tuple[tuple[int, bytes], ...]
    arrays: list[list[Array]]


def trees(data: bytes) -> Trees | None:
    """The trees in `data` that have the same arrays in the same order as the first whole one."""
    binary = data.find(b"base_weights[$d#L") >= 0
    found = _binary(data) if binary else _text(data)
    starts = [place for place, array in enumerate(found) if array.name == 0]
    if not starts:
        return None
    groups = [found[a:b] for a, b in zip(starts, [*starts[1:], len(found)], strict=True)]
    best = max(groups[:3], key=len)
    names = {NAMES[array.name] for array in best}
    if len(names) != len(best) or not names >= {"left_children", "split_conditions", "split_indices", "sum_hessian"}:
        return None
    forms = tuple((array.name, array.form) for array in best)
    kept = []
    for group in groups[:MAX_TREES]:
        part = group[: len(best)]
        same = [array.name for array in part] == [name for name, _ in forms]
        if same and all(a.form == f or NAMES[a.name] == "id" for a, (_, f) in zip(part, forms, strict=True)):
            kept.append(part)
    return Trees(binary, forms, kept) if kept else None


def _text(data: bytes) -> list[Array]:
    result = []
    for match in _TEXT.finditer(data):
        kind = match.lastindex or 0
        result.append(Array(NAMES.index(match[kind - 1].decode()), b"", match.start(kind), match.end(kind)))
    return result


def _binary(data: bytes) -> list[Array]:
    result = []
    position = 0
    while match := _BINARY.search(data, position):
        position = match.end()
        kind = match.lastindex or 0
        if kind == 3:
            end = match.end() + int.from_bytes(match[3], "big") * _TYPES[match[2]].itemsize
            if end > len(data):
                position = match.start() + 1
                continue
            result.append(Array(NAMES.index(match[1].decode()), match[2], match.start(3), end))
            position = end
        else:
            result.append(Array(NAMES.index(match[kind - 1].decode()), b"", match.start(kind), match.end(kind)))
    return result


def read(data: bytes, array: Array, binary: bool) -> NDArray[Any]:
    """An array's elements as int64 or float32."""
    part = data[array.begin : array.end]
    name = NAMES[array.name]
    try:
        if binary and array.form:
            values = np.frombuffer(part, _TYPES[array.form], -1, 8)
            return values.astype(np.float32) if array.form == b"d" else values.astype(np.int64)
        if name == "num_nodes":
            return np.array([int(part[8:] if binary else part)])
        if name == "id":
            return np.array([int.from_bytes(part[1:], "big") if binary else int(part)])
        numbers = part.split(b",") if part else []
        if name in FLOATS:
            with np.errstate(over="ignore"):
                return np.array([float(number) for number in numbers]).astype(np.float32)
        return np.array([int(number) for number in numbers], np.int64)
    except (ValueError, OverflowError) as error:
        raise FormatError("an array of a booster is malformed.") from error


def write(values: NDArray[Any], name: int, form: bytes, binary: bool) -> bytes:
    """Undo `read`."""
    if binary and form:
        return len(values).to_bytes(8, "big") + values.astype(_TYPES[form]).tobytes()
    if NAMES[name] == "num_nodes":
        text = str(int(values[0])).encode()
        return bytes(7) + len(text).to_bytes(1, "big") + text if binary else text
    if NAMES[name] == "id":
        return _identifier(int(values[0])) if binary else str(int(values[0])).encode()
    if NAMES[name] in FLOATS:
        return ",".join(map(shortest, values)).encode()
    return ",".join(map(str, values.tolist())).encode()


def _identifier(value: int) -> bytes:
    for code, width in ((b"i", 1), (b"I", 2), (b"l", 4)):
        if value < 1 << (8 * width - 1):
            return code + value.to_bytes(width, "big")
    raise FormatError("a frame of trees holds a number out of bounds.")


def shortest(value: np.float32) -> str:
    """The shortest digits that give a float32 back, in scientific notation."""
    text = np.format_float_scientific(value, unique=True, trim="-", exp_digits=1)
    return text.replace("e+", "E").replace("e", "E")
