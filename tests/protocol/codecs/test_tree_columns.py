"""Encoding 7 gives trees back bit by bit, is small where trees are alike, and refuses damage politely."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from modelsync_protocol import codecs
from modelsync_protocol.codecs import zstd
from modelsync_protocol.errors import FormatError
from modelsync_protocol.tree_files.tree_columns import TreeColumns
from tests.support import boosted_files, tree_files

Maker = Callable[[int], bytes]
MAKERS: dict[str, Maker] = {
    "pickle": tree_files.pickled,
    "regression": lambda seed: tree_files.pickled(seed, 3, 1),
    "onnx": tree_files.onnx_model,
    "json": tree_files.booster,
    "ubjson": lambda seed: tree_files.booster(seed, binary=True),
    "lightgbm": boosted_files.light,
    "histogram": boosted_files.histogram,
    "tensors": boosted_files.tensor_ensemble,
    "wide tensors": lambda seed: boosted_files.tensor_ensemble(seed, wide=True),
}
KINDS = {"pickle": 1, "regression": 1, "onnx": 2, "json": 3, "ubjson": 3, "lightgbm": 4, "histogram": 5} | {
    "tensors": 2,
    "wide tensors": 2,
}
EVERY = pytest.mark.parametrize("kind", MAKERS)
CODEC = TreeColumns()


def encoded(target: bytes, base: bytes) -> bytes:
    payload = CODEC.encode_if(target, base, b"")
    assert payload is not None
    return payload


@EVERY
def test_trees_come_back_with_and_without_a_base(kind: str) -> None:
    old, new = MAKERS[kind](1), MAKERS[kind](2)
    for base in (b"", old, b"junk" + old[100:], new):
        payload = encoded(new, base)
        assert codecs.decode(codecs.TREE_COLUMNS, payload, len(new), base, b"", b"") == new


@EVERY
def test_trees_cut_anywhere_come_back(kind: str) -> None:
    old, new = MAKERS[kind](1), MAKERS[kind](2)
    for begin, end in ((0, len(new) - 900), (700, len(new)), (333, len(new) - 333)):
        part = new[begin:end]
        payload = CODEC.encode(part, old, b"")
        assert CODEC.decode(payload, len(part), old, b"", b"") == part


@EVERY
def test_it_is_smaller_than_a_patch(kind: str) -> None:
    old, new = MAKERS[kind](1), MAKERS[kind](2)
    assert len(encoded(new, old)) < 0.9 * len(zstd.compress(new, old))


@EVERY
def test_each_format_has_its_kind(kind: str) -> None:
    assert encoded(MAKERS[kind](2), MAKERS[kind](1))[0] == KINDS[kind]


def _grown(kind: str, seed: int, trees: int) -> bytes:
    if kind == "lightgbm":
        return boosted_files.light(seed, trees)
    return boosted_files.histogram(seed, trees, of=13)


@pytest.mark.parametrize("kind", ["lightgbm", "histogram"])
def test_a_booster_trained_further_pays_for_its_new_trees(kind: str) -> None:
    """The same seed makes the same first trees."""
    old, grown = _grown(kind, 5, 12), _grown(kind, 5, 13)
    alone = encoded(_grown(kind, 6, 1), b"")
    assert len(encoded(grown, old)) < len(alone) + 400
    assert len(encoded(old, old)) < 500


def test_a_grown_forest_pays_for_its_new_trees() -> None:
    old = tree_files.pickled(3, 12)
    grown = old[:-1] + tree_files.pickled(4, 1)[16:]
    alone = encoded(tree_files.pickled(4, 1), b"")
    assert len(encoded(grown, old)) < len(alone) + 400


@EVERY
def test_damage_is_refused_or_bounded(kind: str) -> None:
    old, new = MAKERS[kind](1), MAKERS[kind](2)
    payload = encoded(new, old)
    source = random.Random(1)
    for _ in range(10):
        damaged = bytearray(payload)
        damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
        try:
            assert len(CODEC.decode(bytes(damaged), len(new), old, b"", b"")) == len(new)
        except FormatError:
            continue


@EVERY
def test_a_truncated_payload_is_refused(kind: str) -> None:
    old, new = MAKERS[kind](1), MAKERS[kind](2)
    payload = encoded(new, old)
    for size in range(0, len(payload), max(1, len(payload) // 6)):
        with pytest.raises(FormatError):
            CODEC.decode(payload[:size], len(new), old, b"", b"")


def test_a_tree_whose_root_is_a_leaf_where_numbers_are_wanted_is_refused() -> None:
    hostile = bytes.fromhex(
        "040001010100000000000000000000000000000000000000000000000000000000000000000000000000000000000d0000450000"
        "1078780100930016000307ffc8ff0500c09f000000010000000100000001000000010000000100000001006fd45fe5b5e85e6c89"
        "e3efdb00c0"
    )
    with pytest.raises(FormatError):
        TreeColumns().decode(hostile, 64, b"", b"", b"")
