"""How packed bytes follow from plain ones: deflate with recorded parameters, HDF5's shuffle. No I/O here.

A compressor's output is no contract between versions of zlib: `reference` says which versions give the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_varint

BLOCK_BYTES = 64 * caps.KIB
"""Plain bytes are given to the compressor in pieces of this size; the format fixes it, so that nothing is left to
chance."""

_MAX_SHUFFLE = 64
_MAX_RATIO = 1100
"""Deflate makes at most 1,032 bytes of one; a member that claims more is refused before a byte is unpacked."""


class Wrapping(IntEnum):
    """What surrounds the deflated bytes."""

    STORED = 0
    """Not compressed: plain bytes are the packed ones."""
    RAW = 1
    ZLIB = 2
    """RFC 1950: two bytes before, Adler-32 behind."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """zlib's parameters (deflateInit2); whether the writer flushed (Z_SYNC_FLUSH) before it finished; and the width
    (bytes) of the elements that were shuffled before, 1 for none."""

    wrapping: Wrapping
    level: int = 6
    window_bits: int = 15
    memory_level: int = 8
    strategy: int = 0
    flushed: bool = False
    shuffle: int = 1

    def __post_init__(self) -> None:
        if not (
            1 <= self.level <= 9
            and 9 <= self.window_bits <= 15
            and 1 <= self.memory_level <= 9
            and 0 <= self.strategy <= 4
            and 1 <= self.shuffle <= _MAX_SHUFFLE
        ):
            raise FormatError("a recipe has parameters that zlib does not know.")

    def fits(self, packed: int, plain: int) -> bool:
        """Whether a member of so many bytes can be of this recipe."""
        if self.shuffle > 1 and plain > caps.MAX_SHUFFLED_BYTES:
            return False
        return packed == plain if self.wrapping == Wrapping.STORED else plain <= _MAX_RATIO * packed

    @property
    def _bits(self) -> int:
        return self.window_bits if self.wrapping == Wrapping.ZLIB else -self.window_bits


STORED = Recipe(Wrapping.STORED)


def write(out: bytearray, recipe: Recipe) -> None:
    """Append a recipe (FORMAT.md §plain view)."""
    out.append(recipe.wrapping)
    if recipe.wrapping != Wrapping.STORED:
        out += bytes((recipe.level, recipe.window_bits, recipe.memory_level, recipe.strategy, recipe.flushed))
    write_varint(out, recipe.shuffle)


def read(reader: Reader) -> Recipe:
    """Read a recipe; raise FormatError for parameters that zlib does not know."""
    kind = reader.take(1)[0]
    if kind > max(Wrapping):
        raise FormatError(f"recipe {kind} is not known here; update this program.")
    wrapping = Wrapping(kind)
    recipe = Recipe(wrapping)
    if wrapping != Wrapping.STORED:
        level, window_bits, memory_level, strategy, flushed = reader.take(5)
        if flushed > 1:
            raise FormatError("a recipe has an ending that is not known here; update this program.")
        recipe = Recipe(wrapping, level, window_bits, memory_level, strategy, bool(flushed))
    return replace(recipe, shuffle=reader.varint(_MAX_SHUFFLE))


def unpack(recipe: Recipe, packed: Iterable[bytes], plain: int) -> Iterator[bytes]:
    """Yield the `plain` bytes of a member in pieces of at most BLOCK_BYTES (a shuffled one whole).

    Raises FormatError if they are fewer or more, or don't decompress.
    """
    pieces = packed if recipe.wrapping == Wrapping.STORED else _inflate(recipe, packed, plain)
    if recipe.shuffle > 1:
        pieces = iter((unshuffled(b"".join(pieces), recipe.shuffle),))
    done = 0
    for piece in pieces:
        done += len(piece)
        yield piece
    if done != plain:
        raise FormatError(f"a member unpacks to {done} bytes where {plain} were declared.")


def pack(recipe: Recipe, plain: Iterable[bytes], packed: int) -> Iterator[bytes]:
    """Yield the first `packed` bytes of what the recipe makes of `plain`, which comes in pieces of BLOCK_BYTES.

    What the compressor gives behind them is dropped (a writer that flushed has its last bytes beside the member).
    Raises FormatError if there are fewer: then this zlib compresses otherwise than the publisher's.
    """
    left = packed
    for piece in compressed(recipe, plain):
        part = piece[:left]
        left -= len(part)
        if part:
            yield part
    if left:
        raise FormatError(f"a member packs to {left} bytes fewer than were declared.")


def compressed(recipe: Recipe, plain: Iterable[bytes]) -> Iterator[bytes]:
    """Yield all that the recipe makes of `plain`, which comes in pieces of BLOCK_BYTES."""
    pieces = plain
    if recipe.shuffle > 1:
        pieces = blocks(shuffled(b"".join(plain), recipe.shuffle))
    if recipe.wrapping == Wrapping.STORED:
        yield from pieces
        return
    compressor = zlib.compressobj(recipe.level, zlib.DEFLATED, recipe._bits, recipe.memory_level, recipe.strategy)
    for piece in pieces:
        yield compressor.compress(piece)
    if recipe.flushed:
        yield compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()


def _inflate(recipe: Recipe, packed: Iterable[bytes], plain: int) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(recipe._bits)
    left = plain + 1  # one more, so that a longer member shows
    try:
        for block in packed:
            rest = block
            while left and not decompressor.eof:
                room = min(BLOCK_BYTES, left)
                piece = decompressor.decompress(rest, room)
                rest = decompressor.unconsumed_tail
                left -= len(piece)
                if piece:
                    yield piece
                if len(piece) < room:
                    break
    except zlib.error as error:
        raise FormatError(f"a member does not unpack: {error}.") from error


def shuffled(data: bytes, width: int) -> bytes:
    """All first bytes of `width`-byte elements, then all second ones, …; what is left over follows (HDF5's shuffle)."""
    whole = len(data) - len(data) % width
    return b"".join(data[byte:whole:width] for byte in range(width)) + data[whole:]


def unshuffled(data: bytes, width: int) -> bytes:
    """Undo `shuffled`."""
    count = len(data) // width
    out = bytearray(data)
    for byte in range(width):
        out[byte : count * width : width] = data[byte * count : (byte + 1) * count]
    return bytes(out)


def blocks(data: bytes | memoryview) -> Iterator[bytes]:
    """Yield `data` in pieces of BLOCK_BYTES."""
    for at in range(0, len(data), BLOCK_BYTES):
        yield bytes(data[at : at + BLOCK_BYTES])
