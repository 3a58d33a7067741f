"""The core's functions with NumPy arrays for arguments. Arrays are borrowed for the call; results are the reference's.

What C would trust (lengths, element sizes, contiguity) is checked here, once a call; numbers that come from a
payload are checked in C. FormatError where the reference raises it.
"""

from __future__ import annotations

import ctypes
import struct
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


_SEGMENT = struct.Struct("<12Q4Ii3I")
"""core.h's `segment`: 64 bits for addresses too, so that it is packed alike on all machines."""

_NO_BASE = (1 << 64) - 1


class _Bits(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("limit", ctypes.c_uint64), ("position", ctypes.c_uint64)]


_PRODUCT = struct.Struct("<5Qd2I")
"""core.h's `product`."""

_LETTER = np.dtype([("lead", "<u8"), ("raw", "<u4"), ("negative", "<u2"), ("sign_raw", "<u2")])


Numeral = tuple[int, int, bool, int]
"""Width in bytes, mantissa bits, signed, dropped bits."""

Letters = NDArray[np.void]
"""256 symbols as the core reads them (`letters`)."""

Bits = tuple[NDArray[np.uint32], int, int]
"""Raw bits: words with PADDING readable bytes behind the end, the end, and the place of the next field (bits)."""


class Segments:
    """Runs of tensors' elements as the core reads them, in a frame's order; keeps alive what they point to."""

    def __init__(self) -> None:
        self._packed = bytearray()
        self._arrays: list[object] = []
        self._addresses: dict[int, int] = {}
        self.elements, self.target_end, self.base_end = 0, 0, 0

    def __len__(self) -> int:
        return len(self._packed) // _SEGMENT.size

    def add(
        self,
        kind: Numeral,
        exponent_mask: int,
        mode: int,
        level: int,
        shape: tuple[int, int, int],
        choose: NDArray[np.uint8],
        rows: NDArray[np.uint8] | None,
        offsets: NDArray[np.uint8] | None,
        place: int,
        base: int | None,
        predictor: int = 0,
        factors: NDArray[np.float64] | None = None,
        integers: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None,
        product: tuple[NDArray[Any], NDArray[Any], float, int] | None = None,
    ) -> None:
        """`shape`: elements, row length, where in a row the first stands. Lengths must be those of segments.read.

        `place` and `base`: bytes, where it begins in the frame and in its base. `product`: `left` (rank × rows),
        `right` (rank × columns), what their sums are multiplied by, and the product's element that is the segment's
        first: integers of 32 bits whose sums fit 63, or binary32, summed up part by part.
        """
        count, columns, column = shape
        touched, across = -(-(column + count) // columns), min(count, columns)
        parameters = (0, 1, touched, across)[predictor]
        slopes, shifts = integers or (None, None)
        if predictor and (factors is None) == (integers is None):
            raise ValueError("a predictor takes factors, or slopes and shifts")
        if (predictor and base is None) or place < 0 or (base is not None and base < 0):
            raise ValueError("a segment leans on nothing, or begins before its frame")
        self._packed += _SEGMENT.pack(
            count,
            columns,
            column,
            place,
            _NO_BASE if base is None else base,
            self._address(rows, "u1", touched),
            self._address(offsets, "u1", across),
            self._address(factors, "f8", parameters),
            self._address(slopes, "i4", parameters),
            self._address(shifts, "i4", parameters),
            self._shared(choose),
            0 if product is None else self._product(product, count),
            *kind,
            level,
            mode,
            predictor,
            exponent_mask,
        )
        self.elements += count
        self.target_end = max(self.target_end, place + count * kind[0])
        self.base_end = max(self.base_end, 0 if base is None else base + count * kind[0])

    def address(self) -> int:
        """Where they begin, for a call; none may be added while it runs."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._packed)) if self._packed else 0

    def _address(self, array: NDArray[Any] | None, code: str, size: int) -> int:
        if array is None:
            return 0
        self._arrays.append(array)
        return _at(_exact(array, code, size))

    def _shared(self, choose: NDArray[np.uint8]) -> int:
        known = self._addresses.get(id(choose))  # many segments have the same, and it is kept alive
        if known is None:
            known = self._addresses[id(choose)] = self._address(choose, "u1", 120)
        return known

    def _product(self, product: tuple[NDArray[Any], NDArray[Any], float, int], count: int) -> int:
        left, right, unit, first = product
        rank, columns = right.shape
        if len(left.shape) != 2 or first + count > left.shape[1] * columns:
            raise ValueError("a segment reaches beyond its product")
        code = "f4" if right.dtype.kind == "f" else "i4"
        addresses = [
            self._address(array if array.flags.aligned else array.copy(), code, rank) for array in (left, right)
        ]
        packed = bytearray(_PRODUCT.pack(*addresses, left.shape[1], columns, first, unit, rank, code == "f4"))
        self._arrays.append(packed)
        return ctypes.addressof(ctypes.c_char.from_buffer(packed))


class Core:
    """The library's functions, typed."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[str, Any] = {}
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        signatures: dict[str, list[Any]] = {
            "rans_decode": [pointer, ctypes.c_uint32, pointer, size, pointer, size, pointer, size],
            "rans_encode": [pointer, pointer, size, pointer, size, pointer],
            "predict": [pointer, size, pointer, pointer, pointer],
            "correct": [pointer, size, pointer, pointer, pointer, pointer],
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
        count, tables = len(words), len(slots) >> 12
        _exact(selectors, "u1", len(selectors)), _exact(words, "u2", count)
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
        self, segments: Segments, base: bytes | bytearray, out: bytearray, selectors: NDArray[np.uint8]
    ) -> None:
        """As tensor_frame's predictions: fills `selectors`, and `out` where segments have a base."""
        _exact(selectors, "u1", segments.elements)
        source, place = _whole(base, segments.base_end), _whole(out, segments.target_end)
        _check(self._functions["predict"](segments.address(), len(segments), _at(source), _at(place), _at(selectors)))

    def correct(
        self, segments: Segments, letters: Letters, symbols: NDArray[np.uint8], out: bytearray, raw: Bits
    ) -> int:
        """Turn the predictions that lie in `out` into elements; return the place behind the last field."""
        _exact(symbols, "u1", segments.elements)
        if letters.dtype != _LETTER or len(letters) != 256 or not letters.flags.c_contiguous:
            raise ValueError("an alphabet has 256 letters")
        place, state = _whole(out, segments.target_end), _bits(raw)
        _check(
            self._functions["correct"](
                segments.address(), len(segments), _at(letters), _at(symbols), _at(place), ctypes.addressof(state)
            )
        )
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


def _whole(buffer: bytes | bytearray, least: int) -> NDArray[np.uint8]:
    if len(buffer) < least:
        raise ValueError(f"a segment reaches beyond the {len(buffer)} bytes that there are")
    return np.frombuffer(buffer, np.uint8)


def _at(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


def _check(result: int) -> None:
    if result:
        raise FormatError(_COMPLAINTS.get(result, "a frame's data are malformed."))
