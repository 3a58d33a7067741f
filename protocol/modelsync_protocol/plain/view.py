"""The plain view of a stream: its bytes outside of all members, then each member's plain bytes. No I/O here.

stream  = rest ‖ member ‖ rest ‖ member ‖ rest        (members packed, as the files have them)
view    = rest ‖ rest ‖ rest ‖ plain ‖ plain          (members in the view's own order)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError
from modelsync_protocol.plain import recipes
from modelsync_protocol.plain.recipes import Recipe
from modelsync_protocol.wire import Reader, write_signed, write_varint

_MAX_RECIPES = 256


@dataclass(frozen=True, slots=True)
class Member:
    """`packed` bytes from `offset` of a stream on, which stand for `plain` bytes by `recipe`."""

    offset: int
    packed: int
    plain: int
    recipe: Recipe

    def __post_init__(self) -> None:
        if not (0 < self.packed <= caps.MAX_ARTIFACT_BYTES and 0 < self.plain <= caps.MAX_ARTIFACT_BYTES):
            raise FormatError("a member is empty, or larger than an artifact may be.")
        if not self.recipe.fits(self.packed, self.plain):
            raise FormatError("a member has sizes that its recipe does not give.")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a range of the view: `length` bytes from `offset` of the stream on, or (`member` given) from `offset`
    of all members' plain bytes in the view's order on."""

    offset: int
    length: int
    member: int | None = None


class View:
    """The view of a stream of `size` bytes; raises FormatError if members overlap or lie outside of it."""

    def __init__(self, size: int, members: Sequence[Member]) -> None:
        self.stream_size = size
        self.members = tuple(members)
        ordered = sorted(self.members, key=lambda member: member.offset)
        self._starts = [0]
        """Where each stretch of rest begins in the stream, and (below) in the view."""
        self._places = [0]
        position = 0
        for member in ordered:
            if member.offset < position:
                raise FormatError("two members overlap.")
            self._places.append(self._places[-1] + member.offset - position)
            position = member.offset + member.packed
            self._starts.append(position)
        if position > size:
            raise FormatError("a member reaches beyond its stream.")
        self.rest_bytes = self._places[-1] + size - position
        self.member_places = (0, *accumulate(member.plain for member in self.members))
        """Where each member's plain bytes begin among those of all members, and their end."""
        if self.size > caps.MAX_ARTIFACT_BYTES:
            raise FormatError("a plain view is larger than an artifact may be.")

    @property
    def plain_bytes(self) -> int:
        """Plain bytes of all members."""
        return self.member_places[-1]

    @property
    def size(self) -> int:
        """Bytes of the view."""
        return self.rest_bytes + self.plain_bytes

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """Yield where a range of the view lies, in order."""
        while length > 0:
            if offset < self.rest_bytes:
                number = bisect_right(self._places, offset) - 1
                inside = offset - self._places[number]
                end = self._places[number + 1] if number + 1 < len(self._places) else self.rest_bytes
                count = min(length, end - offset)
                yield Piece(self._starts[number] + inside, count)
            else:
                place = offset - self.rest_bytes
                number = bisect_right(self.member_places, place) - 1
                count = min(length, self.member_places[number + 1] - place)
                yield Piece(place, count, number)
            offset += count
            length -= count


def write(out: bytearray, view: View) -> None:
    """Append a view (FORMAT.md §plain view)."""
    known = list(dict.fromkeys(member.recipe for member in view.members))
    write_varint(out, len(known))
    for recipe in known:
        recipes.write(out, recipe)
    numbers = {recipe: number for number, recipe in enumerate(known)}
    write_varint(out, len(view.members))
    for field in _columns(view, numbers):
        out += field


def _columns(view: View, numbers: dict[Recipe, int]) -> tuple[bytes, ...]:
    """Recipes, gaps, packed and plain sizes of all members, each kind together: alike bytes compress better."""
    columns = tuple(bytearray() for _ in range(4))
    position = 0
    for member in view.members:
        write_varint(columns[0], numbers[member.recipe])
        write_signed(columns[1], member.offset - position)
        write_varint(columns[2], member.packed)
        write_varint(columns[3], member.plain)
        position = member.offset + member.packed
    return tuple(bytes(column) for column in columns)


def read(reader: Reader, stream_size: int) -> View:
    """Read the view of a stream of `stream_size` bytes; raise FormatError on anything odd."""
    known = [recipes.read(reader) for _ in range(reader.varint(_MAX_RECIPES))]
    count = reader.varint(caps.MAX_MEMBERS)
    if count and not known:
        raise FormatError("a plain view has members and no recipes.")
    kinds = [reader.varint(len(known) - 1) for _ in range(count)]
    gaps = [reader.signed(stream_size) for _ in range(count)]
    packed = [reader.varint(stream_size) for _ in range(count)]
    plain = [reader.varint(caps.MAX_ARTIFACT_BYTES) for _ in range(count)]
    members = []
    position = 0
    for kind, gap, size, unpacked in zip(kinds, gaps, packed, plain, strict=True):
        if position + gap < 0:
            raise FormatError("a member begins before its stream.")
        members.append(Member(position + gap, size, unpacked, known[kind]))
        position += gap + size
    return View(stream_size, members)
