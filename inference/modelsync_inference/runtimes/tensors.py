"""Tensors to and from the Open Inference Protocol's JSON and binary forms. No model and no network here."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from modelsync_inference.errors import InputError
from modelsync_inference.runtimes.datatypes import BYTES, Array, datatype_of, numpy_dtype

_LENGTH = struct.Struct("<I")
_MAX_DIMENSIONS = 32


def check_shape(name: str, shape: object) -> tuple[int, ...]:
    """Return `shape` as a tuple if it is a list of integers >= 0, else raise InputError."""
    if not isinstance(shape, list | tuple) or len(shape) > _MAX_DIMENSIONS:
        raise InputError(f"the shape of tensor {name!r} must be a list of at most {_MAX_DIMENSIONS} integers.")
    if any(type(size) is not int or size < 0 for size in shape):
        raise InputError(f"the shape of tensor {name!r} is {shape!r:.80}; use integers that are not negative.")
    return tuple(shape)


def from_json(name: str, shape: object, datatype: object, data: object) -> Array:
    """Build the tensor from flat or nested JSON lists in row-major order; InputError if they don't fit.

    Values are never rounded or wrapped to fit an integer type.
    """
    dimensions, dtype = check_shape(name, shape), numpy_dtype(datatype)
    if not isinstance(data, list):
        raise InputError(f"tensor {name!r} needs its values as a list in 'data'.")
    try:
        # Left to itself numpy turns large integers beside small ones into rounded floats.
        raw = np.array(data, dtype=np.object_ if datatype in (BYTES, "UINT64") else None)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"'data' of tensor {name!r} is not a regular list of values ({error}).") from error
    if raw.size != math.prod(dimensions):
        raise InputError(
            f"tensor {name!r} has shape {list(dimensions)}, that is {math.prod(dimensions)} values, "
            f"but 'data' holds {raw.size}."
        )
    if raw.size:
        _check_values(name, str(datatype), dtype, raw)
    try:
        with np.errstate(over="ignore"):  # 1e300 is infinite as FP32, as everywhere
            tensor: Array = raw.astype(dtype).reshape(dimensions)
    except OverflowError as error:
        raise InputError(f"tensor {name!r} has datatype {datatype}: a number is too large for it.") from error
    return tensor


def from_binary(name: str, shape: object, datatype: object, raw: bytes | memoryview) -> Array:
    """Build the tensor from little-endian bytes (BYTES: 4-byte lengths before each item); InputError if misfit."""
    dimensions, dtype = check_shape(name, shape), numpy_dtype(datatype)
    count = math.prod(dimensions)
    if datatype == BYTES:
        return _items(name, count, bytes(raw)).reshape(dimensions)
    if len(raw) != count * dtype.itemsize:
        raise InputError(
            f"tensor {name!r} of shape {list(dimensions)} and datatype {datatype} needs "
            f"{count * dtype.itemsize} bytes; the request gives it {len(raw)}."
        )
    if datatype == "BOOL":
        flags: Array = (np.frombuffer(raw, dtype=np.uint8) != 0).reshape(dimensions)
        return flags
    return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(dimensions)


def to_json(name: str, array: Array) -> list[Any]:
    """The values in row-major order; strings must be UTF-8, else InputError asks for binary data."""
    if datatype_of(array) != BYTES:
        values: list[Any] = array.ravel().tolist()
        return values
    try:
        return [item if isinstance(item, str) else bytes(item).decode() for item in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"output {name!r} holds bytes that are not UTF-8; ask for binary_data.") from error


def to_binary(array: Array) -> bytes:
    """The little-endian bytes of `array`, C order (BYTES: 4-byte lengths before each item)."""
    if datatype_of(array) != BYTES:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts = []
    for item in array.ravel().tolist():
        encoded = item.encode() if isinstance(item, str) else bytes(item)
        parts += [_LENGTH.pack(len(encoded)), encoded]
    return b"".join(parts)


def _check_values(name: str, datatype: str, dtype: np.dtype[Any], raw: Array) -> None:
    if datatype == BYTES:
        if not all(isinstance(item, str) for item in raw.ravel().tolist()):
            raise InputError(f"tensor {name!r} has datatype BYTES: 'data' may hold strings only.")
    elif datatype == "BOOL":
        if raw.dtype.kind != "b" and not (raw.dtype.kind in "iu" and np.isin(raw, (0, 1)).all()):
            raise InputError(f"tensor {name!r} has datatype BOOL: 'data' may hold true and false only.")
    elif dtype.kind == "f":
        # Integers beyond 64 bits come as objects: JavaScript writes 1e20 with all its digits.
        if raw.dtype.kind not in "iuf" and not all(type(item) in (int, float) for item in raw.flat):
            raise InputError(f"tensor {name!r} has datatype {datatype}: 'data' may hold numbers only.")
    else:
        limits = np.iinfo(dtype)
        integers = raw.dtype.kind in "iu" or all(type(item) is int for item in raw.flat)
        if not integers or int(raw.min()) < limits.min or int(raw.max()) > limits.max:
            raise InputError(
                f"tensor {name!r} has datatype {datatype}: 'data' may hold integers "
                f"from {limits.min} to {limits.max} only."
            )


def _items(name: str, count: int, raw: bytes) -> Array:
    items: list[bytes] = []
    offset = 0
    while offset < len(raw) and len(items) < count:
        if offset + _LENGTH.size > len(raw):
            break
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        if length > len(raw) - offset:
            break
        items.append(raw[offset : offset + length])
        offset += length
    if len(items) != count or offset != len(raw):
        raise InputError(f"the bytes of BYTES tensor {name!r} are not {count} items, each after its 4-byte length.")
    array = np.empty(count, dtype=np.object_)
    array[:] = items
    return array
