"""Arrays without a header whose file's name says type and maybe shape: `w.f16`, `w.512x1024.f32`. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from modelsync_protocol.containers.ranges import TensorRange

WIDTHS = {"f16": 2, "bf16": 2, "f32": 4, "f64": 8}
_MAX_RANK = 32
_MAX_ELEMENTS = 1 << 48


def array(path: str, data: memoryview) -> Iterator[TensorRange]:
    """Yield the array that fills the file, if its name says a type; bytes left over at the end are no part of it."""
    stem, _, dtype = path.rpartition("/")[2].rpartition(".")
    width = WIDTHS.get(dtype)
    if width is None:
        return
    length = len(data) // width * width
    yield TensorRange("", 0, length, dtype, _shape(stem.rpartition(".")[2], length // width))


def _shape(text: str, count: int) -> tuple[int, ...]:
    sizes = text.split("x")
    if len(sizes) > _MAX_RANK or not all(size.isascii() and size.isdigit() and len(size) < 16 for size in sizes):
        return ()
    shape = tuple(map(int, sizes))
    return shape if prod(shape) == count else ()
