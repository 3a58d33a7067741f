"""Where the tensors lie inside model files: byte ranges only, nothing is executed, no I/O here."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from modelsync_protocol.containers import onnx, safetensors, tflite
from modelsync_protocol.errors import FormatError

_READERS: dict[str, Callable[[memoryview], Iterable[tuple[int, int]]]] = {
    ".onnx": onnx.tensor_ranges,
    ".safetensors": safetensors.tensor_ranges,
    ".tflite": tflite.tensor_ranges,
}


def tensor_ranges(path: str, data: memoryview) -> list[tuple[int, int]]:
    """Return the (offset, length) in bytes of the tensors of a model file, ascending and disjoint.

    A file whose suffix names no known container, or that does not parse, is opaque: the answer is empty.
    Overlapping or shared ranges are given once.
    """
    suffix = path[path.rfind(".") :].lower() if "." in path else ""
    reader = _READERS.get(suffix)
    if reader is None:
        return []
    try:
        found = sorted(reader(data))
    except FormatError:
        return []
    result: list[tuple[int, int]] = []
    end = 0
    for offset, length in found:
        if offset >= end and length > 0 and offset + length <= len(data):
            result.append((offset, length))
            end = offset + length
    return result
