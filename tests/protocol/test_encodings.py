"""Every encoding, fed with anything: exactly the declared length or FormatError, whatever the tables say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsync_protocol import codecs
from modelsync_protocol.errors import FormatError

LEAN = st.one_of(st.just(b""), st.binary(max_size=40), st.integers(0, 400).map(bytes))


@pytest.mark.parametrize("encoding", sorted(codecs.ENCODINGS))
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 600), LEAN, LEAN, st.one_of(st.just(b""), st.binary(max_size=60)))
def test_arbitrary_payloads_give_the_length_or_a_format_error(
    encoding: int, payload: bytes, length: int, base: bytes, prefix: bytes, tables: bytes
) -> None:
    try:
        data = codecs.decode(encoding, payload, length, base, prefix, tables)
    except FormatError:
        return
    assert len(data) == length and isinstance(data, bytes)
