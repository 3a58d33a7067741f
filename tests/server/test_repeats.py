"""What a target holds twice, or the base elsewhere, is copied, at whatever offset it lies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.repeats import pairs
from modelsync_protocol import update
from modelsync_protocol.errors import FormatError
from modelsync_protocol.ops import Copy
from modelsync_server.encode import repeat_finder
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.repeat_candidate import encode_repeats
from modelsync_server.encode.repeat_finder import LEAST_BYTES, repeats
from modelsync_server.publish.tasks import updates
from tests.server.tensors.worlds import carried_out, source

_PAIRS = pairs(3)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.mark.parametrize("seed", range(4))
def test_repeats_are_equal_disjoint_and_written_before_they_are_read(seed: int) -> None:
    chance = random.Random(seed)
    base = chance.randbytes(40_000)
    parts = [chance.randbytes(3000)]
    for _ in range(12):
        begin, length = chance.randrange(30_000), chance.randrange(2 * LEAST_BYTES, 9000)
        parts += [base[begin : begin + length], chance.randbytes(chance.randrange(70)), chance.choice(parts)]
    target = b"".join(parts)
    found = repeats(memoryview(base), memoryview(target))
    end = 0
    for repeat in found:
        assert repeat.target >= end and repeat.length >= LEAST_BYTES
        end = repeat.end
        assert not repeat.own or repeat.source + repeat.length <= repeat.target
        other = target if repeat.own else base
        assert other[repeat.source : repeat.source + repeat.length] == target[repeat.target : repeat.end]
    assert sum(repeat.length for repeat in found) > 0.9 * (len(target) - 3000)


def test_what_has_no_repeats_gives_none() -> None:
    chance = random.Random(1)
    assert repeats(memoryview(chance.randbytes(50_000)), memoryview(chance.randbytes(50_000))) == []
    assert repeats(memoryview(bytes(50_000)), memoryview(bytes(50_000))) == [], "zeros compress as they are"
    assert repeats(memoryview(b""), memoryview(b"short")) == []


def test_windows_that_differ_in_their_last_byte_are_told_apart() -> None:
    chance = random.Random(2)
    stretch = chance.randbytes(1024)
    twin = bytearray(stretch)
    for end in range(63, len(twin), 256):
        twin[end] ^= 1
    base = bytes(twin) + stretch
    found = repeats(memoryview(base), memoryview(chance.randbytes(100) + stretch + chance.randbytes(100)))
    assert [(repeat.target, repeat.length, repeat.source) for repeat in found] == [(100, 1024, 1024)]


def test_places_that_an_index_takes_for_equal_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """In gigabytes a hash's 40 bits are too few to tell all windows apart; here it has 12 bits, in a megabyte."""
    chance = random.Random(4)
    base, target = memoryview(chance.randbytes(1 << 20)), memoryview(chance.randbytes(200_000))
    monkeypatch.setattr(repeat_finder, "_LEAST_PLACE_BITS", 52)
    known = repeat_finder._Known(base, target, [(0, len(target))], None)
    assert not known.seen(lambda place, source: False)
    assert not list(known.candidates())
    monkeypatch.setattr(repeat_finder._Known, "_equal", lambda *_: True)
    assert known.seen(lambda place, source: False), "nothing was taken for equal"


@pytest.mark.parametrize("case", ["by_turns", "twice_f16", "blob_twice", "twice_unaligned"])
def test_a_pair_with_repeats_comes_out_exact_and_no_larger(case: str, pool: ThreadPoolExecutor) -> None:
    suffix, old, new = _PAIRS[case]
    base, target = source({f"m.{suffix}": old}), source({f"m.{suffix}": new})
    oldest = smallest_update(base, target, pool)
    made = encode_repeats(base, target, oldest, pool)
    assert made is not None and carried_out(made, base) == new
    header = update.encode_header(base.manifest, target.manifest, made.operations, made.tables, made.views)
    preamble = update.decode_preamble(header)
    assert preamble is not None and preamble.version == update.VIEWS
    assert update.decode_header(preamble, header[preamble.offset :], base.manifest).operations == made.operations


def test_tensors_that_lie_beside_their_equals_are_paid_once(pool: ThreadPoolExecutor) -> None:
    """Each alone in its file costs two thirds of a patch; twice in a file it must not cost twice as much."""
    _, old, once = _PAIRS["twice_both"]
    suffix, _, twice = _PAIRS["by_turns"]
    base, target = source({f"m.{suffix}": old}), source({f"m.{suffix}": twice})
    made = updates(base, target, 1 << 40, pool)
    single = updates(source({f"m.{suffix}": old}), source({f"m.{suffix}": once}), 1 << 40, pool)
    assert min(map(len, made.values())) < 1.03 * min(map(len, single.values()))


def test_a_copy_whose_end_no_chunk_has_takes_version_2() -> None:
    base, target = source({"m": b"0123456789" * 10}), source({"m": b"0123456789" * 9 + b"end.and.it"})
    operations = (Copy(90, 0), Copy(10, 80))
    with pytest.raises(FormatError):
        header = update.encode_header(base.manifest, target.manifest, operations)
        preamble = update.decode_preamble(header)
        assert preamble is not None
        update.decode_header(preamble, header[preamble.offset :], base.manifest)
