"""Tensors of a Core ML weight file: `weights/weight.bin` of an `.mlpackage` or an `.mlmodelc`. No I/O here.

Format: MILBlob/Blob/StorageFormat.hpp of https://github.com/apple/coremltools: a header of 64 bytes, then for each
tensor 64 bytes about it and its bytes, all at multiples of 64. Names and shapes stand in the model's protobuf.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from modelsync_protocol.containers.ranges import TensorRange
from modelsync_protocol.errors import FormatError

_ALIGNMENT = 64
_VERSIONS = (1, 2)
_SENTINEL = 0xDEADBEEF
_DTYPES = {1: "f16", 2: "f32", 3: "u8", 4: "i8", 5: "bf16", 6: "i16", 7: "i16", 14: "i32", 15: "i32"}
"""Of BlobDataType; the others are narrower than a byte, or floats of 8 bits."""


def tensors(data: memoryview) -> Iterator[TensorRange]:
    """Yield every tensor in the file's order, named by its number; raise FormatError if `data` is no such file."""
    if len(data) < 2 * _ALIGNMENT:
        raise FormatError("the file is no Core ML weight file.")
    count, version = struct.unpack_from("<II", data)
    (sentinel,) = struct.unpack_from("<I", data, _ALIGNMENT)
    if version not in _VERSIONS or sentinel != _SENTINEL:
        raise FormatError("the file is no Core ML weight file.")
    position = _ALIGNMENT
    for number in range(count):
        if position + _ALIGNMENT > len(data):
            return
        sentinel, kind, size, offset = struct.unpack_from("<IIQQ", data, position)
        if sentinel != _SENTINEL or offset < position + _ALIGNMENT or offset + size > len(data):
            return
        dtype = _DTYPES.get(kind)
        yield TensorRange(f"blob {number}", offset, size, dtype)
        position = -(-(offset + size) // _ALIGNMENT) * _ALIGNMENT
