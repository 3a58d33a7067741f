"""Encodings 1 and 2: exact, of one form, within the payload's cap for the worst chunk there is."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsync_protocol import caps, codecs
from modelsync_protocol.errors import FormatError

DATA = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.binary(min_size=1, max_size=9), st.integers(0, 3000)).map(lambda drawn: drawn[0] * drawn[1]),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([codecs.ZSTD, codecs.ZSTD_PATCH]), DATA, DATA, DATA)
def test_a_frame_is_decoded_exactly_and_carries_no_header_fields(
    encoding: int, target: bytes, base: bytes, prefix: bytes
) -> None:
    payload = codecs.ENCODINGS[encoding].encode(target, base, prefix)
    assert payload[0] == 0, "no content size, no checksum, no dictionary id"
    assert codecs.decode(encoding, payload, len(target), base, prefix, b"") == target
    for wrong in (payload[:-1], payload + b"\0"):
        with pytest.raises(FormatError):
            codecs.decode(encoding, wrong, len(target), base, prefix, b"")


def test_a_chunk_that_does_not_compress_fits_into_a_payload() -> None:
    noise = np.random.default_rng(1).bytes(caps.TENSOR_CHUNK_BYTES)
    for encoding in (codecs.ZSTD, codecs.ZSTD_PATCH):
        payload = codecs.ENCODINGS[encoding].encode(noise, b"base", b"prefix")
        assert caps.TENSOR_CHUNK_BYTES < len(payload) <= caps.MAX_PAYLOAD_BYTES


def test_what_is_in_the_base_or_before_the_frame_costs_next_to_nothing() -> None:
    noise = np.random.default_rng(2).bytes(150_000)
    patch = codecs.ENCODINGS[codecs.ZSTD_PATCH]
    assert len(patch.encode(noise[:100_000], noise, b"")) < 50
    assert len(patch.encode(noise[:100_000], b"", noise)) < 50
    payload = patch.encode(noise, noise[:70_000], noise[70_000:])
    assert len(payload) < 60
    assert patch.decode(payload, len(noise), noise[:70_000], noise[70_000:], b"") == noise


def test_another_base_gives_no_error_but_other_bytes_that_the_digest_shows() -> None:
    """zstd has no checksum here: chunk digests are the proof, as FORMAT.md says."""
    noise = np.random.default_rng(3).bytes(5_000)
    patch = codecs.ENCODINGS[codecs.ZSTD_PATCH]
    payload = patch.encode(noise, noise, b"")
    with suppress(FormatError):
        assert patch.decode(payload, len(noise), bytes(len(noise)), b"", b"") != noise


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(FormatError, match="encoding 99 is not known here; update this program"):
        codecs.decode(99, b"", 1, b"", b"", b"")
