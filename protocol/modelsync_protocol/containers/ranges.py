"""What every reader of model files gives: named, typed byte ranges. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorRange:
    """A tensor's bytes: `length` from `offset` of the file on, elements of `dtype` in C order.

    `dtype` is a name of `codecs.numerals` (f32, f16, bf16, f64, i8, u8, i16, i32, i64), of a type of blocks
    (`gguf.TYPES`: q4_0, q6_K …) or u4 (two elements a byte), or None if the elements are something else or unknown;
    `shape` may be empty, and is a hint: nothing may rely on its product.
    """

    name: str
    offset: int
    length: int
    dtype: str | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """A tensor whose bytes lie in another file of the same tree: `location` is relative to the model file's folder.

    `length` is None where the model file leaves it to the shape.
    """

    name: str
    location: str
    offset: int
    length: int | None
    dtype: str | None
    shape: tuple[int, ...]
