"""Encoding 6: tensors whose base is changed by a product of low rank, and coded as in encoding 4. No I/O here.

FORMAT.md §6.2. The products stand in the object's tables (§7), behind the frequency tables that their integers, too,
are coded with; a frame says which of its segments lean on which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from modelsync_protocol import caps
from modelsync_protocol.codecs import adapted, tables, tensor_frame
from modelsync_protocol.codecs.adapted import Adapted, Merged, Product
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.codecs.rans_delta import opaque
from modelsync_protocol.codecs.segments import MAX_SEGMENTS, Coded, Gap, Head, Mode, Same
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_varint

MAX_PRODUCTS = 4096
"""Products of one object."""

_MAX_PRECISION = 160
_MOST_FACTORS = 2 * adapted.MAX_FACTORS
"""Integers in all products that one frame names: bounds a decoder's memory."""

_MOST_WORK = 1 << 30
"""Products of numbers that one frame may need: a matrix of rank 256 in a frame of 4 MiB. Bounds a decoder's time."""

_WIDTH = 4


@dataclass(frozen=True, slots=True)
class Stored:
    """A product as it stands in the tables: `payload` gives left transposed, then right, so that parts are rows."""

    rows: int
    columns: int
    rank: int
    payload: bytes | memoryview
    precision: int = 0
    """Of 32-bit integers: they are divided by 2^precision."""

    scale: np.float32 | None = None
    """Not None: the numbers are binary32, and this is their scale."""

    @property
    def factors(self) -> int:
        """Numbers in both factors."""
        return self.rank * (self.rows + self.columns)


class LowRank:
    """Payloads with products are written by the publisher, which knows where tensors lie."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding; without knowledge of tensors all of `target` is one gap between them."""
        return front(()) + opaque(target, base, prefix)

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes | bytearray:
        """See codecs.port.Encoding."""
        reader = Reader(payload, "a low-rank frame")
        named: dict[int, tuple[int, int]] = {}
        index = -1
        for _ in range(reader.varint(MAX_SEGMENTS)):
            index += 1 + reader.varint(MAX_SEGMENTS)
            named[index] = reader.varint(MAX_PRODUCTS - 1), reader.varint(caps.MAX_ARTIFACT_BYTES)
        rest = bytes(reader.take(len(payload) - reader.offset))

        def adapt(head: Head) -> Head:
            return _adapted(head, named, tables)

        return tensor_frame.decode(rest, length, base, prefix, tables, adapt)


def front(parts: Sequence[Coded | Same | Gap]) -> bytes:
    """What stands before a tensor frame's payload: which segments lean on which product, from which element on."""
    out = bytearray()
    last = -1
    named = [(index, s.adapted) for index, s in enumerate(parts) if isinstance(s, Coded) and s.adapted is not None]
    write_varint(out, len(named))
    for index, place in named:
        write_varint(out, index - last - 1)
        write_varint(out, place.number)
        write_varint(out, place.first)
        last = index
    return bytes(out)


def _adapted(head: Head, named: dict[int, tuple[int, int]], shared: bytes) -> Head:
    segments = list(head.segments)
    work = 0
    stored = products(shared)
    _check(all(number < len(stored) for number, _ in named.values()), "names a product that the header lacks")
    used = {number for number, _ in named.values()}
    _check(sum(stored[number].factors for number in used) <= _MOST_FACTORS, "names too many products")
    # Each is in memory once, however often it is named; the last may go on in the next frame, where it is the first.
    made = {number: _product(shared, number) for number in sorted(used)}
    for index, (number, first) in named.items():
        segment = segments[index] if index < len(segments) else None
        if not isinstance(segment, Coded):
            raise FormatError("a low-rank frame is malformed: it changes what is no tensor.")
        plain = segment.rows is None and segment.offsets is None and not segment.drop
        plain = plain and (segment.factors is None or not segment.numeral.mantissa)
        _check(segment.mode is Mode.DELTA and segment.base_offset is not None and plain, "changes no plain base")
        _check(segment.numeral in adapted.ADAPTABLE, "changes elements of another type")
        product = made[number]
        _check(first + segment.count <= product.count, "reaches beyond its product")
        segments[index] = replace(segment, adapted=Adapted(number, first, product))
        work += product.work(first, segment.count)
    _check(work <= _MOST_WORK, "takes too long")
    return replace(head, segments=tuple(segments))


def write_tables(frequencies: bytes, made: Sequence[Stored]) -> bytes:
    """The `tables` field of an object with products (none: the frequency tables alone)."""
    if not made:
        return frequencies
    out = bytearray(tables.EXTENDED)
    write_varint(out, len(frequencies))
    out += frequencies
    write_varint(out, len(made))
    for product in made:
        for value in (product.rows, product.columns, product.rank, int(product.scale is not None)):
            write_varint(out, value)
        if product.scale is None:
            write_varint(out, product.precision)
        else:
            out += np.array(product.scale, "<f4").tobytes()
        write_varint(out, len(product.payload))
        out += product.payload
    return bytes(out)


@lru_cache(maxsize=1)
def products(shared: bytes) -> tuple[Stored, ...]:
    """The products in an object's tables, none if they hold frequencies only; FormatError for anything malformed."""
    if not shared.startswith(tables.EXTENDED):
        return ()
    found: list[Stored] = []
    _, reader = tables.split(shared)
    for _ in range(reader.varint(MAX_PRODUCTS)):
        rows, columns = reader.varint(adapted.MAX_FACTORS), reader.varint(adapted.MAX_FACTORS)
        rank, merged = reader.varint(adapted.MAX_RANK), reader.varint(1)
        precision = 0 if merged else reader.varint(_MAX_PRECISION)
        scale = np.float32(np.frombuffer(reader.take(4), "<f4")[0]) if merged else None
        payload = reader.take(reader.varint(caps.MAX_TABLES_BYTES))  # megabytes: a copy would double them
        product = Stored(rows, columns, rank, payload, precision, scale)
        _check(0 < product.factors <= adapted.MAX_FACTORS and rows > 0 and columns > 0, "has a product without size")
        found.append(product)
    reader.end()
    return tuple(found)


@lru_cache(maxsize=1)
def _product(shared: bytes, number: int) -> Product | Merged:
    return product(products(shared)[number], shared)


def product(stored: Stored, shared: bytes) -> Product | Merged:
    """Decode a product; `shared` are the object's tables. FormatError for anything malformed."""
    data = tensor_frame.decode(stored.payload, _WIDTH * stored.factors, b"", b"", shared)
    middle = stored.rank * stored.rows
    numbers = np.frombuffer(data, "<i4" if stored.scale is None else "<f4")
    left = numbers[:middle].reshape(stored.rank, stored.rows).T
    right = numbers[middle:].reshape(stored.rank, stored.columns)
    if stored.scale is not None:
        return Merged(left, right, stored.scale)
    result = Product(left, right, stored.precision)
    _check(result.bounded, "has a product whose sums may not fit")
    return result


def _check(condition: bool, complaint: str) -> None:
    if not condition:
        raise FormatError(f"a low-rank frame is malformed: it {complaint}.")
