"""What a hostile frame of encoding 6 may cost: products are decoded once each, and their sums are bounded."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from modelsync_protocol.codecs import adapted, low_rank, numerals, segments
from modelsync_protocol.codecs.rans_delta import opaque
from modelsync_protocol.codecs.segments import Coded, Head, Mode
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import write_varint

MIB = 2**20


def payload(products: int, named: int) -> bytes:
    """`named` segments of one element that lean on the products in turn."""
    out = bytearray()
    write_varint(out, named)
    for number in range(named):
        for value in (0, number % products, 0):
            write_varint(out, value)
    parts = tuple(Coded(Mode.DELTA, numerals.F32, 0, 1, 0, 1, 0, 0) for _ in range(named))
    return bytes(out) + segments.write(Head(parts, 0, 0))


def shared(products: int, numbers: int) -> bytes:
    stored = low_rank.Stored(1, numbers - 1, 1, opaque(bytes(4 * numbers), b"", b""))
    return low_rank.write_tables(b"", [stored] * products)


def test_a_product_is_in_memory_once_however_often_it_is_named() -> None:
    tables = shared(3, (1 << 20) // 3)
    tracemalloc.start()
    with pytest.raises(FormatError):
        low_rank.LowRank().decode(payload(3, 200), 4 * 200, bytes(4), b"", tables)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MIB


def test_many_segments_on_wide_rows_are_refused_before_they_take_time() -> None:
    tables = shared(1, adapted.MAX_FACTORS)
    begin = time.process_time()
    with pytest.raises(FormatError, match="takes too long"):
        low_rank.LowRank().decode(payload(1, 16_000), 4 * 16_000, bytes(4), b"", tables)
    assert time.process_time() - begin < 5, "refused, not carried out: that would take minutes"
