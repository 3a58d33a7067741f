"""The port behind which every encoding stands. No I/O here."""

from __future__ import annotations

from typing import Protocol

Tables = bytes
"""What an object's header says to all its frames' encodings (FORMAT.md §tables); empty if none needs it."""


class Encoding(Protocol):
    """One way to carry a frame. Stateless; calls may be repeated and run in threads."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """Return the payload for `target` (≤ caps.MAX_FRAME_BYTES).

        `base` is a range of the base artifact, `prefix` the target's bytes just before the frame; either may be
        empty, and an encoding that leans on nothing ignores both.
        """

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes | bytearray:
        """Return the `length` bytes that `payload` stands for, given the same `base` and `prefix`.

        `tables` are those of the object's header, shared by its frames.

        Raises FormatError for anything else than exactly one well-formed payload of that length.
        """
