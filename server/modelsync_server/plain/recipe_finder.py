"""Looks for the recipe that makes a member's very bytes of its plain ones. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from modelsync_protocol import caps
from modelsync_protocol.plain import recipes
from modelsync_protocol.plain.recipes import Recipe, Wrapping

_LEVELS = (6, 9, 1, 3, 4, 5, 2, 7, 8)
_BY_HEADER = ((1,), (5, 4, 3, 2), (6,), (9, 8, 7))
"""Levels by the two bits that a zlib header has for them."""

_TAIL_BYTES = 64
"""A writer that flushed before it closed leaves so few bytes behind what the recipe gives."""

_WORTH_A_FLUSH = 0.5
"""A recipe that gives this share and no more is tried with a flush before its end: that changes the last block."""

_HEADER_BYTES, _TRAILER_BYTES = 2, 4


@dataclass(frozen=True, slots=True)
class Replay:
    """A recipe that gives `packed` bytes from `skip` bytes behind the member's start on."""

    recipe: Recipe
    skip: int
    packed: int


def replay(
    packed: memoryview, plain: memoryview, wrapping: Wrapping, shuffle: int, hint: Recipe | None
) -> Replay | None:
    """The recipe by which `plain` gives `packed`, but for a few bytes at its end; None if there is none.

    `hint` is tried first: the members of a file mostly have one writer.
    """
    if shuffle > 1 and len(plain) > caps.MAX_SHUFFLED_BYTES:
        return None
    if wrapping == Wrapping.STORED:
        return Replay(Recipe(wrapping, shuffle=shuffle), 0, len(packed))
    tried: set[Recipe] = set()
    for recipe in _candidates(packed, wrapping, shuffle, hint):
        if recipe not in tried:
            tried.add(recipe)
            skip = _HEADER_BYTES if recipe.wrapping != wrapping else 0
            wanted = packed[skip : len(packed) - (_TRAILER_BYTES if skip else 0)]
            same = _common(recipe, plain, wanted)
            if same < _least(len(wanted)) and same >= _WORTH_A_FLUSH * len(wanted):
                recipe = replace(recipe, flushed=True)
                same = _common(recipe, plain, wanted)
            if same >= _least(len(wanted)):
                return Replay(recipe, skip, same)
    return None


def _least(wanted: int) -> int:
    """So many bytes of a member must come out right."""
    return max(wanted - _TAIL_BYTES, wanted * 7 // 8, 1)


def _candidates(packed: memoryview, wrapping: Wrapping, shuffle: int, hint: Recipe | None) -> Iterator[Recipe]:
    base = Recipe(wrapping, shuffle=shuffle)
    levels: tuple[int, ...] = _LEVELS
    if wrapping == Wrapping.ZLIB:
        base = replace(base, window_bits=max(9, (packed[0] >> 4) + 8))
        levels = _BY_HEADER[packed[1] >> 6]
    if hint is not None and hint.wrapping in (wrapping, Wrapping.RAW):
        yield replace(hint, shuffle=shuffle)
    wrappings = [base] if wrapping == Wrapping.RAW else [base, replace(base, wrapping=Wrapping.RAW)]
    for form in wrappings:
        for memory_level in (8, 9):
            for level in levels if form is base else _LEVELS:
                yield replace(form, level=level, memory_level=memory_level)
    for strategy in (1, 2, 3, 4):
        yield replace(base, strategy=strategy, level=levels[0])


def _common(recipe: Recipe, plain: memoryview, packed: memoryview) -> int:
    """How many of the first bytes of `packed` the recipe gives."""
    done = 0
    for piece in recipes.compressed(recipe, recipes.blocks(plain)):
        wanted = bytes(packed[done : done + len(piece)])
        if piece != wanted:
            return done + _same(piece, wanted)
        done += len(piece)
    return done


def _same(one: bytes, other: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
