"""Every encoding keeps the port's contract: it gives back what it took, and refuses damage politely."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsync_protocol import caps, codecs
from modelsync_protocol.errors import FormatError

ENCODINGS = sorted(codecs.ENCODINGS)
EVERY = pytest.mark.parametrize("encoding", ENCODINGS)


def some_bytes(seed: int, size: int) -> bytes:
    source = random.Random(seed)
    parts = [source.randbytes(size // 3), bytes(size // 3), b"layer.weight" * (size // 36 + 1)]
    return b"".join(parts)[:size]


def decode_or_refuse(encoding: int, payload: bytes, length: int, base: bytes = b"", prefix: bytes = b"") -> None:
    try:
        data = codecs.decode(encoding, payload, length, base, prefix, b"")
    except FormatError:
        return
    assert len(data) == length


@EVERY
@given(
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.binary(max_size=60),
    st.lists(st.tuples(st.integers(0, 299), st.integers(0, 255)), max_size=8),
)
@settings(max_examples=25, deadline=None)
def test_what_is_encoded_is_decoded(
    encoding: int, target: bytes, base: bytes, prefix: bytes, edits: list[tuple[int, int]]
) -> None:
    edited = bytearray(base)
    for place, value in edits:
        if place < len(edited):
            edited[place] = value
    codec = codecs.ENCODINGS[encoding]
    for data in (target, bytes(edited), target + bytes(edited)):
        payload = codec.encode(data, base, prefix)
        assert codecs.decode(encoding, payload, len(data), base, prefix, b"") == data


@EVERY
@pytest.mark.parametrize("size", [0, 1, 7, 64, 5000, 70_000])
def test_sizes(encoding: int, size: int) -> None:
    target, base = some_bytes(1, size), some_bytes(1, size // 2) + some_bytes(2, 99)
    payload = codecs.ENCODINGS[encoding].encode(target, base, b"")
    assert codecs.decode(encoding, payload, size, base, b"", b"") == target


@EVERY
def test_the_same_input_gives_the_same_payload(encoding: int) -> None:
    target, base = some_bytes(3, 9000), some_bytes(4, 8000)
    codec = codecs.ENCODINGS[encoding]
    assert codec.encode(target, base, b"p") == codec.encode(target, base, b"p")


@EVERY
def test_a_truncated_payload_is_refused(encoding: int) -> None:
    target, base = some_bytes(5, 1500), some_bytes(6, 1500)
    payload = codecs.ENCODINGS[encoding].encode(target, base, b"")
    for size in range(0, len(payload), 3):
        with pytest.raises(FormatError):
            codecs.decode(encoding, payload[:size], len(target), base, b"", b"")


@EVERY
def test_trailing_bytes_are_refused(encoding: int) -> None:
    target, base = some_bytes(5, 1500), some_bytes(6, 1500)
    payload = codecs.ENCODINGS[encoding].encode(target, base, b"")
    with pytest.raises(FormatError):
        codecs.decode(encoding, payload + b"\0", len(target), base, b"", b"")


@EVERY
def test_a_wrong_length_or_base_never_breaks_the_decoder(encoding: int) -> None:
    target, base = some_bytes(7, 1500), some_bytes(7, 1400)
    payload = codecs.ENCODINGS[encoding].encode(target, base, b"prefix")
    for length in (0, 1, 1499, 1501, caps.MAX_FRAME_BYTES, caps.MAX_FRAME_BYTES + 1):
        decode_or_refuse(encoding, payload, length, base, b"prefix")
    for other in (b"", base[:700], base[::-1]):
        decode_or_refuse(encoding, payload, len(target), other, b"")


@EVERY
def test_flipped_bits_never_break_the_decoder(encoding: int) -> None:
    target, base = some_bytes(8, 900), some_bytes(8, 800) + b"tail"
    payload = codecs.ENCODINGS[encoding].encode(target, base, b"")
    source = random.Random(9)
    for _ in range(300):
        damaged = bytearray(payload)
        for _ in range(source.choice((1, 1, 2, 5))):
            damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
        decode_or_refuse(encoding, bytes(damaged), len(target), base)


@EVERY
@given(st.binary(max_size=200), st.integers(0, 4096), st.binary(max_size=64))
@settings(max_examples=150, deadline=None)
def test_garbage_never_breaks_the_decoder(encoding: int, garbage: bytes, length: int, base: bytes) -> None:
    decode_or_refuse(encoding, garbage, length, base)
