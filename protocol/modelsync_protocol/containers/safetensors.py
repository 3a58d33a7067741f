"""Tensors of a safetensors file (https://github.com/huggingface/safetensors#format). No I/O here."""

from __future__ import annotations

import json
from collections.abc import Iterator

from modelsync_protocol import canonical, caps
from modelsync_protocol.containers.ranges import TensorRange
from modelsync_protocol.errors import FormatError

_MAX_HEADER_BYTES = 16 * caps.MIB
_MAX_LISTS, _MAX_ITEMS = 3 * caps.MAX_TENSORS, 10 * caps.MAX_TENSORS
_DTYPES = {
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "F64": "f64",
    "I8": "i8",
    "U8": "u8",
    "BOOL": "u8",
    "F8_E4M3": "u8",
    "F8_E5M2": "u8",
    "I16": "i16",
    "U16": "i16",
    "I32": "i32",
    "U32": "i32",
    "I64": "i64",
    "U64": "i64",
}


def tensors(data: memoryview) -> Iterator[TensorRange]:
    """Yield every tensor; raise FormatError if `data` is no safetensors file."""
    if len(data) < 8:
        raise FormatError("the file is too short for safetensors.")
    size = int.from_bytes(data[:8], "little")
    if size > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise FormatError("the safetensors header reaches beyond the file.")
    try:
        text = bytes(data[8 : 8 + size])
        canonical.check_structure(text, what="the safetensors header", lists=_MAX_LISTS, items=_MAX_ITEMS)
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError("the safetensors header is not JSON.") from error
    if not isinstance(header, dict):
        raise FormatError("the safetensors header is not an object.")
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        match tensor:
            case {"data_offsets": [int(begin), int(end)]} if 0 <= begin <= end <= len(data) - 8 - size:
                yield TensorRange(name, 8 + size + begin, end - begin, _dtype(tensor), _shape(tensor))
            case _:
                raise FormatError(f"the safetensors entry {name!r:.80} has no usable offsets.")


def _dtype(tensor: dict[str, object]) -> str | None:
    name = tensor.get("dtype")
    return _DTYPES.get(name) if isinstance(name, str) else None


def _shape(tensor: dict[str, object]) -> tuple[int, ...]:
    match tensor.get("shape"):
        case list(sizes) if len(sizes) <= 32 and all(type(n) is int and 0 <= n < 1 << 48 for n in sizes):
            return tuple(sizes)
    return ()
