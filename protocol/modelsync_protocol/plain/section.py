"""The views that an update's operations run between: the field of its header that says them. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass

from modelsync_protocol.errors import FormatError
from modelsync_protocol.plain import view
from modelsync_protocol.plain.recipes import Wrapping
from modelsync_protocol.plain.view import View
from modelsync_protocol.wire import Reader

_BASE, _TARGET = 1, 2


@dataclass(frozen=True, slots=True)
class Views:
    """The plain views of an update's base and target; a view without members is the stream itself."""

    base: View
    target: View

    @property
    def packs(self) -> bool:
        """Whether the target is made by compressing again, which takes the reference's zlib."""
        return any(member.recipe.wrapping != Wrapping.STORED for member in self.target.members)


def write(out: bytearray, views: Views | None) -> None:
    """Append the field (FORMAT.md §plain views); None: operations run between the streams."""
    if views is None:
        out.append(0)
        return
    out.append(_BASE * bool(views.base.members) | _TARGET * bool(views.target.members))
    for one in (views.base, views.target):
        if one.members:
            view.write(out, one)


def read(reader: Reader, base_size: int, target_size: int) -> Views | None:
    """Read the field, given the sizes of both streams (bytes); raise FormatError on anything odd."""
    flags = reader.take(1)[0]
    if flags > _BASE | _TARGET:
        raise FormatError("an update has plain views of an unknown kind; update this program.")
    if flags == 0:
        return None
    base = view.read(reader, base_size) if flags & _BASE else View(base_size, ())
    target = view.read(reader, target_size) if flags & _TARGET else View(target_size, ())
    if not (base.members or target.members):
        raise FormatError("an update has plain views without members.")
    return Views(base, target)
