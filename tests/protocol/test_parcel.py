"""The parcel's format (FORMAT.md §12.2): exact, small, and safe to read from a stranger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelsync_protocol import caps, names, parcel
from modelsync_protocol.codecs import zstd
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import write_varint

A, B, C = ("a1" * 32, "b2" * 32, "c3" * 32)
TARGETS = "metadata/7.targets.json"
OBJECTS = {
    names.update_object(A, B): b"an update",
    names.manifest_object(A): b"a manifest",
    names.pack_object(C): b"",
    TARGETS: b'{"signed":{"_type":"targets","_type":"targets","_type":"targets"}}',
}
SAMPLE = parcel.encode(b"the bundle", OBJECTS)


def test_a_parcel_is_read_back_exactly() -> None:
    found = parcel.decode(SAMPLE)
    assert found.bundle == b"the bundle"
    assert {path: found.get(path) for path in OBJECTS} == OBJECTS


def test_an_object_that_is_not_in_it_is_not_found() -> None:
    found = parcel.decode(SAMPLE)
    for path in (names.update_object(C, B), names.manifest_object(C), names.pack_object(A), "metadata/8.targets.json"):
        assert found.get(path) is None
    for path in ("", "bundles/m", "metadata/7.root.json", "updates/x", names.manifest_object(A) + "/"):
        assert found.get(path) is None


def test_it_adds_few_bytes_to_what_it_holds() -> None:
    update = bytes(range(200))
    assert len(parcel.encode(b"b" * 400, {names.update_object(A, B): update})) <= 400 + 200 + 12


def test_what_it_can_not_hold_is_no_parcel() -> None:
    for objects in (
        {"metadata/timestamp.json": b""},
        {names.update_object(A, B): b"", names.update_object(A, C): b""},
        {names.pack_object(f"{number:08x}" + "0" * 56): b"" for number in range(17)},
    ):
        with pytest.raises(ValueError, match="can't hold"):
            parcel.encode(b"", objects)


def test_a_parcel_that_is_cut_short_or_too_long_is_refused() -> None:
    for length in range(len(SAMPLE)):
        with pytest.raises(FormatError):
            parcel.decode(SAMPLE[:length])
    with pytest.raises(FormatError, match="after its end"):
        parcel.decode(SAMPLE + b"x")
    with pytest.raises(FormatError, match="limit"):
        parcel.decode(bytes(caps.MAX_BUNDLE_BYTES + 1))


def test_a_parcel_of_another_format_says_what_to_do() -> None:
    with pytest.raises(FormatError, match=r"format 2.*update it"):
        parcel.decode(b"\x02" + SAMPLE[1:])


def test_objects_stand_in_one_order_and_once() -> None:
    def entry(kind: int, mark: bytes) -> bytes:
        return bytes([kind]) + mark + b"\x01x"

    low, high = entry(1, b"\0\0\0\1"), entry(1, b"\0\0\0\2")
    assert parcel.decode(b"\x01\0\x02" + low + high).bundle == b""
    for wrong in (high + low, low + low):
        with pytest.raises(FormatError, match="order"):
            parcel.decode(b"\x01\0\x02" + wrong)


def test_metadata_unfold_to_what_they_declare_and_no_further() -> None:
    """A megabyte of zeros in a few bytes: the declared size is checked before anything is unfolded."""
    for declared in (caps.MAX_BUNDLE_BYTES + 1, 10):
        section = bytearray()
        write_varint(section, declared)
        section += zstd.compress(bytes(caps.MAX_BUNDLE_BYTES + 1), b"")
        head = bytearray(b"\x01\0\x01\x04\0\0\0\x07")
        write_varint(head, len(section))
        with pytest.raises(FormatError):
            parcel.decode(bytes(head + section))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for attempt in (data, b"\x01" + data, SAMPLE[: len(data)] + data):
        try:
            parcel.decode(attempt)
        except FormatError:
            continue
