"""The encodings of frames, one file each behind one port (`codecs.port.Encoding`); ids as in FORMAT.md §encodings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import cast

from modelsync_protocol.codecs.port import Encoding, Tables
from modelsync_protocol.errors import FormatError

COPY = 0
ZSTD = 1
ZSTD_PATCH = 2
SUBTRACT = 3
RANS_DELTA = 4
RANS_NEW = 5
LOW_RANK = 6
TREE_COLUMNS = 7
TRANSPOSE = 8
BLOCKS = 9
RECORDS = 10
STORED = 11

FIRST_VERSIONS: Mapping[int, int] = {LOW_RANK: 2, TREE_COLUMNS: 2, BLOCKS: 2, RECORDS: 2, STORED: 2}
"""Encodings that not every reader knows: the first version of the update's format in which each may occur."""

NEWEST_VERSION = 2
"""The newest version of the update's format (FORMAT.md §8) that is written and read here."""

WITH_TABLES = frozenset({RANS_DELTA, RANS_NEW, LOW_RANK, BLOCKS})
"""Encodings whose frames can't be decoded without the tables of the object that they were made for."""

BUILDS_IN_PLACE = frozenset({RANS_DELTA, LOW_RANK})
"""Encodings that may build a frame in its base's own memory, which spares a device a frame of it."""

_MODULES = {
    ZSTD: ("zstd", "Plain"),
    ZSTD_PATCH: ("zstd", "PatchFrom"),
    SUBTRACT: ("subtract", "Subtract"),
    RANS_DELTA: ("rans_delta", "RansDelta"),
    RANS_NEW: ("rans_new", "RansNew"),
    LOW_RANK: ("low_rank", "LowRank"),
    TREE_COLUMNS: ("modelsync_protocol.tree_files.tree_columns", "TreeColumns"),
    TRANSPOSE: ("transpose", "Transpose"),
    BLOCKS: ("modelsync_protocol.blocks.block_frames", "BlockFrames"),
    RECORDS: ("records", "Records"),
    STORED: ("zstd", "Stored"),
}


class _Encodings(Mapping[int, Encoding]):
    """Loads an encoding when it is first used: numpy costs a device 6 MiB, which it may need for something else."""

    def __init__(self) -> None:
        self._loaded: dict[int, Encoding] = {}

    def __getitem__(self, number: int) -> Encoding:
        if number not in self._loaded:
            module, name = _MODULES[number]
            made: Encoding = getattr(import_module(module if "." in module else f"{__name__}.{module}"), name)()
            self._loaded[number] = made
        return self._loaded[number]

    def __contains__(self, number: object) -> bool:
        return number in _MODULES

    def __iter__(self) -> Iterator[int]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


ENCODINGS: Mapping[int, Encoding] = _Encodings()
"""Encodings that have a payload."""


def first_version(encoding: int) -> int:
    """The first version of the update's format in which that encoding may occur."""
    return FIRST_VERSIONS.get(encoding, 1)


def decode(
    encoding: int, payload: bytes, length: int, base: bytes | bytearray, prefix: bytes, tables: Tables
) -> bytes | bytearray:
    """Decode one frame to exactly `length` bytes; anything wrong with it raises FormatError.

    A bytearray for a base, which only encodings of BUILDS_IN_PLACE take, is given away: the result may lie in it.
    """
    codec = ENCODINGS.get(encoding)
    if codec is None:
        raise FormatError(f"encoding {encoding} is not known here; update this program.")
    return codec.decode(payload, length, cast(bytes, base), prefix, tables)
