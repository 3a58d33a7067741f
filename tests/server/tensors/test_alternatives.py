"""Encodings 3 and 8 replace zstd exactly where they are smaller."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modelsync_protocol import codecs
from modelsync_protocol.ops import Frame
from modelsync_server.encode.byte_candidates import improved
from modelsync_server.encode.encoder import encode_update
from tests.server.tensors.worlds import carried_out, source


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def encodings(operations: tuple[object, ...]) -> set[int]:
    return {op.encoding for op in operations if isinstance(op, Frame)}


def test_opaque_numbers_that_moved_a_little_are_subtracted(pool: ThreadPoolExecutor) -> None:
    generator = np.random.default_rng(1)
    numbers = generator.integers(0, 1 << 30, 20_000, dtype=np.int32)
    moved = numbers + generator.integers(-3, 4, len(numbers), dtype=np.int32)
    base = source({"table.dat": b"header" + numbers.tobytes()})
    target = source({"table.dat": b"longer header" + moved.tobytes()})
    plain = encode_update(base, target, pool)
    better = improved(plain, base, target, pool)
    assert carried_out(better, base) == bytes(target.stream)
    assert codecs.SUBTRACT in encodings(better.operations)
    assert better.cost < plain.cost * 0.6


def test_records_are_transposed(pool: ThreadPoolExecutor) -> None:
    generator = np.random.default_rng(2)
    rows = np.cumsum(generator.integers(0, 9, (4000, 6)), 0).astype("<f8")
    base, target = source({"a.dat": b"nothing alike"}), source({"a.dat": rows.tobytes()})
    plain = encode_update(base, target, pool)
    better = improved(plain, base, target, pool)
    assert carried_out(better, base) == bytes(target.stream)
    assert encodings(better.operations) == {codecs.TRANSPOSE}
    assert better.cost < plain.cost * 0.9


def test_text_stays_with_zstd(pool: ThreadPoolExecutor) -> None:
    lines = b"".join(b"label %d: a thing of kind %d\n" % (n, n * n % 97) for n in range(3000))
    base, target = source({"l.txt": lines}), source({"l.txt": lines.replace(b"thing", b"something")})
    plain = encode_update(base, target, pool)
    better = improved(plain, base, target, pool)
    assert carried_out(better, base) == bytes(target.stream)
    assert better.cost <= plain.cost
