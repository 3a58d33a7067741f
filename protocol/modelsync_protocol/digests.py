"""Many SHA-256 digests in as few bytes as they have: read as hex strings, held as one run of bytes. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from modelsync_protocol import names
from modelsync_protocol.errors import FormatError

_BYTES, _HEX = 32, 64
_PART = 1024
"""So many digests are turned to text, or back, at once."""


class Digests(Sequence[str]):
    """Digests as lower-case hex, 32 bytes each in memory (a string of them takes 113). Equal to a tuple of the same."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @classmethod
    def of(cls, digests: Iterable[str]) -> Digests:
        """Take digests one by one; FormatError for what is none."""
        if isinstance(digests, cls):
            return digests
        raw = bytearray()
        for digest in digests:
            raw += bytes.fromhex(names.check_digest(digest))
        return cls(bytes(raw))

    @classmethod
    def unknown(cls, count: int) -> Digests:
        """So many digests of zeros."""
        return cls(bytes(_BYTES * count))

    @classmethod
    def read(cls, text: memoryview) -> Digests:
        """From the items of a JSON list: `"…","…"`. FormatError for anything else."""
        raw = bytearray()
        step = _PART * (_HEX + 3)
        for begin in range(0, len(text), step):
            part = bytes(text[begin : begin + step]).removesuffix(b",")
            if len(part) % (_HEX + 3) != _HEX + 2 or not (part.startswith(b'"') and part.endswith(b'"')):
                raise FormatError("a list of digests holds something else.")
            try:
                raw += bytes.fromhex(part[1:-1].replace(b'","', b"").decode("ascii"))
            except ValueError as error:
                raise FormatError("a list of digests holds something else.") from error
        return cls(bytes(raw))

    def json(self) -> Iterator[bytes]:
        """The items of a JSON list, in parts."""
        for begin in range(0, len(self), _PART):
            part = self._raw[begin * _BYTES : (begin + _PART) * _BYTES].hex(",", _BYTES).encode("ascii")
            yield (b',"' if begin else b'"') + part.replace(b",", b'","') + b'"'

    def __len__(self) -> int:
        return len(self._raw) // _BYTES

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        place = range(len(self))[index] * _BYTES
        return self._raw[place : place + _BYTES].hex()

    def __iter__(self) -> Iterator[str]:
        for place in range(0, len(self._raw), _BYTES):
            yield self._raw[place : place + _BYTES].hex()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Digests):
            return self._raw == other._raw
        return isinstance(other, tuple) and tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))
