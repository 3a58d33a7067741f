"""Update, manifest object, bundle and offers as a stranger may send them: cut, prolonged, flipped, lying, exploding.

Whatever comes, a reader answers with FormatError (or None: more bytes are needed) and allocates what caps allow.
"""

from __future__ import annotations

import runpy
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsync_protocol import bundle, caps, index, manifest, offers, update
from modelsync_protocol.codecs import zstd
from modelsync_protocol.errors import FormatError
from modelsync_protocol.index import Index, Place
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Frame
from modelsync_protocol.update import Update
from modelsync_protocol.wire import Reader, write_signed, write_varint

GOLDEN = Path(__file__).parent / "golden"
V1 = GOLDEN / "v1"
BASE = manifest.decode((V1 / "base.manifest.json").read_bytes())
TARGET = manifest.decode((V1 / "target.manifest.json").read_bytes())
UPDATE = (V1 / "target.update").read_bytes()
OBJECT = (V1 / "target.manifest-object").read_bytes()


def read_update(data: bytes) -> Update | None:
    """All that can be read of an update without its payloads; None if more bytes are needed."""
    preamble = update.decode_preamble(data)
    if preamble is None or len(data) < preamble.payload_offset:
        return None
    return update.decode_header(preamble, data[preamble.offset : preamble.payload_offset], BASE)


READERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "update": (UPDATE, read_update),
    "manifest object": (OBJECT, lambda data: index.decode_object(data, TARGET.digest)),
    "manifest": (TARGET.encoded, manifest.decode),
    "skeleton": (TARGET.skeleton, lambda data: manifest.complete(data, None)),
    "bundle": ((V1 / "bundle").read_bytes(), bundle.decode),
    "offers": ((V1 / "offers").read_bytes(), offers.decode),
}
WITH_END = [name for name in READERS if name != "update"]
"""An update's reader takes payloads from behind the header; all the others know where their object ends."""


@pytest.mark.parametrize("name", READERS)
def test_an_object_cut_at_any_byte_is_refused_or_waits_for_more(name: str) -> None:
    data, read = READERS[name]
    for length in range(len(data)):
        try:
            found = read(data[:length])
        except FormatError:
            continue
        empty_offers = name == "offers" and length == 0
        complete_header = name == "update" and found is not None
        assert found is None or empty_offers or complete_header, f"{name} of {length} bytes was accepted"


@pytest.mark.parametrize("name", WITH_END)
@pytest.mark.parametrize("tail", [b"\0", b"\n", b" ", b"(\xb5/\xfd", b"\x50\x2a\x4d\x18\0\0\0\0"])
def test_bytes_behind_the_end_are_refused(name: str, tail: bytes) -> None:
    data, read = READERS[name]
    with pytest.raises(FormatError):
        read(data + tail)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(list(READERS)), st.data())
def test_damaged_objects_raise_nothing_but_format_errors(name: str, draw: st.DataObject) -> None:
    data, read = READERS[name]
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(damaged) - 1))
        damaged[place : place + draw.draw(st.integers(0, 3))] = draw.draw(st.binary(max_size=4))
    with suppress(FormatError):
        read(bytes(damaged))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(READERS)), st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_format_errors(name: str, data: bytes) -> None:
    for candidate in (data, READERS[name][0][:4] + data):
        with suppress(FormatError):
            READERS[name][1](candidate)


def test_a_preamble_asks_for_more_bytes_one_by_one() -> None:
    preamble = update.decode_preamble(UPDATE)
    assert preamble is not None
    for length in range(len(UPDATE)):
        found = update.decode_preamble(UPDATE[:length])
        assert found is None if length < preamble.offset else found == preamble
    with pytest.raises(FormatError):
        update.decode_preamble(b"MSU\x03" + UPDATE[4:])
    with pytest.raises(FormatError):
        update.decode_preamble(b"MSU\x01" + b"\xff" * 16)


def test_an_update_for_another_base_is_refused() -> None:
    preamble = update.decode_preamble(UPDATE)
    assert preamble is not None
    header = UPDATE[preamble.offset : preamble.payload_offset]
    other = Manifest((manifest.EmptyDirectory("other"),))
    with pytest.raises(FormatError):
        update.decode_header(preamble, header, other)


