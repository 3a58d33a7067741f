"""Goes between streams and their plain views as a device does: unpacks a base's members, packs a target's again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modelsync_protocol.plain import recipes
from modelsync_protocol.plain.view import View
from modelsync_server.scratch.mapped_file import mapped
from modelsync_server.scratch.places import temporary_folder


@contextmanager
def view_of(view: View, stream: memoryview) -> Iterator[memoryview]:
    """Yield the bytes of the view of `stream`, in a temporary file; FormatError if a member does not unpack."""
    with scratch(view.size) as area:
        position = 0
        for piece in view.pieces(0, view.rest_bytes):
            area[position : position + piece.length] = stream[piece.offset : piece.offset + piece.length]
            position += piece.length
        for member in view.members:
            packed = recipes.blocks(stream[member.offset : member.offset + member.packed])
            for block in recipes.unpack(member.recipe, packed, member.plain):
                area[position : position + len(block)] = block
                position += len(block)
        yield area


@contextmanager
def stream_of(view: View, area: memoryview) -> Iterator[memoryview]:
    """Yield the stream whose view is `area`, in a temporary file; FormatError if a member comes out too short."""
    with scratch(view.stream_size) as stream:
        position = 0
        for piece in view.pieces(0, view.rest_bytes):
            stream[piece.offset : piece.offset + piece.length] = area[position : position + piece.length]
            position += piece.length
        for member in view.members:
            place = member.offset
            plain = recipes.blocks(area[position : position + member.plain])
            for block in recipes.pack(member.recipe, plain, member.packed):
                stream[place : place + len(block)] = block
                place += len(block)
            position += member.plain
        yield stream


@contextmanager
def scratch(size: int) -> Iterator[memoryview]:
    """Yield `size` writable bytes in a temporary file."""
    with temporary_folder("modelsync-read-") as folder, mapped(folder / "stream", size=size) as area:
        yield area
