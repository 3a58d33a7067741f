"""NumPy arrays inside pickle and joblib files, found without executing anything. No I/O here.

A pickled array is `_reconstruct` with the state (version, shape, dtype, Fortran order, bytes), from protocol 5 on
`_frombuffer(bytes, dtype, shape, order)`; joblib writes a wrapper's state and then the array's bytes between opcodes
(joblib/numpy_pickle.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from modelsync_protocol.containers.pickle_walk import Made, Name, Run, Walk
from modelsync_protocol.containers.ranges import TensorRange
from modelsync_protocol.errors import FormatError

_DTYPES = {
    "f4": "f32",
    "f2": "f16",
    "f8": "f64",
    "i1": "i8",
    "u1": "u8",
    "b1": "u8",
    "i2": "i16",
    "u2": "i16",
    "i4": "i32",
    "u4": "i32",
    "i8": "i64",
    "u8": "i64",
}
_WRAPPER = "NumpyArrayWrapper"
_MAX_RANK = 32
_MAX_ELEMENTS = 1 << 48


def dtype_of(code: object) -> tuple[str, int] | None:
    """(our name, width in bytes) of a NumPy type string like "<f4", or None; big-endian types are unknown."""
    if not isinstance(code, str) or code.startswith(">"):
        return None
    plain = code.lstrip("<|=")
    name = _DTYPES.get(plain)
    return (name, int(plain[1:])) if name is not None else None


def tensors(data: memoryview) -> Iterator[TensorRange]:
    """Yield every array of a known element type; raise FormatError if `data` is no pickle."""
    found: list[TensorRange] = []

    def on_state(made: Made, position: int) -> int:
        if isinstance(made.maker, Name) and made.maker.name == _WRAPPER and isinstance(made.state, dict):
            return _joblib_array(data, made.state, position, found)
        match made.state:
            case (int(), tuple() as shape, Made() as dtype, _, Run() as run):
                _add(found, run.offset, run.length, _type_code(dtype), shape)
        return position

    def on_call(made: Made) -> None:
        match made.maker, made.arguments:
            case Name(name="_frombuffer"), (Run() as run, Made() as dtype, tuple() as shape, *_):
                _add(found, run.offset, run.length, _type_code(dtype), shape)

    if len(data) < 2 or data[0] not in b"\x80(":
        raise FormatError("the file is no pickle of protocol 2 or newer.")
    Walk(data, on_state=on_state, on_call=on_call).run()
    return iter(found)


def _type_code(dtype: Any) -> str:
    """The type string of a pickled numpy.dtype, with its byte order; empty if it is something else."""
    if not isinstance(dtype, Made) or not isinstance(dtype.maker, Name) or "dtype" not in dtype.maker.name.lower():
        return ""
    match dtype.arguments, dtype.state:
        case (str(code), *_), (int(), str(order), *_):
            return order + code
        case (str(code), *_), None:
            return code
    return ""


def _add(found: list[TensorRange], offset: int, length: int, code: str, shape: tuple[Any, ...]) -> None:
    known = dtype_of(code)
    sizes = _sizes(shape)
    if known is not None and length:
        found.append(TensorRange(f"array {len(found)}", offset, length, known[0], sizes or ()))


def _sizes(shape: Any) -> tuple[int, ...] | None:
    if not isinstance(shape, tuple) or len(shape) > _MAX_RANK:
        return None
    return shape if all(type(n) is int and 0 <= n < _MAX_ELEMENTS for n in shape) else None


def _joblib_array(data: memoryview, state: dict[str, Any], position: int, found: list[TensorRange]) -> int:
    """Note the array that follows a wrapper, and answer where the pickle goes on."""
    sizes = _sizes(state.get("shape"))
    code = _type_code(state.get("dtype"))
    known = dtype_of(code)
    if sizes is None or known is None:
        raise FormatError("a joblib array has a type or shape that is not known here.")
    if state.get("numpy_array_alignment_bytes") is not None:
        if position >= len(data):
            raise FormatError("the joblib file is cut short.")
        position += 1 + data[position]
    length = prod(sizes) * known[1]
    if length > len(data) - position:
        raise FormatError("a joblib array reaches beyond the file.")
    _add(found, position, length, code, sizes)
    return position + length