def preamble_of(stored: int, decoded: int) -> bytes:
    out = bytearray(update.MAGIC)
    write_varint(out, stored)
    write_varint(out, decoded)
    return bytes(out)


def header(
    skeleton: int | None = None, packed: bytes | None = None, tables: bytes = b"\0", operations: bytes = b"\0"
) -> bytes:
    """A header with lies in it; by default for TARGET without operations."""
    out = bytearray()
    packed = zstd.compress(TARGET.skeleton, BASE.skeleton) if packed is None else packed
    write_varint(out, len(TARGET.skeleton) if skeleton is None else skeleton)
    write_varint(out, len(packed))
    return bytes(out) + packed + tables + operations


def wrapped(body: bytes, decoded: int | None = None) -> bytes:
    packed = zstd.compress(body, b"")
    if len(packed) >= len(body) and decoded is None:
        return preamble_of(len(body), len(body)) + body
    return preamble_of(len(packed), len(body) if decoded is None else decoded) + packed


def signed(value: int) -> bytes:
    out = bytearray()
    write_signed(out, value)
    return bytes(out)


def varint(value: int) -> bytes:
    out = bytearray()
    write_varint(out, value)
    return bytes(out)


ZEROS = zstd.compress(bytes(40 * caps.MIB), b"")
"""40 MiB in a few hundred bytes."""

