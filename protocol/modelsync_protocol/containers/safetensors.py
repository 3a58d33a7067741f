"""Tensor ranges of a safetensors file (https://github.com/huggingface/safetensors#format). No I/O here."""

from __future__ import annotations

import json
from collections.abc import Iterator

from modelsync_protocol.errors import FormatError

_MAX_HEADER_BYTES = 100_000_000


def tensor_ranges(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of every tensor's bytes; raise FormatError if `data` is no safetensors file."""
    if len(data) < 8:
        raise FormatError("the file is too short for safetensors.")
    size = int.from_bytes(data[:8], "little")
    if size > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise FormatError("the safetensors header reaches beyond the file.")
    try:
        header = json.loads(bytes(data[8 : 8 + size]))
    except (ValueError, RecursionError) as error:
        raise FormatError("the safetensors header is not JSON.") from error
    if not isinstance(header, dict):
        raise FormatError("the safetensors header is not an object.")
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        match tensor:
            case {"data_offsets": [int(begin), int(end)]} if 0 <= begin <= end <= len(data) - 8 - size:
                yield 8 + size + begin, end - begin
            case _:
                raise FormatError(f"the safetensors entry {name!r:.80} has no usable offsets.")
