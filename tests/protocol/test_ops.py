"""Operations: what is written is read back, and nothing is read that reaches beyond base, target, chunks or caps."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelsync_protocol import caps, codecs, plan, update
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest, RegularFile
from modelsync_protocol.ops import Copy, Frame, Op, Operations, read_ops, write_ops
from modelsync_protocol.plain import section
from modelsync_protocol.wire import Reader, write_varint

BASE = 9 * caps.MIB


def manifest_of(*sizes: int) -> Manifest:
    return Manifest((RegularFile("a", 0o644, sizes, ("0" * 64,) * len(sizes)),))


def written(operations: list[Op]) -> bytes:
    out = bytearray()
    write_ops(out, operations)
    return bytes(out)


def read(data: bytes, target: Manifest, base_size: int = BASE) -> Operations:
    reader = Reader(data, "the operations")
    found = read_ops(reader, target=target, base_size=base_size, version=codecs.NEWEST_VERSION)
    reader.end()
    return found


@st.composite
def recipes(draw: st.DrawFn) -> tuple[Manifest, list[Op]]:
    """A target, and operations that tile it."""
    operations: list[Op] = []
    sizes: list[int] = []
    position = 0
    for chunks in draw(st.lists(st.lists(st.integers(1, caps.TENSOR_CHUNK_BYTES), min_size=1, max_size=3), max_size=8)):
        length = sum(chunks)
        kind = draw(st.integers(0, 2))
        if kind == 0:
            operations.append(Copy(length, draw(st.integers(0, BASE - length))))
        elif kind == 1 and position >= length:
            operations.append(Copy(length, draw(st.integers(0, position - length)), own=True))
        else:
            prefix = draw(st.integers(0, min(position, caps.MAX_PREFIX_BYTES)))
            base_length = draw(st.integers(0, min(caps.MAX_BASE_BYTES, caps.MAX_LEAN_BYTES - length - prefix)))
            base_offset = draw(st.integers(0, BASE - base_length)) if base_length else 0
            encoding = draw(st.sampled_from(sorted(codecs.ENCODINGS)))
            payload = draw(st.integers(0, caps.MAX_PAYLOAD_BYTES))
            if encoding != codecs.STORED:
                operations.append(Frame(length, encoding, payload, base_offset, base_length, prefix))
            else:
                chunks = [min(length, caps.TENSOR_CHUNK_BYTES)]
                length = chunks[0]
                operations.append(Frame(length, codecs.STORED, length))
        sizes += chunks
        position += length
    return manifest_of(*sizes), operations


@given(recipes())
def test_operations_are_read_back_exactly(recipe: tuple[Manifest, list[Op]]) -> None:
    target, operations = recipe
    data = written(operations)
    found = read(data, target)
    assert found == operations and operations == found and hash(found) == hash(Operations(operations))
    assert [found[number] for number in range(-len(found), len(found))] == operations * 2
    assert found[1:-1] == tuple(operations[1:-1]) and found != [*operations, Copy(1, 0)]
    for length in range(len(data)):
        with pytest.raises(FormatError):
            read(data[:length], target)


TARGET = manifest_of(100, 100, 100)

BAD: dict[str, list[Op]] = {
    "short of the end": [Copy(200, 0)],
    "beyond the end": [Copy(400, 0)],
    "beyond the end at last": [Copy(300, 0), Copy(100, 0)],
    "inside a chunk": [Copy(150, 0), Copy(150, 150)],
    "empty copy": [Copy(0, 0), Copy(300, 0)],
    "empty own copy": [Copy(100, 0), Copy(0, 0, own=True), Copy(200, 0)],
    "empty frame": [Frame(0, 1, 5), Copy(300, 0)],
    "copy beyond the base": [Copy(300, BASE - 299)],
    "own copy of what is not there yet": [Copy(200, 0), Copy(100, 101, own=True)],
    "own copy at the start": [Copy(300, 0, own=True)],
    "own copy that overlaps itself": [Copy(100, 0), Copy(200, 0, own=True)],
    "unknown encoding": [Frame(300, 99, 5)],
    "reserved tag": [Frame(300, 0xFF, 5)],
    "prefix before the start": [Copy(100, 0), Frame(200, 2, 5, 0, 0, 101)],
    "base range beyond the base": [Frame(300, 2, 5, BASE - 9, 10)],
    "payload over the cap": [Frame(300, 1, caps.MAX_PAYLOAD_BYTES + 1)],
    "base range over the cap": [Frame(300, 2, 5, 0, caps.MAX_BASE_BYTES + 1)],
}


@pytest.mark.parametrize("what", BAD)
def test_operations_that_break_a_rule_are_refused(what: str) -> None:
    with pytest.raises(FormatError):
        read(written(BAD[what]), TARGET)


def test_places_before_the_base_are_refused() -> None:
    for op in (b"\x00\xac\x02\x01", b"\x02\xac\x02\x05\x00\x01\x01"):  # base offset -1
        with pytest.raises(FormatError):
            read(b"\x01" + op, TARGET)


def test_a_frame_over_the_caps_is_refused_before_anything_is_made_for_it() -> None:
    big = manifest_of(*[caps.TENSOR_CHUNK_BYTES] * 40)
    quarter = caps.TENSOR_CHUNK_BYTES
    assert read(written([Copy(36 * quarter, 0), Frame(4 * quarter, 1, 5)]), big)
    for frame in (
        Frame(17 * quarter, 1, 5),
        Frame(4 * quarter, 2, 5, 0, 0, caps.MAX_PREFIX_BYTES + 1),
        Frame(4 * quarter, 2, 5, 0, caps.MAX_BASE_BYTES, caps.MAX_PREFIX_BYTES),
    ):
        start = 40 * quarter - frame.length
        with pytest.raises(FormatError):
            read(written([Copy(start, 0), frame]), big)


def test_without_a_base_nothing_can_lean_on_one() -> None:
    for operations in ([Copy(300, 0)], [Frame(300, 2, 5, 0, 1)]):
        with pytest.raises(FormatError):
            read(written(list(operations)), TARGET, base_size=0)


@pytest.mark.parametrize(("op", "most"), [(Copy(1, 7), 24), (Frame(1, codecs.ZSTD, 1), 40)], ids=["copies", "frames"])
def test_a_million_operations_from_a_kilobyte_do_not_fill_a_device(op: Op, most: int) -> None:
    """A header is unsigned, and packs well: 936 bytes of it took 250 MB of a worker."""
    count = 50_000
    views = section.Views.streams(BASE, count)  # no edges of chunks in the way
    data = written([op] * count)
    read(data[:0] + written([op] * 3), manifest_of(1, 1, 1))  # what is imported and kept once
    tracemalloc.start()
    try:
        found = read_ops(Reader(data, "it"), target=views.target, base_size=BASE, version=codecs.NEWEST_VERSION)
        header = update.Update(TARGET, found)
        planned = plan.plan_update("a" * 64, "b" * 64, 99, 0, header)
        assert sum(step.length for step in planned.steps) == planned.payload_bytes() + sum(
            step.length for step in planned.steps if isinstance(step, plan.CopyStep)
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == count and peak / count < most


def test_a_count_that_lies_is_refused() -> None:
    for count in (0, 2, caps.MAX_OPS, caps.MAX_OPS + 1):
        out = bytearray()
        write_varint(out, count)
        with pytest.raises(FormatError):
            read(bytes(out) + written([Copy(300, 0)])[1:], TARGET)
