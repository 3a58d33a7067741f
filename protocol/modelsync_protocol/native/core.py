"""The core's functions with NumPy arrays for arguments. Arrays are borrowed for the call; results are the reference's.

What C would trust (lengths, element sizes, contiguity) is checked here, once a call; numbers that come from a
payload are checked
in C. FormatError where the reference raises it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.errors import FormatError
from modelsync_protocol.native.library import load

_COMPLAINTS = {1: "a frame's data are cut short.", 2: "a frame's symbols do not end where they should."}
PADDING = 16
"""Bytes that the core may read behind raw bits."""


class _Numeral(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("width", "mantissa", "is_signed", "drop")]


class _Segment(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("count", "columns", "column")),
        *((name, ctypes.c_void_p) for name in ("rows", "offsets", "factors", "slopes", "shifts", "choose")),
        ("kind", _Numeral),
        ("level", ctypes.c_int32),
        *((name, ctypes.c_uint32) for name in ("mode", "predictor", "bias")),
    ]


class _Bits(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("limit", ctypes.c_uint64), ("position", ctypes.c_uint64)]


class _Product(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("left", "right")),
        *((name, ctypes.c_uint64) for name in ("rows", "columns", "first")),
        ("unit", ctypes.c_double),
        *((name, ctypes.c_uint32) for name in ("rank", "merged")),
    ]


_LETTER = np.dtype([("lead", "<u8"), ("raw", "<u4"), ("negative", "<u2"), ("sign_raw", "<u2")])


Numeral = tuple[int, int, bool, int]
"""Width in bytes, mantissa bits, signed, dropped bits."""

Letters = NDArray[np.void]
"""256 symbols as the core reads them (`letters`)."""

Bits = tuple[NDArray[np.uint32], int, int]
"""Raw bits: words with PADDING readable bytes behind the end, the end, and the place of the next field (bits)."""


class Segment:
    """A run of a tensor's elements as the core reads it; keeps the arrays alive that it points to."""

    def __init__(
        self,
        kind: Numeral,
        exponent_mask: int,
        mode: int,
        level: int,
        shape: tuple[int, int, int],
        choose: NDArray[np.uint8],
        rows: NDArray[np.uint8] | None,
        offsets: NDArray[np.uint8] | None,
        predictor: int = 0,
        factors: NDArray[np.float64] | None = None,
        integers: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None,
    ) -> None:
        """`shape`: elements, row length, where in a row the first stands. Lengths must be those of segments.read."""
        count, columns, column = shape
        touched, across = -(-(column + count) // columns), min(count, columns)
        lengths = {0: 0, 1: 1, 2: touched, 3: across}
        slopes, shifts = integers or (None, None)
        wanted: Sequence[tuple[NDArray[Any] | None, str, int]] = (
            (rows, "u1", touched),
            (offsets, "u1", across),
            (factors, "f8", lengths[predictor]),
            (slopes, "i4", lengths[predictor]),
            (shifts, "i4", lengths[predictor]),
            (choose, "u1", 120),
        )
        if predictor and (factors is None) == (integers is None):
            raise ValueError("a predictor takes factors, or slopes and shifts")
        self._arrays = [None if array is None else _exact(array, code, size) for array, code, size in wanted]
        addresses = [None if array is None else array.ctypes.data for array in self._arrays]
        self.state = _Segment(
            count, columns, column, *addresses, _Numeral(*kind), level, mode, predictor, exponent_mask
        )
        self.count, self.length = count, count * kind[0]


class Core:
    """The library's functions, typed."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[str, Any] = {}
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        signatures: dict[str, list[Any]] = {
            "rans_decode": [pointer, ctypes.c_uint32, pointer, size, pointer, size, pointer, size],
            "rans_encode": [pointer, pointer, size, pointer, size, pointer],
            "predict": [pointer, pointer, pointer, pointer],
            "adapt": [pointer, pointer, pointer, pointer, pointer],
            "deltas": [pointer, pointer, pointer, ctypes.c_uint64, pointer, pointer],
            "values": [pointer, pointer, pointer, pointer],
            "letters": [pointer, pointer, pointer, pointer, pointer, ctypes.c_uint64, pointer, pointer],
            "pack": [pointer, pointer, ctypes.c_uint64, pointer],
            "gear": [pointer, pointer, size, ctypes.c_uint32, pointer, pointer],
        }
        results = {"rans_encode": size, "pack": ctypes.c_uint64, "gear": size}
        for name, arguments in signatures.items():
            function = getattr(library, f"modelsync_core_{name}")
            function.argtypes = arguments
            function.restype = results.get(name, ctypes.c_int)
            self._functions[name] = function

    def rans_decode(
        self,
        slots: NDArray[np.uint32],
        selectors: NDArray[np.uint8],
        states: NDArray[np.uint32],
        words: NDArray[np.uint16],
    ) -> NDArray[np.uint16]:
        """As rans.decode_symbols; `slots` of `packed_slots`."""
        state = states.astype(np.uint32)
        count, words = len(words), np.append(words, np.uint16(0)).astype(np.uint16)
        tables = len(slots) >> 12
        _exact(selectors, "u1", len(selectors))
        _check(
            self._functions["rans_decode"](
                _at(slots), tables, _at(selectors), len(selectors), _at(state), len(state), _at(words), count
            )
        )
        return (state - np.uint32(1 << 16)).astype(np.uint16)

    def rans_encode(
        self, frequencies: NDArray[np.uint32], starts: NDArray[np.uint32], seeds: NDArray[np.uint16]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """As rans_writer.encode_symbols: states and words."""
        total = len(frequencies)
        state = seeds.astype(np.uint32) + np.uint32(1 << 16)
        words = np.empty(total, np.uint16)
        _exact(frequencies, "u4", total), _exact(starts, "u4", total)
        used = self._functions["rans_encode"](_at(frequencies), _at(starts), total, _at(state), len(state), _at(words))
        if used > total:
            raise ValueError("a symbol has no frequency")
        return state, words[total - used :]

    def predict(
        self,
        segment: Segment,
        base: bytes | bytearray,
        base_offset: int | None,
        out: bytearray,
        offset: int,
        selectors: NDArray[np.uint8],
    ) -> None:
        """As tensor_frame's predictions: fills `selectors` (of the segment's length), and `out` if it has a base."""
        _exact(selectors, "u1", segment.count)
        source = None
        if base_offset is not None:
            source = _at(_part(base, base_offset, segment.length))
        _check(
            self._functions["predict"](
                ctypes.addressof(segment.state), source, _at(_part(out, offset, segment.length)), _at(selectors)
            )
        )

    def adapt(
        self,
        segment: Segment,
        left: NDArray[Any],
        right: NDArray[Any],
        first: int,
        unit: float,
        base: bytes | bytearray,
        base_offset: int,
        out: bytearray,
        offset: int,
        selectors: NDArray[np.uint8],
    ) -> None:
        """As `predict`, by a product of `left` (rank × rows) and `right` (rank × columns), from its element `first` on.

        Integers of 32 bits whose sums fit 63, each to be multiplied by `unit`; or binary32, summed up part by part.
        """
        _exact(selectors, "u1", segment.count)
        rank, columns = right.shape
        code = "f4" if right.dtype.kind == "f" else "i4"
        arrays = [_exact(array if array.flags.aligned else array.copy(), code, rank) for array in (left, right)]
        if len(left.shape) != 2 or first + segment.count > left.shape[1] * columns:
            raise ValueError("a segment reaches beyond its product")
        product = _Product(*map(_at, arrays), left.shape[1], columns, first, unit, rank, code == "f4")
        source, place = _part(base, base_offset, segment.length), _part(out, offset, segment.length)
        address = ctypes.addressof
        _check(
            self._functions["adapt"](address(segment.state), address(product), _at(source), _at(place), _at(selectors))
        )

    def deltas(
        self, kind: Numeral, letters: Letters, symbols: NDArray[np.uint8], out: bytearray, offset: int, raw: Bits
    ) -> int:
        """Correct the predictions that lie in `out` from `offset` on; return the place behind the last field."""
        _exact(symbols, "u1", len(symbols))
        place = _part(out, offset, len(symbols) * kind[0])
        numeral, state = _Numeral(*kind), _bits(raw)
        address = ctypes.addressof
        _check(
            self._functions["deltas"](
                address(numeral), _at(letters), _at(symbols), len(symbols), _at(place), address(state)
            )
        )
        return int(state.position)

    def values(self, segment: Segment, symbols: NDArray[np.uint8], out: bytearray, offset: int, raw: Bits) -> int:
        """Floats without a counterpart, from `offset` of `out` on; return the place behind the last field."""
        _exact(symbols, "u1", segment.count)
        place, state = _part(out, offset, segment.length), _bits(raw)
        address = ctypes.addressof
        _check(self._functions["values"](address(segment.state), _at(symbols), _at(place), address(state)))
        return int(state.position)

    def letters(
        self,
        kind: Numeral,
        first: NDArray[np.uint8],
        top: NDArray[np.uint8],
        new: NDArray[Any],
        old: NDArray[Any] | None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """Symbols and raw bits as symbol_writer.delta_letters; `first` and `top` by bit length, 0 to 64."""
        count, code = len(new), f"u{kind[0]}"
        arrays = _exact(first, "u1", 65), _exact(top, "u1", 65), _exact(new, code, count)
        before = None if old is None else _at(_exact(old, code, count))
        symbols, fields = np.empty(count, np.uint8), np.empty(count, np.uint64)
        numeral = _Numeral(*kind)
        _check(
            self._functions["letters"](
                ctypes.addressof(numeral), *map(_at, arrays), before, count, _at(symbols), _at(fields)
            )
        )
        return symbols, fields

    def pack(self, fields: NDArray[np.uint64], counts: NDArray[np.uint8]) -> bytes:
        """As rans_writer.pack_bits."""
        _exact(fields, "u8", len(counts)), _exact(counts, "u1", len(counts))
        size = -(-int(counts.sum(dtype=np.int64)) // 8)
        out = np.zeros(size + PADDING, np.uint8)
        if int(counts.max(initial=0)) > 64:
            raise ValueError("a field is wider than 64 bits")
        self._functions["pack"](_at(fields), _at(counts), len(counts), _at(out))
        return out[:size].tobytes()

    def gear(
        self, gear: NDArray[np.uint32], data: NDArray[np.uint8], threshold: int, state: NDArray[np.uint32]
    ) -> NDArray[np.uint32]:
        """Indices in `data` after which the gear hash is under `threshold`; `state` (1) goes on from block to block."""
        cuts = np.empty(len(data), np.uint32)
        arrays = _exact(gear, "u4", 256), _exact(data, "u1", len(data)), _exact(state, "u4", 1)
        found = self._functions["gear"](_at(arrays[0]), _at(arrays[1]), len(data), threshold, _at(arrays[2]), _at(cuts))
        return cuts[:found]


def letters(
    lead: NDArray[np.uint64], raw: NDArray[np.uint8], negative: NDArray[np.bool_], sign_raw: NDArray[np.bool_]
) -> Letters:
    """The columns of symbols.DeltaAlphabet (256 each) as rows."""
    result = np.zeros(256, _LETTER)
    for name, column in (("lead", lead), ("raw", raw), ("negative", negative), ("sign_raw", sign_raw)):
        result[name] = column
    return result


def packed_slots(
    symbols: NDArray[np.uint8], distances: NDArray[np.uint32], frequencies: NDArray[np.uint32]
) -> NDArray[np.uint32]:
    """Slots of a decoding table (tables.Tables) in one word each: frequency − 1, distance, symbol."""
    result: NDArray[np.uint32] = symbols.astype(np.uint32) << np.uint32(24)
    result |= distances << np.uint32(12)
    result |= frequencies - np.uint32(1)
    return result


@cache
def core() -> Core | None:
    """The core of this process; None: compute in NumPy."""
    library = load().library
    return None if library is None else Core(library)


def _exact(array: NDArray[Any], code: str, size: int) -> NDArray[Any]:
    if (
        array.dtype != np.dtype(f"<{code}" if code != "?" else code)
        or len(array) != size
        or not array.flags.c_contiguous
    ):
        raise ValueError(f"an array of {len(array)} {array.dtype} is not one of {size} {code}")
    return array


def _bits(raw: Bits) -> _Bits:
    words, limit, position = raw
    if not 0 <= position <= limit <= 8 * (words.nbytes - PADDING):
        raise ValueError("raw bits without room behind them")
    return _Bits(_at(words), limit, position)


def _part(buffer: bytes | bytearray, offset: int, size: int) -> NDArray[np.uint8]:
    return np.frombuffer(buffer, np.uint8, size, offset)


def _at(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


def _check(result: int) -> None:
    if result:
        raise FormatError(_COMPLAINTS.get(result, "a frame's data are malformed."))
