"""The views that an update's operations run between: the field of its header that says them. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass

from modelsync_protocol.errors import FormatError
from modelsync_protocol.plain import view
from modelsync_protocol.plain.recipes import Wrapping
from modelsync_protocol.plain.view import View
from modelsync_protocol.wire import Reader

_BASE, _TARGET, _ANYWHERE = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Views:
    """The plain views of an update's base and target; a view without members is the stream itself.

    With no member in either, all that they say is that operations may end inside of chunks.
    """

    base: View
    target: View

    @classmethod
    def streams(cls, base_size: int, target_size: int) -> Views:
        """Base and target as they are, of so many bytes; operations may end anywhere."""
        return cls(View(base_size, ()), View(target_size, ()))

    @property
    def members(self) -> bool:
        """Whether there is a member in either, so that views and streams differ."""
        return bool(self.base.members or self.target.members)

    @property
    def packs(self) -> bool:
        """Whether the target is made by compressing again, which takes the reference's zlib."""
        return any(member.recipe.wrapping != Wrapping.STORED for member in self.target.members)


def write(out: bytearray, views: Views | None) -> None:
    """Append the field (FORMAT.md §plain views); None: operations run between the streams."""
    if views is None:
        out.append(0)
        return
    out.append((_BASE * bool(views.base.members) | _TARGET * bool(views.target.members)) or _ANYWHERE)
    for one in (views.base, views.target):
        if one.members:
            view.write(out, one)


def read(reader: Reader, base_size: int, target_size: int) -> Views | None:
    """Read the field, given the sizes of both streams (bytes); raise FormatError on anything odd."""
    flags = reader.take(1)[0]
    if flags > _ANYWHERE:
        raise FormatError("an update has plain views of an unknown kind; update this program.")
    if flags == 0:
        return None
    if flags == _ANYWHERE:
        return Views.streams(base_size, target_size)
    base = view.read(reader, base_size) if flags & _BASE else View(base_size, ())
    target = view.read(reader, target_size) if flags & _TARGET else View(target_size, ())
    found = Views(base, target)
    if not found.members:
        raise FormatError("an update has plain views without members.")
    return found
