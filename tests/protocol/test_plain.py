"""Plain views: members unpack and pack again to the very bytes, ranges lie where they should, hostile fields end."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError
from modelsync_protocol.plain import recipes, reference, section
from modelsync_protocol.plain.recipes import Recipe, Wrapping
from modelsync_protocol.plain.section import Views
from modelsync_protocol.plain.view import Member, View
from modelsync_protocol.wire import Reader

PLAIN = reference.vector() + bytes(range(256)) * 50
RECIPES = (
    recipes.STORED,
    Recipe(Wrapping.STORED, shuffle=4),
    Recipe(Wrapping.RAW),
    Recipe(Wrapping.RAW, 1, flushed=True),
    Recipe(Wrapping.ZLIB, 9, memory_level=9, shuffle=2),
    Recipe(Wrapping.ZLIB, 3, window_bits=12, strategy=1),
)


def packed(recipe: Recipe, plain: bytes = PLAIN) -> bytes:
    return b"".join(recipes.compressed(recipe, recipes.blocks(plain)))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", [1000, recipes.BLOCK_BYTES, 1 << 24])
def test_a_member_unpacks_from_pieces_of_any_size(recipe: Recipe, size: int) -> None:
    found = list(recipes.unpack(recipe, pieces(packed(recipe), size), len(PLAIN)))
    assert b"".join(found) == PLAIN
    if recipe.shuffle == 1:
        assert max(map(len, found)) <= max(size, recipes.BLOCK_BYTES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_member_packs_to_as_many_bytes_as_are_declared(recipe: Recipe) -> None:
    whole = packed(recipe)
    for size in (len(whole), len(whole) - 5, 1):
        assert b"".join(recipes.pack(recipe, recipes.blocks(PLAIN), size)) == whole[:size]
    with pytest.raises(FormatError):
        list(recipes.pack(recipe, recipes.blocks(PLAIN), len(whole) + 1))


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.wrapping != Wrapping.STORED])
def test_a_member_of_other_length_or_damaged_is_refused_and_gives_no_more_than_it_may(recipe: Recipe) -> None:
    whole = packed(recipe)
    for data, length in (
        (whole, len(PLAIN) - 1),
        (whole, len(PLAIN) + 1),
        (whole[:-40], len(PLAIN)),
        (b"\xff" * 99, 99),
    ):
        given = 0
        with pytest.raises(FormatError):
            for piece in recipes.unpack(recipe, pieces(data, 5000), length):
                given += len(piece)
        assert given <= length + 1


def test_recipes_say_the_same_on_every_machine() -> None:
    assert reference.is_reference(), f"zlib {zlib.ZLIB_RUNTIME_VERSION} of this Python compresses otherwise"


def _views() -> Views:
    inner = Recipe(Wrapping.ZLIB, 9)
    return Views(
        View(1000, [Member(700, 100, 300, inner), Member(10, 20, 20, recipes.STORED)]),
        View(2000, [Member(0, 50, 90, Recipe(Wrapping.RAW)), Member(50, 10, 30, inner), Member(1990, 10, 77, inner)]),
    )


def test_a_range_of_a_view_lies_where_it_should() -> None:
    for view in (_views().base, _views().target, View(5, ()), View(7, [Member(0, 7, 9, Recipe(Wrapping.RAW))])):
        stream = [("s", at) for at in range(view.stream_size)]
        inside = {at for m in view.members for at in range(m.offset, m.offset + m.packed)}
        wanted = [byte for at, byte in enumerate(stream) if at not in inside]
        wanted += [("p", at) for at in range(view.plain_bytes)]
        assert len(wanted) == view.size
        chance = random.Random(1)
        for _ in range(200):
            begin = chance.randrange(view.size)
            length = chance.randrange(1, view.size - begin + 1)
            found = [
                ("s" if piece.member is None else "p", piece.offset + at)
                for piece in view.pieces(begin, length)
                for at in range(piece.length)
            ]
            assert found == wanted[begin : begin + length]


def test_views_come_back_from_their_bytes() -> None:
    views = _views()
    others = (Views(views.base, View(2000, ())), Views(View(1000, ()), views.target), Views.streams(1000, 2000))
    for one in (views, *others):
        out = bytearray()
        section.write(out, one)
        reader = Reader(bytes(out), "views")
        found = section.read(reader, 1000, 2000)
        reader.end()
        assert found is not None
        assert (found.base.members, found.target.members) == (one.base.members, one.target.members)
        for cut in range(len(out)):
            with pytest.raises(FormatError):
                section.read(Reader(bytes(out[:cut]), "views"), 1000, 2000)
    nothing = bytearray()
    section.write(nothing, None)
    assert bytes(nothing) == b"\0" and section.read(Reader(bytes(nothing), "views"), 5, 5) is None


def test_members_that_overlap_or_claim_too_much_are_refused() -> None:
    member = Member(10, 20, 400, Recipe(Wrapping.RAW))
    with pytest.raises(FormatError):
        View(100, [member, replace(member, offset=29)])
    with pytest.raises(FormatError):
        View(29, [member])
    with pytest.raises(FormatError):
        replace(member, plain=20 * 1100 + 1)
    with pytest.raises(FormatError):
        Member(0, 99, 100, recipes.STORED)
    with pytest.raises(FormatError):
        Member(0, caps.MIB, caps.MAX_SHUFFLED_BYTES + 1, Recipe(Wrapping.RAW, shuffle=4))


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_shuffling_is_undone(width: int) -> None:
    for size in (0, 1, 7, 64, 1001):
        data = PLAIN[:size]
        assert recipes.unshuffled(recipes.shuffled(data, width), width) == data