LIES = {
    "header longer packed than unpacked": preamble_of(30, 29) + bytes(30),
    "header over the cap": preamble_of(10, caps.MAX_UPDATE_HEADER_BYTES + 1) + bytes(10),
    "header declared longer than it is": wrapped(header(), len(header()) + 500),
    "header declared shorter than it is": wrapped(header() + bytes(2000), len(header()) + 500),
    "header expands beyond its declaration": preamble_of(len(ZEROS), 1 << 20) + ZEROS,
    "header expands to the declared cap": preamble_of(len(ZEROS), caps.MAX_UPDATE_HEADER_BYTES) + ZEROS,
    "skeleton expands beyond its declaration": wrapped(header(100, ZEROS)),
    "skeleton over the cap": wrapped(header(caps.MAX_MANIFEST_BYTES + 1, ZEROS)),
    "skeleton of zeros at the cap": wrapped(header(caps.MAX_MANIFEST_BYTES, ZEROS)),
    "skeleton declared empty": wrapped(header(0)),
    "skeleton without bytes": wrapped(header(packed=b"")),
    "packed skeleton reaches beyond the header": wrapped(varint(10) + varint(1 << 20) + bytes(100)),
    "tables reach beyond the header": wrapped(header(tables=varint(1 << 20))),
    "tables over the cap": wrapped(header(tables=varint(caps.MAX_TABLES_BYTES + 1))),
    "more operations than allowed": wrapped(header(operations=varint(caps.MAX_OPS + 1))),
    "more operations than there are": wrapped(header(operations=varint(caps.MAX_OPS))),
    "no operations at all": wrapped(header()),
    "empty copies for ever": wrapped(header(operations=varint(1000) + b"\0\0\0" * 1000)),
    "bytes behind the operations": wrapped(header(operations=varint(1) + b"\0" + varint(TARGET.size) + b"\0" + b"x")),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_update_that_lies_is_refused_in_bounded_memory(lie: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            assert read_update(LIES[lie]) is not None, "an update that can't be read must not wait for ever"
        assert tracemalloc.get_traced_memory()[1] < 3 * caps.MAX_UPDATE_HEADER_BYTES
    finally:
        tracemalloc.stop()


def index_section(body: bytes, decoded: int | None = None) -> bytes:
    packed = zstd.compress(body, b"")
    section = b"MSI\x01" + varint(len(body) if decoded is None else decoded) + packed
    return b"\x50\x2a\x4d\x18" + len(section).to_bytes(4, "little") + section


FRONT = zstandard.ZstdCompressor().compress(TARGET.encoded)
ONE = varint(1) + bytes(32) + varint(1000) + b"\0"
"""One pack of 1,000 bytes, no tables."""

WHOLE = Frame(TARGET.size, 1, 900)


def operation(op: Frame) -> bytes:
    return (
        bytes([op.encoding])
        + varint(op.length)
        + varint(op.payload_length)
        + varint(op.prefix)
        + varint(op.base_length)
    )


def rle(declared: int, blocks: int, complete: bool) -> bytes:
    """A zstd frame of 128 KiB of zeros per four bytes, with the content size that it pleases to declare."""
    header = b"\x28\xb5\x2f\xfd\xc0\x58" + declared.to_bytes(8, "little")
    last = (131072 << 3 | 1 << 1 | complete).to_bytes(3, "little") + b"\0"
    return header + ((131072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0") * (blocks - 1) + last


INDEX_LIES = {
    "declared over the cap": rle(caps.MAX_MANIFEST_BYTES + 1, 2, True),
    "expands beyond its declaration": rle(10, 8000, True),
    "expands without an end": rle(10, 8000, False),
    "expands without an end under the cap": rle(caps.MAX_MANIFEST_BYTES, 8000, False),
    "shorter than declared": rle(caps.MAX_MANIFEST_BYTES, 2, True),
    "declares nothing": zstandard.ZstdCompressor(write_content_size=False).compress(TARGET.encoded),
    "another manifest": zstandard.ZstdCompressor().compress(BASE.encoded) + index_section(ONE),
    "no index": FRONT,
    "index of another kind": FRONT + index_section(ONE).replace(b"MSI\x01", b"MSI\x02"),
    "skippable frame longer than the object": FRONT + b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
    "index expands beyond its declaration": FRONT + index_section(bytes(1 << 20), 100),
    "index declared over the cap": FRONT + index_section(bytes(100), caps.MAX_UPDATE_HEADER_BYTES + 1),
    "index shorter than declared": FRONT + index_section(ONE, 5000),
    "packs over the cap": FRONT + index_section(varint(100_001)),
    "a pack over the cap": FRONT + index_section(varint(1) + bytes(32) + varint(caps.MAX_PACK_BYTES + 1)),
    "frames without a pack": FRONT + index_section(b"\0\0\x01" + operation(WHOLE) + b"\0\0"),
    "a frame beyond its pack": FRONT + index_section(ONE + b"\x01" + operation(WHOLE) + b"\0" + signed(101)),
    "a frame before its pack": FRONT + index_section(ONE + b"\x01" + operation(WHOLE) + b"\0" + signed(-1)),
    "a frame in a pack that is not listed": FRONT + index_section(ONE + b"\x01" + operation(WHOLE) + b"\x01\0"),
    "a frame that leans on a base": FRONT
    + index_section(ONE + b"\x01" + operation(Frame(TARGET.size, 2, 9, 0, 1)) + b"\0\0\0"),
    "an object over the cap": bytes(caps.MAX_MANIFEST_OBJECT_BYTES + 1),
}


@pytest.mark.parametrize("lie", INDEX_LIES)
def test_a_manifest_object_that_lies_is_refused_in_bounded_memory(lie: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            index.decode_object(INDEX_LIES[lie], TARGET.digest)
        assert tracemalloc.get_traced_memory()[1] < 3 * caps.MAX_UPDATE_HEADER_BYTES
    finally:
        tracemalloc.stop()


def test_a_manifest_object_is_read_back_exactly_and_begins_with_the_manifest() -> None:
    made = runpy.run_path(str(GOLDEN / "make.py"))
    _, listed = made["pack_and_index"]()
    for tables in (b"", b"tables" * 9):
        listed = Index(listed.packs, listed.operations, listed.places, tables)
        data = index.encode_object(TARGET, listed)
        assert index.decode_object(data, TARGET.digest) == (TARGET, listed)
        assert zstandard.ZstdDecompressor().decompress(data) == TARGET.encoded


def test_an_update_is_read_back_exactly_with_tables_and_a_large_header() -> None:
    found = read_update(UPDATE)
    assert found is not None
    for tables in (b"", b"tables", bytes(range(256)) * 40):
        data = update.encode_header(BASE, TARGET, found.operations, tables)
        assert read_update(data) == Update(found.target, found.operations, tables)
    many = Manifest(tuple(manifest.RegularFile(f"f{n:04}", 0o644, (9,), ("0" * 64,)) for n in range(2000)))
    data = update.encode_header(BASE, many, [Frame(many.size, 1, 5)])
    preamble = update.decode_preamble(data)
    assert preamble is not None and preamble.stored < preamble.decoded
    assert update.decode_header(preamble, data[preamble.offset :], BASE).target.skeleton == many.skeleton


@pytest.mark.parametrize(
    ("payload", "length"),
    [
        (b"", 5),
        (b"\0", 5),
        (zstd.compress(b"12345", b"") + b"\0", 5),
        (zstd.compress(b"12345", b"") * 2, 10),
        (zstd.compress(b"12345", b""), 4),
        (zstd.compress(b"12345", b""), 6),
        (zstandard.ZstdCompressor().compress(b"12345"), 5),
        (zstandard.ZstdCompressor().compress(b"12345")[4:], 5),
        (rle(1 << 30, 8192, True)[4:], 10),
        (rle(1 << 45, 2, True)[4:], 10),
        (ZEROS, 10),
        (zstd.compress(b"12345", b""), 1 << 40),
        (b"\x00\xf8" + b"\xff" * 20, 10),
    ],
    ids=range(13),
)
def test_a_payload_gives_exactly_its_length_or_is_refused_before_it_is_unpacked(payload: bytes, length: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            zstd.decompress(payload, length, b"")
        assert tracemalloc.get_traced_memory()[1] < 10 * caps.MIB
    finally:
        tracemalloc.stop()


def test_empty_data_has_a_frame_too() -> None:
    assert zstd.decompress(zstd.compress(b"", b""), 0, b"") == b""


@pytest.mark.parametrize(
    "data",
    [
        varint(4),
        varint(1) + varint(0) + b"\x05\0",
        varint(2) + varint(8) + b"\x05\0" + varint(9) + b"\x05\0",
        varint(2) + varint(8) + b"\x05\0" + varint(8) + b"\x05\0",
        varint(1) + varint(8) + b"\x05" + varint(65),
        varint(1) + varint(8) + b"\x05" + varint(2) + b"bbbb\x01aaaa\x01",
        varint(1) + varint(8) + b"\x05" + varint(2) + b"aaaa\x01aaaa\x01",
        varint(1) + varint(8) + varint(2**50 + 1) + b"\0",
        varint(1) + varint(caps.MAX_VERSION + 1) + b"\x05\0",
        b"\x81\x00",
    ],
    ids=range(10),
)
def test_offers_in_another_order_or_over_a_cap_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        offers.decode(data)


def test_offers_list_the_newest_three_versions_and_round_trip() -> None:
    made = {n: offers.Offer(n * 1000, {f"{n:08x}": n, "ffffffff": 1}) for n in range(1, 9)}
    assert offers.decode(offers.encode(made)) == {n: made[n] for n in (8, 7, 6)}
    assert offers.decode(b"") == {}
    full = offers.Offer(5, {f"{n:064x}"[::-1]: n for n in range(80)})
    assert len(offers.decode(offers.encode({1: full}))[1].updates) == 64


@given(st.integers(0, (1 << 56) - 1), st.binary(max_size=9))
def test_integers_have_one_spelling(value: int, data: bytes) -> None:
    out = varint(value)
    assert Reader(out, "it").varint(value) == value
    if value:
        with pytest.raises(FormatError):
            Reader(out, "it").varint(value - 1)
    reader = Reader(data, "it")
    try:
        read = reader.varint((1 << 56) - 1)
    except FormatError:
        return
    assert varint(read) == data[: reader.offset]


@given(st.integers(-(1 << 40), 1 << 40))
def test_signed_integers_keep_their_limit_on_both_sides(value: int) -> None:
    assert Reader(signed(value), "it").signed(abs(value)) == value
    if value:
        with pytest.raises(FormatError):
            Reader(signed(value), "it").signed(abs(value) - 1)


def test_an_index_places_each_frame() -> None:
    packs = (("0" * 64, 10),)
    with pytest.raises(FormatError):
        Index(packs, (Frame(5, 1, 5),), ())
    with pytest.raises(FormatError):
        Index(packs, (Frame(5, 1, 5),), (Place(0, 6),))
