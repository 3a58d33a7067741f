"""Arrays of NumPy's .npy files, and of .npz files that are not compressed. No I/O here.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from modelsync_protocol.containers.pickles import dtype_of
from modelsync_protocol.containers.ranges import TensorRange
from modelsync_protocol.containers.zip_entries import entries
from modelsync_protocol.errors import FormatError

_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 10_000
_MAX_RANK = 32


def array(data: memoryview) -> Iterator[TensorRange]:
    """Yield the array of a .npy file; raise FormatError if it is none."""
    yield _array(data, "", 0, len(data))


def arrays(data: memoryview) -> Iterator[TensorRange]:
    """Yield the arrays of a .npz file; raise FormatError if it is no zip file."""
    for entry in entries(data):
        if entry.name.endswith(".npy"):
            yield _array(data, entry.name, entry.offset, entry.length)


def _array(data: memoryview, name: str, offset: int, length: int) -> TensorRange:
    whole = data[offset : offset + length]
    if len(whole) < 12 or bytes(whole[:6]) != _MAGIC or whole[6] not in (1, 2, 3):
        raise FormatError("the file is no NumPy array.")
    wide = 2 if whole[6] == 1 else 4
    size = int.from_bytes(whole[8 : 8 + wide], "little")
    if size > min(_MAX_HEADER_BYTES, len(whole) - 8 - wide):
        raise FormatError("the NumPy header reaches beyond the file.")
    try:
        header = ast.literal_eval(bytes(whole[8 + wide : 8 + wide + size]).decode("latin-1").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise FormatError("the NumPy header does not parse.") from error
    start = 8 + wide + size
    match header:
        case {"descr": str(code), "shape": tuple(shape)} if len(shape) <= _MAX_RANK and all(
            type(n) is int and 0 <= n < 1 << 48 for n in shape
        ):
            known = dtype_of(code)
            return TensorRange(name, offset + start, length - start, known[0] if known else None, shape)
    return TensorRange(name, offset + start, length - start)
