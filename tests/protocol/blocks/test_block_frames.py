"""Payloads of encoding 9: damaged ones are refused or bounded, and heads claim nothing beyond the frame."""

from __future__ import annotations

from typing import Any

import pytest

from modelsync_protocol import codecs
from modelsync_protocol.blocks import runs
from modelsync_protocol.blocks.layouts import BY_NAME
from modelsync_protocol.blocks.runs import MAX_QUANTS, Run
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_signed, write_varint
from tests.protocol.golden import check
from tests.support.block_pairs import KINDS

VECTORS = [vector for vector in check.frames() if vector["encoding"] == codecs.BLOCKS]
EVERY = pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])


def decoded(vector: dict[str, Any], payload: bytes, base: bytes | None = None) -> bytes:
    lean = check.part(vector, "base") if base is None else base
    return bytes(codecs.decode(codecs.BLOCKS, payload, vector["length"], lean, b"", check.part(vector, "tables")))


def test_each_type_has_vectors_on_a_base_and_alone() -> None:
    names = " ".join(vector["name"] for vector in VECTORS)
    for kind in (*KINDS, "nibbles"):
        assert f"{kind}" in names
    for kind in KINDS:
        assert all(f"{what}-{kind}" in names for what in ("tuned", "alone", "hostile", "hostile-alone"))


@EVERY
def test_damage_is_refused_or_bounded(vector: dict[str, Any]) -> None:
    """A few places of each; `make test-arm-decode` damages more of them."""
    whole = check.part(vector, "payload"), check.part(vector, "tables")
    for damaged, count in ((0, 7), (1, 3)):
        for place in range(damaged, len(whole[damaged]), max(1, len(whole[damaged]) // count)):
            parts = [bytearray(data) for data in whole]
            parts[damaged][place] ^= 1 << (place % 8)
            payload, tables = map(bytes, parts)
            try:
                made = codecs.decode(codecs.BLOCKS, payload, vector["length"], check.part(vector, "base"), b"", tables)
            except FormatError:
                continue
            assert len(made) == vector["length"]


@EVERY
def test_a_truncated_or_longer_payload_is_refused(vector: dict[str, Any]) -> None:
    payload = check.part(vector, "payload")
    for size in range(0, len(payload), max(1, len(payload) // 7)):
        with pytest.raises(FormatError):
            decoded(vector, payload[:size])
    with pytest.raises(FormatError):
        decoded(vector, payload + b"\0")


@EVERY
def test_another_base_is_refused_or_gives_other_bytes_of_the_length(vector: dict[str, Any]) -> None:
    base = check.part(vector, "base")
    for other in (b"", base[: len(base) // 2], base[::-1]):
        try:
            assert len(decoded(vector, check.part(vector, "payload"), other)) == vector["length"]
        except FormatError:
            continue


def head(*fields: tuple[int, int, int, int, int, int | None]) -> Reader:
    """Runs of (type, flags, group, gap, blocks, base offset − C)."""
    out = bytearray()
    write_varint(out, len(fields))
    for code, flags, group, gap, blocks, offset in fields:
        out += bytes((code, flags, group))
        write_varint(out, gap)
        write_varint(out, blocks)
        if offset is not None:
            write_signed(out, offset)
    return Reader(bytes(out), "a head")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ([(2, 1, 0, 0, 3, -1)], "beyond the base"),
        ([(2, 1, 0, 0, 3, 1_000)], "beyond the base"),
        ([(2, 1, 0, 0, 0, 0)], "empty"),
        ([(99, 0, 0, 0, 1, None)], "not known"),
        ([(2, 2, 0, 0, 1, 0)], "not known"),
        ([(2, 1, 28, 0, 1, 0)], "tables"),
        ([(2, 0, 32, 0, 1, None)], "tables"),
        ([(2, 0, 0, 901, 1, None)], "number 901"),
        ([(2, 0, 0, 0, 51, None)], "number 51"),
        ([(2, 0, 0, 0, 40, None), (2, 0, 0, 0, 11, None)], "number 11"),
    ],
)
def test_runs_lie_in_the_frame_and_its_base(fields: list[Any], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        runs.read(head(*fields), 900, 900)


def test_too_many_quants_are_refused_before_they_take_memory() -> None:
    blocks = MAX_QUANTS // 256 + 1
    with pytest.raises(FormatError, match="too many quants"):
        runs.read(head((10, 0, 0, 0, blocks, None)), blocks * 84, 0)
    with pytest.raises(FormatError):
        runs.read(head(*[(2, 0, 0, 0, 1, None)] * (runs.MAX_RUNS + 1)), 1 << 20, 0)


def test_scales_of_more_bits_than_they_have_are_refused() -> None:
    layout = BY_NAME["q4_K"]
    run = Run(layout, 0, 2, None, 0)
    rest = bytes(8) + bytes([63] * 31 + [64])
    with pytest.raises(FormatError, match="more bits"):
        runs.planes_of_rest(run, rest, 0, 0, 2)
    assert len(runs.planes_of_rest(run, rest, 0, 0, 1)) == 3


def test_what_is_written_is_read() -> None:
    made = [Run(BY_NAME["q4_0"], 7, 10, 300, 3), Run(BY_NAME["q6_K"], 190, 2, None, 8)]
    made.append(Run(BY_NAME["u4"], 900, 64, 5, 31))
    assert runs.read(Reader(runs.write(made), "a head"), 1000, 600) == made
