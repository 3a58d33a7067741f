"""The trust bundle's format (FORMAT.md §bundle): exact, small, and safe to read from a stranger."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelsync_protocol import bundle, caps
from modelsync_protocol.bundle import Bundle
from modelsync_protocol.codecs import zstd
from modelsync_protocol.errors import FormatError

KEYID, SIG = "ab" * 32, "0123456789abcdef" * 8


def document(kind: str, **signed: object) -> bytes:
    """Metadata as python-tuf writes it, compact."""
    body = {"signatures": [{"keyid": KEYID, "sig": SIG}], "signed": {"_type": kind, "version": 7, **signed}}
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


SAMPLE = Bundle(
    root_version=2,
    targets_version=300,
    timestamp=document("timestamp"),
    snapshot=document("snapshot", meta={"anomaly.json": {"version": 1}}),
    role=document("targets", targets={"anomaly/1": {"hashes": {"sha256": "cd" * 32}, "length": 9}}),
    offers=b"\x00\x01\x02\n offers",
)

GOLDEN = bytes.fromhex(
    "0102ac020b0001020a206f666665727303ababababababababababababababababababababababababababababababab"
    "ab0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdefcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
    "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcde5020000d50100987b02213702210221616e6f6d616c792f31397d0d0016d3"
    "e17c85a0c0c068d1c0bc70800043c1d07e23da0dc00c4ea03c9771616571a4422e36"
)
"""SAMPLE as format 1 was first written; never changes."""


def test_a_bundle_is_read_back_exactly() -> None:
    assert bundle.decode(bundle.encode(SAMPLE)) == SAMPLE


def test_the_golden_vector_of_format_1_is_still_read() -> None:
    assert bundle.decode(GOLDEN) == SAMPLE


def test_the_dictionaries_never_change() -> None:
    assert (len(bundle._OWN_DICTIONARY), zlib.crc32(bundle._OWN_DICTIONARY)) == (762, 1901247086)
    assert (len(bundle._DICTIONARY), zlib.crc32(bundle._DICTIONARY)) == (731, 4142594617)


def test_a_value_that_repeats_is_carried_once() -> None:
    """The key id stands in all three documents, the signature three times: 32 + 64 + 32 bytes of values."""
    data = bundle.encode(SAMPLE)
    assert data.count(bytes.fromhex(KEYID)) == 1
    assert len(data) < 32 + 64 + 32 + len(SAMPLE.offers) + 120


def test_every_truncation_is_refused() -> None:
    for cut in range(len(GOLDEN)):
        with pytest.raises(FormatError):
            bundle.decode(GOLDEN[:cut])


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(FormatError):
        bundle.decode(GOLDEN + b"\0")


def test_another_format_is_named() -> None:
    with pytest.raises(FormatError, match="format 3"):
        bundle.decode(b"\x03" + GOLDEN[1:])


def test_more_than_the_cap_is_refused_unread() -> None:
    with pytest.raises(FormatError, match="limit"):
        bundle.decode(b"\x01" * (caps.MAX_BUNDLE_BYTES + 1))


def test_what_unfolds_beyond_the_cap_is_refused_before_it_is_built() -> None:
    text = b"\x02 " * 60_000
    data = bytes([1, 1, 1, 0, 1]) + b"\xaa" * 32 + _varint(len(text)) + zstd.compress(text, bundle._DICTIONARY)
    assert len(data) < 1000
    with pytest.raises(FormatError, match="larger than allowed"):
        bundle.decode(data)


@pytest.mark.parametrize("text", [b"\x01\n\n", b"\x02!\n\n", b"\x02\xff\n\n", b"\n\n"])
def test_values_that_are_missing_or_left_over_are_refused(text: bytes) -> None:
    values = 1 if text != b"\x01\n\n" else 0
    data = bytes([1, 1, 1, 0, values]) + b"\xaa" * 32 * values
    with pytest.raises(FormatError):
        bundle.decode(data + _varint(len(text)) + zstd.compress(text, bundle._DICTIONARY))


def test_metadata_that_is_not_compact_json_is_not_written() -> None:
    for odd in (b'{\n "a":1}', b'{"a":"\x01"}'):
        with pytest.raises(ValueError, match="compact"):
            bundle.encode(Bundle(1, 1, odd, b"{}", b"{}"))


def test_more_values_than_marks_can_name_are_carried_again() -> None:
    digests = {f"v{number}": f"{number:064x}" for number in range(400)}
    role = document("targets", a=digests, b=digests)
    written = Bundle(1, 1, SAMPLE.timestamp, SAMPLE.snapshot, role)
    assert bundle.decode(bundle.encode(written)) == written


@given(st.binary(max_size=400))
def test_noise_is_refused_or_is_a_bundle(noise: bytes) -> None:
    for data in (noise, b"\x01" + noise, GOLDEN[: len(noise)] + noise):
        try:
            bundle.decode(data)
        except FormatError:
            continue


@given(st.integers(0, len(GOLDEN) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_raises_anything_else(place: int, flip: int) -> None:
    damaged = bytearray(GOLDEN)
    damaged[place] ^= flip
    try:
        bundle.decode(bytes(damaged))
    except FormatError:
        return


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])
