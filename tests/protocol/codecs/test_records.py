"""Encoding 10 gives back any layout of records, and refuses runs beyond frame or base; encoding 11 is what it says."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelsync_protocol import codecs
from modelsync_protocol.codecs.records import FROM_BASE, FROM_ROOT, Field, Run, write
from modelsync_protocol.errors import FormatError
from modelsync_protocol.ops import Copy, Frame, Op, read_ops, write_ops
from modelsync_protocol.plain.view import View
from modelsync_protocol.wire import Reader

_FIELDS = st.lists(st.builds(Field, st.sampled_from((1, 2, 4, 8)), st.integers(0, 2)), min_size=1, max_size=6)


@given(st.lists(st.tuples(_FIELDS, st.integers(1, 40), st.integers(0, 50)), max_size=4), st.integers(0, 1 << 30))
@settings(max_examples=120, deadline=None)
def test_any_layout_comes_back(layouts: list[tuple[list[Field], int, int]], seed: int) -> None:
    chance = random.Random(seed)
    runs, position = [], 0
    for fields, count, gap in layouts:
        run = Run(position + gap, count, chance.randrange(300), tuple(fields))
        runs.append(run)
        position = run.end
    target = chance.randbytes(position + chance.randrange(9))
    base = chance.randbytes(300 + max((run.end - run.begin for run in runs), default=0))
    payload = write(runs, target, base, b"prefix")
    assert codecs.decode(codecs.RECORDS, payload, len(target), base, b"prefix", b"") == target


def test_planes_of_noise_do_not_spoil_those_of_few_values() -> None:
    """In one block they would share a Huffman table: then both cost more than they must."""
    chance = random.Random(4)
    old = [chance.getrandbits(30) for _ in range(800)]
    base = b"".join(b"=" + value.to_bytes(4, "little") for value in old)
    new = b"".join(b"=" + (value + chance.getrandbits(18)).to_bytes(4, "little") for value in old)
    payload = write([Run(0, 800, 0, (Field(1, FROM_BASE), Field(4, FROM_BASE)))], new, base, b"")
    assert codecs.decode(codecs.RECORDS, payload, len(new), base, b"", b"") == new
    assert len(payload) < 800 * 18 / 8 * 1.03 + 30
    assert len(payload) < len(codecs.ENCODINGS[codecs.SUBTRACT].encode(new, base, b"")) - 150


@pytest.mark.parametrize("width", [4, 8])
def test_roots_of_what_stands_in_the_prefix(width: int) -> None:
    """Nearly nothing where they are equal; zeros that a scaler replaces, negative numbers and NaN come back too."""
    squares = np.abs(np.random.default_rng(3).normal(size=200)).astype(f"<f{width}")
    squares[:5] = [0, -1, np.nan, np.inf, 5e-324 if width == 8 else 1e-45]
    with np.errstate(invalid="ignore"):
        target = np.sqrt(squares)
    target[0] = 1
    prefix = b"lead" + squares.tobytes() + b"between"
    run = Run(0, 200, len(prefix) - 4, (Field(width, FROM_ROOT),))
    payload = write([run], target.tobytes(), b"", prefix)
    assert codecs.decode(codecs.RECORDS, payload, target.nbytes, b"", prefix, b"") == target.tobytes()
    assert len(payload) < 90
    with pytest.raises(FormatError):
        codecs.decode(codecs.RECORDS, payload, target.nbytes, b"", prefix[-200:], b"")


@pytest.mark.parametrize(
    "run",
    [
        Run(0, 0, 0, (Field(4, FROM_BASE),)),
        Run(0, 5, 0, ()),
        Run(0, 7, 0, (Field(4, 0),)),
        Run(0, 5, 21, (Field(4, FROM_BASE),)),
        Run(0, 5, 0, (Field(4, 4),)),
        Run(0, 2, 0, (Field(4, 3), Field(4, 0))),
    ],
    ids=["no records", "no fields", "beyond the frame", "beyond the base", "unknown relation", "roots beside others"],
)
def test_runs_that_can_not_be_are_refused(run: Run) -> None:
    target, base = bytes(20), bytes(40)
    payload = write([run], target + bytes(8), base + bytes(8), b"")
    with pytest.raises(FormatError):
        codecs.decode(codecs.RECORDS, payload, len(target), base, b"", b"")


def test_a_stored_frame_says_nothing_but_its_length() -> None:
    out = bytearray()
    operations: list[Op] = [Copy(9, 0), Frame(4, codecs.STORED, 4), Copy(7, 13)]
    write_ops(out, operations)
    assert bytes(out) == bytes((3, 0, 9, 0, codecs.STORED, 4, 0, 7, 8))
    target = View(20, ())
    assert read_ops(Reader(bytes(out), "operations"), target=target, base_size=20, version=2) == operations
    with pytest.raises(FormatError, match="update this program"):
        read_ops(Reader(bytes(out), "operations"), target=target, base_size=20, version=1)
