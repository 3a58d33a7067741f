"""Memory that is used again, frame after frame, with the core and in NumPy."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps

_KEPT_BYTES = 4 * caps.MIB
"""Of each of the two; what a larger frame takes is given back."""


class Room(threading.local):
    """Memory that frames take one after the other: a fresh page costs as much as decoding into it.

    Each thread has its own; what was taken is no longer anybody's once the next takes it.
    """

    def __init__(self) -> None:
        self._symbols = np.empty(0, np.uint8)
        self._raw = np.empty(0, np.uint8)

    def symbols(self, count: int) -> NDArray[np.uint8]:
        """Room for so many symbols, with anything in it."""
        if count > _KEPT_BYTES:
            return np.empty(count, np.uint8)
        if count > len(self._symbols):
            self._symbols = np.empty(0, np.uint8)  # first: not both at a time
            self._symbols = np.empty(count, np.uint8)
        return self._symbols[:count]

    def raw(self, size: int) -> NDArray[np.uint8]:
        """Room for so many bytes of raw bits, with anything in it."""
        if size > _KEPT_BYTES:
            return np.empty(size, np.uint8)
        if size > len(self._raw):
            self._raw = np.empty(0, np.uint8)
            self._raw = np.empty(size, np.uint8)
        return self._raw[:size]


ROOM = Room()
