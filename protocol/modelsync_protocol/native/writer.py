"""What only a publisher asks of the core: elements to symbols, counting them, rANS over rows of tables.

As in `core.py`: arrays are borrowed for the call, and results are the reference's (modelsync_server/tensors).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.native.core import PADDING, Numeral, Segments, _at, _check, _exact, _Numeral
from modelsync_protocol.native.library import load

ROWS = 256
"""Rows that arrays by (row, symbol) have."""


class Writer:
    """The library's functions, typed."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[str, Any] = {}
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        signatures: dict[str, list[Any]] = {
            "predict": [pointer, size, pointer, pointer, pointer],
            "delta_symbols": [*[pointer] * 5, ctypes.c_uint64, *[pointer] * 3],
            "value_symbols": [pointer] * 5,
            "count": [pointer, pointer, size, pointer],
            "costs": [pointer, pointer, size, pointer, pointer],
            "rans_encode_rows": [pointer, pointer, size, pointer, pointer, size, pointer],
        }
        for name, arguments in signatures.items():
            function = getattr(library, f"modelsync_core_{name}")
            function.argtypes = arguments
            function.restype = size if name == "rans_encode_rows" else ctypes.c_int
            self._functions[name] = function

    def rows(self, segment: Segments, old: NDArray[Any] | None, guess: NDArray[Any] | None) -> NDArray[np.uint8]:
        """What a segment that is alone, at 0 over 0, chooses for each element; `guess` takes the predictions, and may
        be `old` if they are it."""
        chosen = np.empty(segment.elements, np.uint8)
        if (old is None) != (guess is None) or (old is None) != (segment.base_end == 0):
            raise ValueError("a segment and its predictions lean on the same, or on nothing")
        addresses = [None if array is None else _at(_elements(array, segment)) for array in (old, guess)]
        _check(self._functions["predict"](segment.address(), 1, *addresses, _at(chosen)))
        return chosen

    def delta_symbols(
        self,
        kind: Numeral,
        first: NDArray[np.uint8],
        top: NDArray[np.uint8],
        new: NDArray[Any],
        guess: NDArray[Any] | None,
        raw: RawBits | None,
    ) -> NDArray[np.uint8]:
        """As symbol_writer's in Mode.DELTA; `first` and `top` by bit length, 0 to 64. Raw bits are added to `raw`."""
        count, code = len(new), f"u{kind[0]}"
        arrays = _exact(first, "u1", 65), _exact(top, "u1", 65), _exact(new, code, count)
        before = None if guess is None else _at(_exact(guess, code, count))
        symbols, numeral = np.empty(count, np.uint8), _Numeral(*kind)
        out, position = _room(raw, count * kind[0])
        _check(
            self._functions["delta_symbols"](
                ctypes.addressof(numeral), *map(_at, arrays), before, count, _at(symbols), out, position
            )
        )
        return symbols

    def value_symbols(self, segment: Segments, new: NDArray[Any], raw: RawBits | None) -> NDArray[np.uint8]:
        """The same of floats in Mode.VALUE; the segment is alone and begins at 0."""
        symbols = np.empty(segment.elements, np.uint8)
        out, position = _room(raw, segment.target_end)
        place = _at(_elements(new, segment))
        _check(self._functions["value_symbols"](segment.address(), place, _at(symbols), out, position))
        return symbols

    def count(self, rows: NDArray[np.uint8], symbols: NDArray[np.uint8], cells: NDArray[np.int64]) -> None:
        """Add to `cells` (ROWS × 256) how often each symbol stands in each row."""
        _exact(cells, "i8", ROWS), _exact(rows, "u1", len(symbols)), _exact(symbols, "u1", len(symbols))
        if cells.shape != (ROWS, 256):
            raise ValueError("counts are of 256 rows and 256 symbols")
        self._functions["count"](_at(rows), _at(symbols), len(symbols), _at(cells))

    def costs(
        self, rows: NDArray[np.uint8], symbols: NDArray[np.uint8], prices: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What `prices` (ROWS · 256) says of each symbol in its row."""
        _exact(prices, "f4", ROWS * 256), _exact(rows, "u1", len(symbols)), _exact(symbols, "u1", len(symbols))
        found = np.empty(len(symbols), np.float32)
        self._functions["costs"](_at(rows), _at(symbols), len(symbols), _at(prices), _at(found))
        return found

    def rans_encode(
        self,
        rows: NDArray[np.uint8],
        symbols: NDArray[np.uint8],
        steps: NDArray[np.uint32],
        seeds: NDArray[np.uint16],
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """States and words of symbols in their rows of `steps` (ROWS · 256: frequency, first slot · 2^16)."""
        total = len(symbols)
        _exact(rows, "u1", total), _exact(symbols, "u1", total), _exact(steps, "u4", ROWS * 256)
        state = seeds.astype(np.uint32) + np.uint32(1 << 16)
        words = np.empty(total, np.uint16)
        used = self._functions["rans_encode_rows"](
            _at(rows), _at(symbols), total, _at(steps), _at(state), len(state), _at(words)
        )
        if used > total:
            raise ValueError("a symbol has no frequency")
        return state, words[total - used :]


class RawBits:
    """Fields of bits that follow each other, lowest bit first, of elements that take `size` bytes in all."""

    def __init__(self, size: int) -> None:
        self._bits = np.empty(size + PADDING, np.uint8)
        self._position = ctypes.c_uint64(0)
        self._left = size

    def room(self, size: int) -> tuple[int, int]:
        """Addresses of the bits and of the place behind the last, for elements of `size` bytes."""
        if size > self._left:
            raise ValueError("there is no room for so many elements' bits")
        self._left -= size
        return _at(self._bits), ctypes.addressof(self._position)

    def bytes(self) -> bytes:
        """All of them, padded with zeros to whole bytes."""
        return self._bits[: -(-self._position.value // 8)].tobytes()


def _elements(array: NDArray[Any], segment: Segments) -> NDArray[Any]:
    """The elements of a segment that is alone and begins at 0, if that is what they are."""
    if len(segment) != 1:
        raise ValueError("it takes one segment")
    return _exact(array, f"u{segment.target_end // segment.elements}", segment.elements)


def _room(raw: RawBits | None, size: int) -> tuple[int | None, int | None]:
    return (None, None) if raw is None else raw.room(size)


@cache
def writer() -> Writer | None:
    """The core of this process; None: compute in NumPy."""
    library = load().library
    return None if library is None else Writer(library)
